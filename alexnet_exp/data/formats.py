"""Opening an image file of somebody else's with Pillow: a fixed list of formats, chosen by the file's content."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

# Pillow reads some 40 formats, and runs Ghostscript on an EPS, whatever the file's name is. AVIF is last: a Pillow that
# was built without it raises KeyError there.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF")


def open_picture(source: Path | io.BytesIO) -> Image.Image:
    """The image in a file of one of `FORMATS`, opened and not yet decoded.

    Raises PIL.UnidentifiedImageError for any other content, and what Pillow raises for a damaged file.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(source, formats=FORMATS)
    except KeyError as error:
        raise UnidentifiedImageError(f"no format of {', '.join(FORMATS)}") from error
