"""Provides the decoding of image files of common formats to upright RGB squares."""

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

from alexnet_exp.data.augment import center_margin
from alexnet_exp.data.formats import open_picture
from alexnet_exp.data.image_files import FileStamp, heic_message, unreadable_message
from alexnet_exp.data.info import MOST_REPORTED_FILES
from alexnet_exp.errors import UserError, one_line
from alexnet_exp.kernels.images import resized_square
from alexnet_exp.processes.cpus import cores

JPEG_START = b"\xff\xd8\xff"
# Markers of the frame header of a JPEG, which contains its size; the three excluded ones are tables.
JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
# Larger files are rejected before memory is allocated: they are decompression bombs, not photographs. The limit is that
# of Pillow, which also warns, in two lines, from half of it on.
MOST_IMAGE_PIXELS = 178_956_970
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
RESTORE_ADVICE = "restore the file and resume the run, or start a new run"
# The frame header of a JPEG follows a few tables and comments; a file with more markers is meant to be slow.
MOST_MARKERS = 10_000
# Fewer images are decoded without a progress bar.
PROGRESS_MIN_IMAGES = 2000
# Images per task of a thread: single small images decode faster than a task is scheduled.
CHUNK_IMAGES = 64


class BrokenImagesError(UserError):
    """Unreadable image files, one line each."""


def read_image(
    path: str | Path, size: int, stamp: FileStamp | None = None, advice: str = "replace or remove it"
) -> Tensor:
    """Returns the image as uint8 [3, size, size]: short side resized to `size` (bilinear, antialiased), central square.

    Grey becomes three equal channels, CMYK and palettes RGB, transparency white; EXIF rotation is applied. The first
    one of several frames is used. Raises UserError with the path for a file that is missing, truncated, HEIC or not an
    image, that has more than `MOST_IMAGE_PIXELS`, or that has changed since `stamp`.

    advice: what the error message recommends for an unreadable image.
    """
    data = _read_bytes(path, stamp)
    try:
        start = data[:64].tobytes()
        # an AVIF may also name mif1, and Pillow can read it
        if start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS and b"avif" not in start:
            raise UserError(heic_message(path))
        return _square(_decode(data), size).expand(3, -1, -1).contiguous()
    except UserError:
        raise
    # decoders raise many types for a damaged file: struct.error, zlib.error, IndexError
    except Exception as error:
        raise UserError(f"{one_line(path)}: unreadable image ({_reason(error)}); {advice}") from error


def _read_bytes(path: str | Path, stamp: FileStamp | None) -> NDArray[np.uint8]:
    """Returns the bytes of a file. Raises UserError if it cannot be read or has changed since `stamp`."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (fast for a million files)
            data = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
            read = file.readinto(data.data) if len(data) else 0
            # after reading, so that a concurrent write is detected
            now = FileStamp.of(os.fstat(file.fileno()))
    except OSError as error:
        # a run counts and numbers its files, so a missing one cannot be skipped
        advice = "replace or remove it" if stamp is None else RESTORE_ADVICE
        raise UserError(unreadable_message(path, error, advice)) from error
    if stamp is not None and now != stamp:
        change = (
            "another modification time" if now.size == stamp.size else f"{now.size:,} bytes instead of {stamp.size:,}"
        )
        raise UserError(f"{one_line(path)}: has changed since the data was opened ({change}); {RESTORE_ADVICE}")
    return data[:read]


def read_images(files: Sequence[tuple[str, FileStamp]], size: int, title: str = "") -> Iterator[Tensor]:
    """Yields `read_image` of each file, in order, decoded by one thread per core.

    title: text of a progress bar on stderr; empty = no progress bar. Raises one BrokenImagesError with a line for each
    of up to `MOST_REPORTED_FILES` unreadable files. No image after the first of them is yielded.
    """
    from rich.console import Console
    from rich.progress import track

    quiet = not title or len(files) < PROGRESS_MIN_IMAGES
    yield from track(_in_chunks(files, size), title, len(files), disable=quiet, console=Console(stderr=True))


def _in_chunks(files: Sequence[tuple[str, FileStamp]], size: int) -> Iterator[Tensor]:
    """Yields images decoded at most two chunks per thread ahead of the consumer, which may be slower, as a disk is."""
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
            lines.append(f"these are the first {MOST_REPORTED_FILES} unreadable files; there may be more")
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
    """Returns the pixels as uint8 [3, H, W], or [1, H, W] for a grey JPEG."""
    if not len(data):
        raise ValueError("the file is empty")
    if data[:3].tobytes() == JPEG_START:
        _check_pixel_count(*_jpeg_size(data))
        # here, because it imports all of torchvision and with it torch._dynamo, for two seconds
        from torchvision.io import ImageReadMode, decode_jpeg

        pixels: Tensor = decode_jpeg(torch.from_numpy(data), ImageReadMode.UNCHANGED, apply_exif_orientation=True)
        # libjpeg does not convert CMYK; Pillow also handles the inverted CMYK of Adobe
        if len(pixels) != 4:
            return pixels
    with open_picture(io.BytesIO(data.tobytes())) as image:
        rgb = _rgb(ImageOps.exif_transpose(image))
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _jpeg_size(data: NDArray[np.uint8]) -> tuple[int, int]:
    """Returns height and width by the frame header, or 0, 0 without one, which the decoder then reports."""
    at = 2
    for _ in range(MOST_MARKERS):
        if at + 9 > len(data) or data[at] != 0xFF:
            return 0, 0
        marker = data[at + 1]
        if marker in JPEG_FRAMES:
            return int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    raise ValueError(f"no frame header in its first {MOST_MARKERS:,} markers")


def _check_pixel_count(height: int, width: int) -> None:
    if height * width > MOST_IMAGE_PIXELS:
        raise ValueError(f"{width} x {height} is more than {MOST_IMAGE_PIXELS} pixels")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):
        # 16-bit grey: the conversion of Pillow clips at 255
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
    """Returns the informative part of the error's first line."""
    if isinstance(error, UnidentifiedImageError):  # its text names a buffer in memory
        return "unknown format"
    if isinstance(error, Image.DecompressionBombError):  # "Image size (N pixels) exceeds limit of M pixels, could be"
        return str(error).partition(",")[0]
    line = (str(error).splitlines() or [""])[0]
    if isinstance(error, RuntimeError):  # torchvision puts source file and line before the text
        line = line.rsplit(", ", 1)[-1]
    return one_line(line) or type(error).__name__
