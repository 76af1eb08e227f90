"""Decoding image files: any common format to RGB, upright, square."""

from __future__ import annotations

import io
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from alexnet_exp.data.augment import center_margin
from alexnet_exp.data.formats import open_picture
from alexnet_exp.data.image_files import FileStamp, heic_message, unreadable_message
from alexnet_exp.data.info import MOST_REPORTED_FILES
from alexnet_exp.errors import UserError, one_line
from alexnet_exp.kernels.images import resized_square
from alexnet_exp.processes.cpus import cores

JPEG_START = b"\xff\xd8\xff"
# The markers of a JPEG's frame header, which has its size; the three left out are tables.
JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
# Of a file that declares more no memory is asked for: it may be a trap, and is no photograph. The limit is Pillow's,
# which warns, in two lines, from half of it on.
MOST_IMAGE_PIXELS = 178_956_970
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
RESTORE_ADVICE = "bring it back and resume the run, or start a new one"
# A JPEG's frame header comes after a few tables and comments; a file with more markers was made to be slow.
MOST_MARKERS = 10_000
# Below this many images a progress bar is noise.
PROGRESS_MIN_IMAGES = 2000
# What a thread is given at once: small images decode faster than tasks change hands.
CHUNK_IMAGES = 64


class BrokenImagesError(UserError):
    """Image files that cannot be read, a line each."""


def read_image(
    path: str | Path, size: int, stamp: FileStamp | None = None, instead: str = "replace or remove it"
) -> Tensor:
    """uint8 [3, size, size]: the short side resized to `size` (bilinear, antialiased), then the centre square.

    Grey becomes three equal channels, CMYK and palettes RGB, transparency white; EXIF rotation is applied. Of several
    frames the first is taken. Raises UserError with the path for a file that is missing, truncated, HEIC or no image,
    has more pixels than `MOST_PIXELS`, or is another one than `stamp` says; `instead` is what it advises for no image.
    """
    data = _read_bytes(path, stamp)
    try:
        start = data[:64].tobytes()
        # an AVIF may name mif1 as well, and Pillow reads it
        if start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS and b"avif" not in start:
            raise UserError(heic_message(path))
        return _square(_decode(data), size).expand(3, -1, -1).contiguous()
    except UserError:
        raise
    # a damaged file makes a decoder raise almost anything: struct.error, zlib.error, IndexError
    except Exception as error:
        told = f"not an image that can be read; {instead} ({_reason(error)})"
        raise UserError(f"{one_line(path)}: {told}") from error


def _read_bytes(path: str | Path, stamp: FileStamp | None) -> NDArray[np.uint8]:
    """The bytes of a file that is still what `stamp` says."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (a million of them)
            data = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
            read = file.readinto(data.data) if len(data) else 0
            # after it was read: whoever writes into it meanwhile is noticed
            now = FileStamp.of(os.fstat(file.fileno()))
    except OSError as error:
        # a run's files are counted and numbered: one that is gone cannot be left out
        instead = "replace or remove it" if stamp is None else RESTORE_ADVICE
        raise UserError(unreadable_message(path, error, instead)) from error
    if stamp is not None and now != stamp:
        was = "another time of change" if now.size == stamp.size else f"{now.size:,} bytes, they were {stamp.size:,}"
        raise UserError(f"{one_line(path)}: has changed since the data were opened ({was}); {RESTORE_ADVICE}")
    return data[:read]


def read_images(files: Sequence[tuple[str, FileStamp]], size: int, doing: str = "") -> Iterator[Tensor]:
    """`read_image` of each file, in order, decoded by a thread a core; `doing` names a progress bar on stderr.

    Raises one BrokenImagesError, a line each, for all files that cannot be read, `MOST_BROKEN` at most. No image is
    given behind the first of them.
    """
    from rich.console import Console
    from rich.progress import track

    quiet = not doing or len(files) < PROGRESS_MIN_IMAGES
    yield from track(_in_chunks(files, size), doing, len(files), disable=quiet, console=Console(stderr=True))


def _in_chunks(files: Sequence[tuple[str, FileStamp]], size: int) -> Iterator[Tensor]:
    """At most two chunks a thread are ahead of the reader, who may be slower than they are: a disk."""
    chunks = iter([files[start : start + CHUNK_IMAGES] for start in range(0, len(files), CHUNK_IMAGES)])
    broken: list[UserError] = []
    with ThreadPoolExecutor(cores()) as threads:
        ahead = deque(threads.submit(_read_chunk, size, chunk) for chunk in islice(chunks, 2 * cores()))
        try:
            while ahead and len(broken) < MOST_REPORTED_FILES:
                images = ahead.popleft().result()
                ahead.extend(threads.submit(_read_chunk, size, chunk) for chunk in islice(chunks, 1))
                for image in images:
                    if isinstance(image, UserError):
                        broken.append(image)
                    elif not broken:
                        yield image
        finally:
            for future in ahead:
                future.cancel()
    if broken:
        lines = [str(error) for error in broken[:MOST_REPORTED_FILES]]
        if len(broken) >= MOST_REPORTED_FILES:
            lines.append(f"these are the first {MOST_REPORTED_FILES} files that cannot be read; there may be more")
        raise BrokenImagesError("\n".join(lines)) from broken[0]


def _read_chunk(size: int, files: Sequence[tuple[str, FileStamp]]) -> list[Tensor | UserError]:
    found: list[Tensor | UserError] = []
    for path, stamp in files:
        try:
            found.append(read_image(path, size, stamp))
        except UserError as error:
            found.append(error)
    return found


def _decode(data: NDArray[np.uint8]) -> Tensor:
    """uint8 [3, H, W]; [1, H, W] for a grey JPEG."""
    if not len(data):
        raise ValueError("the file is empty")
    if data[:3].tobytes() == JPEG_START:
        _check_pixel_count(*_jpeg_size(data))
        pixels: Tensor = decode_jpeg(torch.from_numpy(data), ImageReadMode.UNCHANGED, apply_exif_orientation=True)
        # libjpeg leaves CMYK to its caller; Pillow knows Adobe's inverted kind
        if len(pixels) != 4:
            return pixels
    with open_picture(io.BytesIO(data.tobytes())) as image:
        rgb = _rgb(ImageOps.exif_transpose(image))
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _jpeg_size(data: NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width by the frame header; 0, 0 where there is none, of which the decoder tells."""
    at = 2
    for _ in range(MOST_MARKERS):
        if at + 9 > len(data) or data[at] != 0xFF:
            return 0, 0
        marker = data[at + 1]
        if marker in JPEG_FRAMES:
            return int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    raise ValueError(f"no frame header among its first {MOST_MARKERS:,} markers")


def _check_pixel_count(height: int, width: int) -> None:
    if height * width > MOST_IMAGE_PIXELS:
        raise ValueError(f"{width} x {height} are more than {MOST_IMAGE_PIXELS} pixels")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which nothing says the range")
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255
        values = np.asarray(image)
        grey = (values.clip(0, 65535) >> 8).astype(np.uint8)
        if isinstance(image.info.get("transparency"), int):
            grey[values == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _square(pixels: Tensor, size: int) -> Tensor:
    height, width = pixels.shape[-2:]
    short = min(height, width)
    if short != size:
        height, width = height * size // short, width * size // short
        _check_pixel_count(height, width)
    top, left = center_margin(height - size), center_margin(width - size)
    if short != size:
        square = resized_square(pixels, (height, width), (top, left), size)
        if square is not None:
            return square
        pixels = F.interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)[0]
    return pixels[:, top : top + size, left : left + size]


def _reason(error: Exception) -> str:
    """The error's first line, or what of it tells a user something."""
    if isinstance(error, UnidentifiedImageError):  # its own words name a buffer in memory
        return "no format that is known"
    if isinstance(error, Image.DecompressionBombError):  # "Image size (N pixels) exceeds limit of M pixels, could be"
        return str(error).partition(",")[0]
    line = (str(error).splitlines() or [""])[0]
    if isinstance(error, RuntimeError):  # torchvision's has source file and line before it
        line = line.rsplit(", ", 1)[-1]
    return one_line(line) or type(error).__name__
