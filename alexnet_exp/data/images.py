"""Decoding image files: any common format to RGB, upright, square."""

from __future__ import annotations

import io
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

from alexnet_exp.cores import cores
from alexnet_exp.data.listing import heic
from alexnet_exp.kernels.images import centre_square
from alexnet_exp.settings import UserError

JPEG_START = b"\xff\xd8\xff"
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
# Below this many images a progress bar is noise.
PROGRESS_FROM = 2000
# What a thread is given at once: small images decode faster than tasks change hands.
CHUNK = 64


def read_image(path: str | Path, size: int) -> Tensor:
    """uint8 [3, size, size]: the short side resized to `size` (bilinear, antialiased), then the centre square.

    Grey becomes three equal channels, CMYK and palettes RGB, transparency white; EXIF rotation is applied. Raises
    UserError with the path for a file that is missing, truncated, HEIC or no image.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
        start = data[:64].tobytes()
        # an AVIF may name mif1 as well, and Pillow reads it
        if start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS and b"avif" not in start:
            raise UserError(heic(path))
        return _square(_decode(data), size).expand(3, -1, -1).contiguous()
    except UserError:
        raise
    # a damaged file makes a decoder raise almost anything: struct.error, zlib.error, IndexError
    except Exception as error:
        raise UserError(f"{path}: not an image that can be read; replace or remove it ({_reason(error)})") from error


def read_images(paths: Sequence[str], size: int, doing: str = "") -> Iterator[Tensor]:
    """`read_image` of each path, in order, decoded by a thread a core; `doing` names a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import track

    quiet = not doing or len(paths) < PROGRESS_FROM
    yield from track(_in_chunks(paths, size), doing, len(paths), disable=quiet, console=Console(stderr=True))


def _in_chunks(paths: Sequence[str], size: int) -> Iterator[Tensor]:
    """At most two chunks a thread are ahead of the reader, who may be slower than they are: a disk."""
    chunks = iter([paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)])
    with ThreadPoolExecutor(cores()) as threads:
        ahead = deque(threads.submit(_read_chunk, size, chunk) for chunk in islice(chunks, 2 * cores()))
        try:
            while ahead:
                images = ahead.popleft().result()
                ahead.extend(threads.submit(_read_chunk, size, chunk) for chunk in islice(chunks, 1))
                yield from images
        finally:
            for future in ahead:
                future.cancel()


def _read_chunk(size: int, paths: Sequence[str]) -> list[Tensor]:
    return [read_image(path, size) for path in paths]


def _decode(data: NDArray[np.uint8]) -> Tensor:
    """uint8 [3, H, W]; [1, H, W] for a grey JPEG."""
    if data[:3].tobytes() == JPEG_START:
        pixels: Tensor = decode_jpeg(torch.from_numpy(data), ImageReadMode.UNCHANGED, apply_exif_orientation=True)
        # libjpeg leaves CMYK to its caller; Pillow knows Adobe's inverted kind
        if len(pixels) != 4:
            return pixels
    with Image.open(io.BytesIO(data.tobytes())) as image:
        rgb = _rgb(ImageOps.exif_transpose(image))
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _square(pixels: Tensor, size: int) -> Tensor:
    height, width = pixels.shape[-2:]
    short = min(height, width)
    if short != size:
        height, width = height * size // short, width * size // short
        square = centre_square(pixels, height, width, size)
        if square is not None:
            return square
        pixels = F.interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)[0]
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[:, top : top + size, left : left + size]


def _reason(error: Exception) -> str:
    """The last part of the error's first line: torchvision puts the source file and line before it."""
    if isinstance(error, UnidentifiedImageError):  # its own words name a buffer in memory
        return "no format that is known"
    return str(error).splitlines()[0].rsplit(", ", 1)[-1] if str(error) else type(error).__name__
