"""Decoding, against Pillow and against pixels written by hand."""

from __future__ import annotations

import io
import os
import resource
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms
from torchvision.transforms import CenterCrop, Compose, Resize
from torchvision.transforms import functional as transforms
from torchvision.transforms.functional import _compute_resized_output_size

from alexnet_exp.data.augment import center_crop
from alexnet_exp.data.decode import _square, read_image, read_images
from alexnet_exp.data.image_files import FileStamp
from alexnet_exp.errors import UserError
from alexnet_exp.kernels import images as kernels

# Red, green / blue, white in large squares: JPEG preserves them, and every rotation is visible.
QUARTERS = np.kron(
    np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8),
    np.ones((16, 16, 1), dtype=np.uint8),
)


def corners(path: Path) -> list[list[int]]:
    """Returns the colours of the four quarters, clockwise from the upper left, rounded to 0 or 255."""
    image = read_image(path, 32)
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.uint8)
    return [(image[:, y, x] > 127).int().mul(255).tolist() for y, x in ((6, 6), (6, 25), (25, 25), (25, 6))]


RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.gif", "a.webp", "a.tif", "a.ppm"])
def test_colours_of_every_format(tmp_path: Path, name: str) -> None:
    Image.fromarray(QUARTERS).save(tmp_path / name)
    assert corners(tmp_path / name) == [RED, GREEN, WHITE, BLUE]


def test_format_is_detected_by_content(tmp_path: Path) -> None:
    Image.fromarray(QUARTERS).save(tmp_path / "a.jpg", format="PNG")
    assert torch.equal(read_image(tmp_path / "a.jpg", 32), torch.from_numpy(QUARTERS).permute(2, 0, 1))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    cmyk = Image.fromarray(QUARTERS).convert("CMYK")
    cmyk.save(tmp_path / "a.jpg", quality=95)
    assert Image.open(tmp_path / "a.jpg").mode == "CMYK"
    assert corners(tmp_path / "a.jpg") == [RED, GREEN, WHITE, BLUE]


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, name: str) -> None:
    grey = np.arange(32, dtype=np.uint8).repeat(32).reshape(32, 32) * 8
    Image.fromarray(grey).save(tmp_path / name, quality=100)
    image = read_image(tmp_path / name, 32)
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])
    assert (image[0].int() - torch.from_numpy(grey).int()).abs().max() <= 2


def test_16_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    ramp = (np.arange(32 * 32, dtype=np.uint16) * 64).reshape(32, 32)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png", 32)[1], torch.from_numpy((ramp // 256).astype(np.uint8)))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(1, [RED, GREEN, WHITE, BLUE]), (3, [WHITE, BLUE, RED, GREEN]), (6, [BLUE, RED, GREEN, WHITE])],
)
def test_exif_rotation_is_applied(tmp_path: Path, name: str, orientation: int, turned: list[list[int]]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(QUARTERS).save(tmp_path / name, exif=exif)
    assert corners(tmp_path / name) == turned


def test_transparent_palette_becomes_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.kron(np.array([[0, 1], [2, 0]], np.uint8), np.ones((16, 16), np.uint8)), mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=bytes([0, 255, 255]))
    assert corners(tmp_path / "a.png") == [WHITE, RED, WHITE, BLUE]


def test_half_transparent_colour_is_blended_with_white(tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (0, 0, 0, 51)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 32).unique().tolist() == [204]


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (40, 20), (32, 48)])
def test_resize_and_center_crop_equal_pillow(tmp_path: Path, size: tuple[int, int]) -> None:
    smooth = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(smooth).resize(size, Image.Resampling.BICUBIC)
    image.save(tmp_path / "a.png")
    short = min(size)
    width, height = size[0] * 32 // short, size[1] * 32 // short
    left, top = round((width - 32) / 2), round((height - 32) / 2)
    expected = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 32, top + 32))
    difference = read_image(tmp_path / "a.png", 32).int() - torch.from_numpy(np.array(expected)).permute(2, 0, 1).int()
    assert difference.abs().max() <= 1


def test_central_crop_equals_torchvision_for_every_size() -> None:
    """Pixels of the central 224 after resizing the short side to 256, for every height and width from 224 to 600."""
    places = set()
    for height in range(224, 601):
        for width in range(224, 601):
            short = min(height, width)
            resized = [256 if side == short else int(256 * side / short) for side in (height, width)]
            assert resized == [side * 256 // short for side in (height, width)]
            assert resized == list(_compute_resized_output_size((height, width), [256]))
            places |= set(resized)
    for long in sorted(places):
        columns = torch.arange(long, dtype=torch.int16).expand(1, 256, long)
        for image in (columns, columns.transpose(1, 2)):
            ours = center_crop(_square(image, 256)[None], 224)[0]
            assert torch.equal(ours, transforms.center_crop(image, [224, 224])), long


@pytest.mark.parametrize(("size", "crop"), [(72, 64), (32, 28), (256, 224), (64, 56), (40, 32)])
def test_central_crop_of_other_sizes_equals_torchvision(size: int, crop: int) -> None:
    for long in range(size, 3 * size):
        columns = torch.arange(long, dtype=torch.int16).expand(1, size, long)
        ours = center_crop(_square(columns, size)[None], crop)[0]
        assert torch.equal(ours, transforms.center_crop(columns, [crop, crop])), long


@pytest.mark.parametrize("kind", ["noise", "black and white", "smooth"])
def test_pixels_equal_pillow_within_the_documented_tolerance(kind: str) -> None:
    """docs/guides/large-images.md: at most 2 of 255 in any pixel, 0.3 in the mean of an image, 0.02 in that of most."""
    random = np.random.default_rng(0)
    source = random.integers(0, 256, (600, 600, 3), dtype=np.uint8)
    if kind == "black and white":
        source = (source > 127).astype(np.uint8) * 255
    if kind == "smooth":
        source = np.asarray(Image.fromarray(source[:30, :30]).resize((600, 600), Image.Resampling.BICUBIC))
    reference = Compose([Resize(256), CenterCrop(224)])
    means = []
    for _ in range(25):
        height, width = random.integers(224, 601, 2).tolist()
        pixels = np.ascontiguousarray(source[:height, :width])
        ours = center_crop(_square(torch.from_numpy(pixels).permute(2, 0, 1), 256)[None], 224)[0]
        theirs = torch.from_numpy(np.array(reference(Image.fromarray(pixels)))).permute(2, 0, 1)
        difference = (ours.int() - theirs.int()).abs()
        assert difference.max() <= 2
        means.append(float(difference.double().mean()))
    assert max(means) < 0.3
    assert sorted(means)[len(means) // 2] < 0.02


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_native_resize_equals_torch(channels: int, size: int) -> None:
    if kernels.library() is None:
        pytest.skip("no native kernels here")
    random = np.random.default_rng(size)
    made = 0
    for number in range(60):
        height, width = random.integers(9, 150, 2).tolist()
        pixels = torch.from_numpy(random.integers(0, 256, (height, width, channels), dtype=np.uint8)).permute(2, 0, 1)
        if number % 3 == 0:
            pixels = (pixels > 127).to(torch.uint8) * 255  # rounding to 256 would be visible
        short = min(height, width)
        tall, wide = height * size // short, width * size // short
        top, left = (int(random.integers(side - size + 1)) for side in (tall, wide))
        square = kernels.resized_square(pixels, (tall, wide), (top, left), size)
        resized = F.interpolate(pixels[None], (tall, wide), mode="bilinear", antialias=True)[0]
        if square is not None:
            made += 1
            assert torch.equal(square, resized[:, top : top + size, left : left + size])
    # no native kernel without its instructions, or for a reduction to less than half
    assert made == 0 or made > 5


@pytest.mark.parametrize(
    ("size", "place"), [(0, (0, 0)), (-16, (0, 0)), (16, (-1, 0)), (16, (0, 2)), (16, (2, 0)), (32, (0, 0))]
)
def test_native_resize_does_not_read_outside_the_image(size: int, place: tuple[int, int]) -> None:
    if kernels.library() is None:
        pytest.skip("no native kernels here")
    pixels, square = torch.from_numpy(QUARTERS).permute(2, 0, 1), torch.zeros(3 * 32 * 32, dtype=torch.uint8)
    arguments = (pixels.data_ptr(), *pixels.shape[1:], 3, 17, 17, *place, size, square.data_ptr())
    assert kernels.library().resize_square(*arguments) == 0
    assert not square.any()


def test_native_resize_leaves_other_inputs_to_torch() -> None:
    pixels = torch.from_numpy(QUARTERS).permute(2, 0, 1)
    assert kernels.resized_square(pixels.contiguous(), (16, 16), (0, 0), 16) is None, "not as a decoder lays it out"
    assert kernels.resized_square(pixels, (20, 20), (0, 0), 20) is None, "not a multiple of 16"
    assert kernels.resized_square(pixels.float(), (16, 16), (0, 0), 16) is None


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def one_line_about(path: Path | str, **stamp: FileStamp) -> str:
    """Returns the one-line error for `path`, without the path at its start."""
    with pytest.raises(UserError) as error:
        read_image(path, 32, **stamp)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert text.isprintable()
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif", "a.png"])
def test_first_of_several_frames_is_used(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(np.full((32, 32, 3), value, dtype=np.uint8)) for value in range(100, 250, 2)]
    frames[0] = Image.fromarray(QUARTERS)
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / name).n_frames > 20  # type: ignore[attr-defined]
    assert corners(tmp_path / name) == [RED, GREEN, WHITE, BLUE]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif"])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 3)])
def test_smallest_images_are_decoded(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (255, 255, 255)).save(tmp_path / name)
    image = read_image(tmp_path / name, 32)
    assert (image.shape, image.dtype, image.unique().tolist()) == ((3, 32, 32), torch.uint8, [255])


def declared_png(width: int, height: int) -> bytes:
    """Returns a PNG that declares this size; its pixel data is one byte."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, data, b"IEND")
    )


def declared_jpeg(width: int, height: int) -> bytes:
    """Returns a complete small JPEG whose frame header declares another size."""
    content = encoded("JPEG")
    at = content.index(b"\xff\xc0")
    return content[: at + 5] + struct.pack(">HH", height, width) + content[at + 9 :]


@pytest.mark.parametrize(("kind", "declared"), [("png", declared_png), ("jpg", declared_jpeg)])
@pytest.mark.parametrize("size", [(30_000, 30_000), (60_000, 3_000)])
def test_decompression_bomb_is_rejected_before_allocation(
    tmp_path: Path, kind: str, declared: Callable[[int, int], bytes], size: tuple[int, int]
) -> None:
    path = tmp_path / f"bomb.{kind}"
    path.write_bytes(declared(*size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "pixels" in one_line_about(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB; the smaller has 540 MB


def test_image_with_a_false_declared_size_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(declared_png(900, 700))
    assert one_line_about(tmp_path / "a").startswith("unreadable image (")


def test_extremely_thin_image_is_rejected(tmp_path: Path) -> None:
    """Resized to a short side of 256, it would have 2 GB."""
    Image.new("L", (30_000, 1)).save(tmp_path / "line.png")
    with pytest.raises(UserError, match=r"line\.png: unreadable .*\(7680000 x 256 is more than 178956970 pixels"):
        read_image(tmp_path / "line.png", 256)


@pytest.mark.parametrize(("mode", "name"), [("CMYK", "a.tif"), ("LAB", "a.tif"), ("YCbCr", "a.tif"), ("P", "a.png")])
def test_rare_pixel_modes_are_decoded(tmp_path: Path, mode: str, name: str) -> None:
    colour = Image.new("RGB", (32, 32), (200, 50, 50))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(colour, *profiles, outputMode=mode)
        assert image is not None
    else:
        image = colour.convert(mode)
    image.save(tmp_path / name)
    assert Image.open(tmp_path / name).mode == mode
    assert (read_image(tmp_path / name, 32)[:, 4, 4].int() - torch.tensor([200, 50, 50])).abs().max() <= 5


@pytest.mark.parametrize("order", "<>")
def test_16_bit_tiff_of_both_byte_orders(tmp_path: Path, order: str) -> None:
    """A TIFF written by hand: fields (tag, type, count, value), pixels after the header."""
    pixels = np.full((32, 32), 200 * 256 + 7, dtype=f"{order}u2").tobytes()
    fields = [(256, 32), (257, 32), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 32), (279, len(pixels))]
    content = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8 + len(pixels)) + pixels
    content += struct.pack(f"{order}H", len(fields))
    content += b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in fields)
    (tmp_path / "a.tif").write_bytes(content + struct.pack(f"{order}I", 0))
    assert read_image(tmp_path / "a.tif", 32).unique().tolist() == [200]


def test_float_pixels_are_rejected(tmp_path: Path) -> None:
    Image.fromarray(np.full((32, 32), 0.5, dtype=np.float32)).save(tmp_path / "a.tif")
    assert "floating-point" in one_line_about(tmp_path / "a.tif")


def test_empty_file_and_folder_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    assert "the file is empty" in one_line_about(tmp_path / "empty.jpg")
    (tmp_path / "folder.jpg").mkdir()
    assert one_line_about(tmp_path / "folder.jpg") == "cannot be read (Is a directory); replace or remove it"


def test_file_names_of_any_bytes_are_read(tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", b"two\nlines.png", b"\x1b[31m.png"):
        path = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118
        Image.fromarray(QUARTERS).save(tmp_path / "plain.png")
        (tmp_path / "plain.png").rename(os.fsdecode(path))
        assert read_image(os.fsdecode(path), 32).shape == (3, 32, 32)
        Path(os.fsdecode(path)).write_bytes(b"broken")
        with pytest.raises(UserError) as error:
            read_image(os.fsdecode(path), 32)
        assert str(error.value).isprintable(), "any terminal and log can take it, in one line"


def test_changed_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(QUARTERS).save(path)
    noted = FileStamp.of(path.stat())
    assert read_image(path, 32, noted).shape == (3, 32, 32)
    os.utime(path, ns=(noted.mtime_ns, noted.mtime_ns + 4_000_000))
    told = one_line_about(path, stamp=noted)
    assert told.startswith("has changed since the data was opened (another modification time); restore the file")
    with path.open("ab") as file:
        file.write(b"more")
    assert f"({noted.size + 4} bytes instead of {noted.size})" in one_line_about(path, stamp=noted)
    path.unlink()
    assert one_line_about(path, stamp=noted) == (
        "cannot be read (No such file or directory); restore the file and resume the run, or start a new run"
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", encoded("JPEG")[:900], encoded("JPEG")[:30], encoded("PNG")[:900], encoded("GIF")[:40]],
    ids=["empty", "text", "jpeg", "jpeg-head", "png", "gif"],
)
def test_error_names_a_file_that_is_not_an_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_image(path, 32)
    assert str(error.value).startswith(f"{path}: unreadable image (")
    assert "\n" not in str(error.value)


def test_error_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png", 32)


def test_heic_with_another_suffix_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic")
    with pytest.raises(UserError, match="HEIC images are not supported; convert it to JPEG"):
        read_image(path, 32)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\n%%EOF\n"


def test_no_program_is_run_for_eps_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would run Ghostscript on an EPS file."""
    ran = tmp_path / "ran"
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {ran}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = tmp_path / "cat.png"
    path.write_bytes(EPS)
    with pytest.raises(UserError, match="unknown format"):
        read_image(path, 32)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["a.pcx", "a.tga", "a.ico", "a.icns", "a.sgi", "a.xbm"])
def test_unlisted_formats_are_not_parsed(tmp_path: Path, name: str) -> None:
    mode = "1" if name == "a.xbm" else "RGB"
    Image.new(mode, (32, 32)).save(tmp_path / name)
    with pytest.raises(UserError, match="unknown format"):
        read_image(tmp_path / name, 32)


def test_jpeg_with_endless_markers_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\xff\xd8" + b"\xff" * 50_000_000)
    start = time.process_time()
    with pytest.raises(UserError, match="no frame header in its first 10,000 markers"):
        read_image(path, 32)
    assert time.process_time() - start < 2


def test_transparent_value_of_16_bit_grey_becomes_white(tmp_path: Path) -> None:
    pixels = np.full((16, 16), 30_000, np.uint16)
    pixels[:8] = 5
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=5)
    image = read_image(tmp_path / "a.png", 16)
    assert image[0, 0, 0] == 255
    assert image[0, 15, 0] == 30_000 >> 8


@pytest.mark.parametrize("broken", [3, 150])
def test_error_names_all_unreadable_files(tmp_path: Path, broken: int) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(200)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8)).save(path)
        if i < broken:
            path.write_bytes(b"broken")
    with pytest.raises(UserError) as error:
        list(read_images([(str(path), FileStamp.of(path.stat())) for path in paths], 8))
    lines = str(error.value).splitlines()
    named = min(broken, 20)
    assert [line.partition(":")[0] for line in lines[:named]] == [str(path) for path in paths[:named]]
    assert lines[named:] == (["these are the first 20 unreadable files; there may be more"] * (broken > 20))


def test_images_are_read_in_order_until_an_unreadable_one(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{i}.png") for i in range(150)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8), (i, i, i)).save(path)
    files = [(path, FileStamp.of(Path(path).stat())) for path in paths]
    assert [int(image[0, 0, 0]) for image in read_images(files, 8)] == list(range(150))
    Path(paths[77]).write_bytes(b"broken")
    with pytest.raises(UserError, match=r"77\.png"):
        list(read_images(files, 8))
