"""Random image folders: opened with the pixels of Pillow, or rejected in one line that names the file."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from alexnet_exp.data.decode import read_image
from alexnet_exp.data.folder import open_folder
from alexnet_exp.data.info import data_info
from alexnet_exp.data.spec import Folder
from alexnet_exp.errors import UserError, one_line
from tests.fuzz.clear import check
from tests.fuzz.damage import damaged
from tests.fuzz.hunting import hunt

# Pixel modes of each format, by suffix.
KINDS = {
    "PNG": ("png", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    "JPEG": ("jpg", ["L", "RGB", "CMYK"]),
    "GIF": ("gif", ["1", "L", "P", "RGB"]),
    "BMP": ("bmp", ["1", "L", "P", "RGB"]),
    "WEBP": ("webp", ["RGB", "RGBA"]),
    "TIFF": ("tiff", ["1", "L", "P", "RGB", "CMYK", "F", "I;16"]),
}
SIDES = st.sampled_from([1, 2, 3, 7, 8, 13, 31, 64])
# Two decoders of JPEG may round differently
OF_JPEG = 2


@st.composite
def pictures(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draws a file's suffix and content."""
    format_name = draw(st.sampled_from(sorted(KINDS)))
    suffix, modes = KINDS[format_name]
    mode, width, height = draw(st.sampled_from(modes)), draw(SIDES), draw(SIDES)
    random = np.random.default_rng(draw(st.integers(0, 99)))
    if mode == "I;16":
        image = Image.fromarray(random.integers(0, 2**16, (height, width), dtype=np.uint16))
    else:
        channels = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
        image = Image.fromarray(channels).convert("RGB" if mode != "RGBA" else "RGBA").convert(mode)
    options: dict[str, object] = {}
    if mode == "P" and format_name in ("PNG", "GIF") and draw(st.booleans()):
        options["transparency"] = draw(st.integers(0, 255))
    if format_name == "WEBP":
        options["lossless"] = True
    into = io.BytesIO()
    image.save(into, format_name, **options)
    return suffix, into.getvalue()


def as_pillow_sees_it(file: Path) -> np.ndarray:
    """Returns uint8 [H, W, 3]: upright, transparency white, 16 bits reduced to 8."""
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):
            return np.repeat((np.asarray(image).astype(np.int64) // 256).astype(np.uint8)[..., None], 3, axis=2)
        if "A" in image.mode or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
        return np.asarray(image.convert("RGB"))


def square(pixels: np.ndarray) -> np.ndarray:
    """Returns the central square, rounded half to even like torchvision's CenterCrop."""
    side = min(pixels.shape[:2])
    top, left = (round((length - side) / 2) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


@settings(settings.get_profile("fuzz"), max_examples=150)
@given(pictures())
def test_decoded_image_equals_pillow(tmp_path: Path, picture: tuple[str, bytes]) -> None:
    suffix, content = picture
    file = tmp_path / f"image.{suffix}"
    file.write_bytes(content)
    with Image.open(file) as image:
        side, is_float = min(image.size), image.mode == "F"
    if is_float:
        with pytest.raises(UserError, match="floating-point"):
            read_image(file, side)
        return
    there = read_image(file, side).permute(1, 2, 0).numpy().astype(int)
    wanted = square(as_pillow_sees_it(file)).astype(int)
    assert there.shape == wanted.shape
    assert np.abs(there - wanted).max() <= (OF_JPEG if suffix == "jpg" else 0)


@st.composite
def bad_pictures(draw: st.DrawFn) -> tuple[str, bytes]:
    suffix, content = draw(pictures())
    other = draw(st.integers(0, 9))
    if other == 0:
        return suffix, draw(st.binary(max_size=200))
    if other == 1:  # a file of another format with this name
        return draw(st.sampled_from([kind for kind, _ in KINDS.values()])), content
    return suffix, draw(damaged(content))


def read_or_refused(tmp_path: Path, picture: tuple[str, bytes], size: int) -> None:
    suffix, content = picture
    file = tmp_path / f"image.{suffix}"
    file.write_bytes(content)
    try:
        image = read_image(file, size)
    except UserError as refused:
        check(refused, str(file))
    else:
        assert image.dtype == torch.uint8
        assert image.shape == (3, size, size)


@settings(settings.get_profile("fuzz"), max_examples=100)
@given(bad_pictures(), st.sampled_from([1, 8, 40]))
def test_damaged_image_is_read_or_rejected_by_name(tmp_path: Path, picture: tuple[str, bytes], size: int) -> None:
    read_or_refused(tmp_path, picture, size)


@pytest.mark.slow
@hunt(1500)
@given(bad_pictures(), st.sampled_from([1, 8, 40]))
def test_many_damaged_images_are_read_or_rejected_by_name(
    tmp_path: Path, picture: tuple[str, bytes], size: int
) -> None:
    read_or_refused(tmp_path, picture, size)


NAMES = st.one_of(
    st.sampled_from(
        ["a b", "a\nb", "a\tb", ".hidden", "é", "\udcff", "\u202e", "'", '"', "-x", "~", "$HOME", "a" * 200, "train"]
    ),
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=8).filter(
        lambda name: name not in (".", "..")
    ),
)
THINGS = st.sampled_from(
    ["image", "image", "image", "damaged", "text", "empty", "folder", "loop", "broken link", "deep"]
)


@settings(settings.get_profile("fuzz"), max_examples=100)
@given(st.lists(st.tuples(NAMES, st.lists(st.tuples(NAMES, THINGS, bad_pictures()), max_size=4)), max_size=4))
def test_any_folder_is_opened_or_rejected_in_one_line(
    tmp_path: Path, classes: list[tuple[str, list[tuple[str, str, tuple[str, bytes]]]]]
) -> None:
    root = tmp_path / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    good = io.BytesIO()
    Image.new("RGB", (16, 16), (1, 2, 3)).save(good, "PNG")
    for class_name, entries in classes:
        folder = root / class_name
        folder.mkdir(exist_ok=True)
        for name, thing, (suffix, content) in entries:
            put(folder, name, thing, suffix, content, good.getvalue())
    spec = Folder(root=str(root), size=16)
    try:
        known = data_info(spec)
        source = open_folder(spec)
    except UserError as refused:
        check(refused, given=one_line(str(root)) + repr(classes))
        return
    assert source.classes == known.classes
    inside = [path for path in (root / "train").glob("*") if path.is_dir() and not path.name.startswith(".")]
    train = root / "train" if inside else root
    images = [path for name in source.classes for path in (train / name).iterdir() if named_as_an_image(path)]
    assert len(source.train.labels) == len(images)


def named_as_an_image(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower()[1:] in {suffix for suffix, _ in KINDS.values()}


def put(folder: Path, name: str, thing: str, suffix: str, content: bytes, good: bytes) -> None:
    file = folder / f"{name}.{suffix}"
    if file.exists() or file.is_symlink():
        return
    if thing == "image":
        file.with_name(f"{name}.png").write_bytes(good)
    elif thing == "damaged":
        file.write_bytes(content)
    elif thing == "text":
        (folder / f"{name}.txt").write_bytes(content)
    elif thing == "empty":
        file.write_bytes(b"")
    elif thing == "folder":
        file.mkdir()
    elif thing == "loop":
        file.symlink_to(folder)
    elif thing == "broken link":
        file.symlink_to(folder / "nothing")
    else:
        (folder / f"{name}.deep" / "b").mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.deep" / "b" / f"c.{suffix}").write_bytes(content)
