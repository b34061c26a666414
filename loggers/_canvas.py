"""A page of pixels with text, on which pictures are drawn.

Matplotlib supplies colour maps and text, through its Agg renderer alone. Areas, frames and ticks are set as
pixels: that is many times faster than its axes, and no style of a training script changes the picture. pyplot is
never imported; rcParams are neither written nor used.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

# The Images tab draws every picture 350 pixels wide without smoothing, so another width would garble the text.
CARD = 350
DPI = 100
FONT = "DejaVu Sans"  # comes with matplotlib, so it is always there
TEXT_SIZE, TITLE_SIZE = 8.5, 10.0
INK = (34, 34, 34)
MISSING_FACE, MISSING_STRIPE = (221, 221, 221), (150, 150, 150)
TICK = 4

Across = Literal["left", "middle", "right"]
Down = Literal["top", "middle", "bottom"]
_SHARE = {"left": 0.0, "top": 0.0, "middle": 0.5, "right": 1.0, "bottom": 1.0}


def require_matplotlib() -> None:
    """Raise an error about the missing extra; callers turn it into one warning per run.

    Raises:
        ImportError: if matplotlib cannot be imported.

    >>> require_matplotlib()
    """
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError(
            "heat-maps and learning maps need matplotlib, which is missing: pip install 'convscope[plot]'"
        ) from error


class Page:
    """A white page of `width` x `height` pixels; places are counted from the upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        require_matplotlib()
        self.pixels: Picture = np.full((height, width, 3), 255, dtype=np.uint8)

    def area(self, picture: Picture, left: int, top: int) -> None:
        """Set a framed picture with its upper left corner at (left, top)."""
        height, width = picture.shape[:2]
        self.pixels[top - 1 : top + height + 1, left - 1 : left + width + 1] = INK
        self.pixels[top : top + height, left : left + width] = picture

    def text(
        self,
        text: str,
        x: float,
        y: float,
        across: Across = "left",
        down: Down = "middle",
        size: float = TEXT_SIZE,
        upwards: bool = False,
    ) -> None:
        """Write one line whose box has its `across` side at `x` and its `down` side at `y`; cut at the edges.

        With `upwards` the line runs from bottom to top, and `across` still refers to the box as seen on the page.
        """
        glyphs = _line(text, size)
        sprite = np.rot90(glyphs) if upwards else glyphs
        height, width = sprite.shape
        left = round(x - width * _SHARE[across])
        top = round(y - height * _SHARE[down])
        page = self.pixels[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
        sprite = sprite[max(0, -top) :, max(0, -left) :][: page.shape[0], : page.shape[1]]
        cover = sprite[..., None] / 255
        page[...] = np.rint(page * (1 - cover) + np.array(INK) * cover)

    def ticks_below(self, places: list[int], labels: list[str], top: int) -> None:
        """Draw ticks under an area that ends at `top`, labels centred below them."""
        for place, label in zip(places, labels, strict=True):
            self.pixels[top : top + TICK, place] = INK
            self.text(label, place + 0.5, top + TICK, across="middle", down="top")

    def ticks_left(self, places: list[int], labels: list[str], left: int) -> None:
        """Draw ticks beside an area that starts at `left`, labels before them."""
        for place, label in zip(places, labels, strict=True):
            self.pixels[place, left - TICK : left] = INK
            self.text(label, left - TICK - 1, place + 0.5, across="right")

    def ticks_right(self, places: list[int], labels: list[str], left: int) -> None:
        """Draw ticks beside an area that ends at `left`, labels after them."""
        for place, label in zip(places, labels, strict=True):
            self.pixels[place, left : left + TICK] = INK
            self.text(label, left + TICK + 1, place + 0.5)


@lru_cache(maxsize=1024)
def _line(text: str, size: float) -> Picture:
    """Ink of a line. Its parts are drawn one by one: in a title the layer stays from check to check, the epoch changes.

    Each part has two blank columns on either side, together as wide as the blank between them.
    """
    *before, last = text.split(", ")
    return np.concatenate([_glyphs(part, size) for part in [*(f"{part}," for part in before), last]], axis=1)


@lru_cache(maxsize=1024)
def _glyphs(text: str, size: float) -> Picture:
    """Ink `(H, W)` of each pixel of a line of text, in a box whose height depends only on `size`.

    Results are cached: every check draws the same layer names and labels, and text is most of the drawing time.
    No mathtext and no TeX: a `$` or `_` in a layer's name is not a formula.
    """
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    agg = cast(Any, RendererAgg)
    font = FontProperties(family=FONT, size=size)
    width = agg(1, 1, DPI).get_text_width_height_descent(text, font, False)[0]
    _, height, descent = agg(1, 1, DPI).get_text_width_height_descent("|lp", font, False)
    above, below = int(np.ceil(height - descent)), int(np.ceil(descent))
    renderer = agg(int(np.ceil(width)) + 4, above + below + 2, DPI)
    renderer.draw_text(renderer.new_gc(), 2, above + 1, text, font, 0, False)
    return np.asarray(renderer.buffer_rgba(), dtype=np.uint8)[..., 3].copy()


def colour(values: Floats, palette: str, low: float, high: float) -> Picture:
    """Colours of `values` on a palette from `low` to `high`, `(*values.shape, 3)`; NaN gets a plain grey."""
    table = _palette(palette)
    scaled = np.nan_to_num(np.clip((values - low) / (high - low), 0.0, 1.0))
    colours = table[np.minimum((scaled * len(table)).astype(np.intp), len(table) - 1)]
    colours[~np.isfinite(values)] = MISSING_FACE
    return colours


@lru_cache(maxsize=8)
def _palette(name: str) -> Picture:
    """The colours of one of matplotlib's palettes, from low to high."""
    from matplotlib import colormaps

    palette = colormaps[name]
    return np.asarray(palette(np.arange(palette.N), bytes=True))[:, :3].copy()


def stretch(cells: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """Draw each cell as a block of pixels, `(height, width, …)`; blocks differ in size by one pixel at most."""
    rows = np.arange(height) * cells.shape[0] // height
    columns = np.arange(width) * cells.shape[1] // width
    return np.asarray(cells[rows[:, None], columns[None, :]])


def stripe(picture: Picture, missing: npt.NDArray[np.bool_]) -> None:
    """Hatch the pixels of `picture` where `missing`, in place."""
    diagonal = (np.add.outer(np.arange(picture.shape[0]), np.arange(picture.shape[1])) % 6) < 1
    picture[missing & diagonal] = MISSING_STRIPE


def missing_swatch() -> Picture:
    """A small hatched square for the legend."""
    swatch = np.full((12, 14, 3), MISSING_FACE, dtype=np.uint8)
    stripe(swatch, np.ones((12, 14), dtype=bool))
    return swatch


def text_width(labels: list[str], size: float = TEXT_SIZE) -> int:
    """Pixels that the widest label takes."""
    return max((_line(label, size).shape[1] for label in labels), default=0)
