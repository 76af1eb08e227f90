"""Provides the opening of untrusted image files with Pillow: a fixed list of formats, detected by content."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

# Pillow reads about 40 formats and runs Ghostscript on EPS content, whatever the name of the file. AVIF is last: a
# Pillow that was built without it raises KeyError there.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF")


def open_picture(source: Path | io.BytesIO) -> Image.Image:
    """Returns the image of a file in one of `FORMATS`, opened but not decoded.

    Raises PIL.UnidentifiedImageError for other content, and whatever Pillow raises for a damaged file.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(source, formats=FORMATS)
    except KeyError as error:
        raise UnidentifiedImageError(f"not one of {', '.join(FORMATS)}") from error
