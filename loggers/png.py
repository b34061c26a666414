"""Pictures as PNG files in memory."""

from __future__ import annotations

import io

from convscope.loggers.backend import Pixels

LEVEL = 3
"""Of compression: files of these pictures are as small as with the usual 6, in half the time."""


def png_bytes(picture: Pixels) -> bytes:
    """The PNG file of a picture ``(H, W, 3)`` of uint8.

    >>> import numpy as np
    >>> png_bytes(np.zeros((2, 2, 3), np.uint8))[:4]
    b'\\x89PNG'
    """
    from PIL import Image

    kept = io.BytesIO()
    Image.fromarray(picture).save(kept, "PNG", compress_level=LEVEL)
    return kept.getvalue()
