"""Shared parts of heat-maps: shrinking, cells, title, colour bar, legend and ticks."""

from collections.abc import Sequence

import numpy as np

from convscope.loggers._canvas import (
    INK,
    TEXT_SIZE,
    TICK,
    TITLE_SIZE,
    Floats,
    Page,
    Picture,
    colour,
    missing_swatch,
    stretch,
    stripe,
    text_width,
)
from convscope.loggers.names import shorten_middle

HEATMAP_SIDE = 240
MAP_ROW = 14
BAR_WIDTH = 12
MOST_BELOW = 84  # pixels of a class's name


def shrink(values: Floats, rows: int, columns: int) -> Floats:
    """Means of blocks if there are more cells than wanted, so that none is skipped; NaN is not counted."""
    if values.shape[0] <= rows and values.shape[1] <= columns:
        return values
    known = np.isfinite(values)
    sums = _block_sums(np.where(known, values, 0.0), rows, columns)
    counts = _block_sums(known.astype(np.float64), rows, columns)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def shrink_signed(matrix: Floats, cells: int) -> Floats:
    """Mean size with the more frequent sign, so that opposite correlations do not cancel into white."""
    return shrink(np.abs(matrix), cells, cells) * np.where(shrink(matrix, cells, cells) < 0, -1.0, 1.0)


def _block_sums(values: Floats, rows: int, columns: int) -> Floats:
    for axis, limit in enumerate((rows, columns)):
        length = values.shape[axis]
        parts = min(length, limit)
        values = np.add.reduceat(values, np.arange(parts) * length // parts, axis=axis)
    return values


def colour_cells(values: Floats, height: int, width: int, palette: str, low: float, high: float) -> Picture:
    picture, missing = stretch(colour(values, palette, low, high), height, width), ~np.isfinite(values)
    if missing.any():
        stripe(picture, stretch(missing, height, width))
    return picture


def draw_title(page: Page, title: str) -> None:
    """Lines of text, each cut in the middle where it is too long."""
    for number, line in enumerate(title.split("\n")):
        text = shorten_to(line, page.pixels.shape[1] - 8, TITLE_SIZE)
        page.text(text, 4, 4 + 16 * number, down="top", size=TITLE_SIZE)


def shorten_to(text: str, pixels: int, size: float = TEXT_SIZE) -> str:
    """``text`` cut in the middle, so that it takes at most so many pixels."""
    limit = max(3, len(text))
    while text_width([shorten_middle(text, limit)], size) > pixels and limit > 3:
        limit = max(3, min(limit - 1, limit * pixels // text_width([shorten_middle(text, limit)], size)))
    return shorten_middle(text, max(3, limit))


def stretch_ramp(palette: str, height: int, width: int = BAR_WIDTH) -> Picture:
    """A colour bar, bright above."""
    return stretch(colour(np.linspace(1.0, 0.0, height)[:, None], palette, 0.0, 1.0), height, width)


def draw_colour_bar(
    page: Page,
    palette: str,
    limits: tuple[float, float],
    label: str,
    left: int,
    top: int,
    height: int,
    steps: int,
    ends: tuple[str, str] | None = None,
) -> None:
    """A colour bar with ticks, its label upwards at the page's edge; ``ends`` names both ends, which get ticks then."""
    low, high = limits
    page.area(stretch_ramp(palette, height), left, top)
    below, above = ends or ("", "")
    for name, y, down in ((below, top + height + 3, "top"), (above, top - 3, "bottom")):
        page.text(name, left + BAR_WIDTH / 2, y, across="middle", down=down)  # type: ignore[arg-type]
    marks, texts = bar_marks(limits, height, steps, exact=ends is not None)
    places = [top + round((high - mark) / (high - low) * (height - 1)) for mark in marks]
    page.ticks_right(places, texts, left + BAR_WIDTH)
    text = shorten_to(label, height + 30)
    page.text(text, page.pixels.shape[1] - 2, top + height / 2, across="right", upwards=True)


def bar_marks(limits: tuple[float, float], height: int, steps: int, exact: bool) -> tuple[list[float], list[str]]:
    """Values of a colour bar's ticks and their labels; ``exact`` puts one at each end."""
    from matplotlib.ticker import MaxNLocator

    low, high = limits
    round_values = np.asarray(MaxNLocator(steps).tick_values(low, high), dtype=np.float64)
    apart = (high - low) * 18 / height if exact else 0.0  # nearer to an end, two numbers would touch
    inside = [mark for mark in round_values.tolist() if low + apart <= mark <= high - apart]
    marks = [low, *inside, high] if exact else inside
    return marks, [_mark(mark, marks) for mark in marks]


def bar_space(texts: list[str]) -> int:
    """Pixels from a map's right edge to the page's: the colour bar, its ticks' labels, and its own upright label."""
    return 12 + BAR_WIDTH + TICK + text_width(texts) + 18


def _mark(value: float, marks: list[float]) -> str:
    """A tick's number, with the digits that tell it from the next one, four at most."""
    gap = float(np.diff(marks).min()) if len(marks) > 1 else abs(value)
    digits = clamp(int(np.ceil(-np.log10(gap))) + 1 if gap > 0 else 3, 0, 3)
    size = max(abs(marks[0]), abs(marks[-1]))
    return f"{value:.4g}" if size >= 1000 or 0 < size < 1e-2 else f"{value:.{digits}f}".rstrip("0").rstrip(".") or "0"


def draw_legend(page: Page, label: str, left: int) -> None:
    bottom = page.pixels.shape[0]
    page.area(missing_swatch(), left, bottom - 20)
    page.text(label, left + 18, bottom - 14)


def middles_of(cells: int, pixels: int, start: int) -> list[int]:
    return [start + (2 * cell + 1) * pixels // (2 * cells) for cell in range(cells)]


def tick_stride(columns: int, width: int, characters: int) -> int:
    """The least of 1, 2, 5, 10, 20, … at which the tick labels fit."""
    fitting = max(1, width // (characters * 7 + 6))
    decade = 1
    while columns > fitting * 5 * decade:
        decade *= 10
    return next(factor * decade for factor in (1, 2, 5) if columns <= fitting * factor * decade)


def draw_columns(page: Page, names: Sequence[str], left: int, top: int, width: int) -> None:
    """Names of columns below a map: numbers as they are, words upwards; as many as fit."""
    count = len(names)
    if _are_words(names, width):
        stride = -(-count * 13 // width)
        for place in middles_of(count, width, left)[::stride]:
            page.pixels[top : top + TICK, place] = INK
        for place, name in list(zip(middles_of(count, width, left), names, strict=True))[::stride]:
            text = shorten_to(name, MOST_BELOW)
            page.text(text, place + 0.5, top + TICK + 2, across="middle", down="top", upwards=True)
        return
    stride = tick_stride(count, width, max(map(len, names)))
    page.ticks_below(middles_of(count, width, left)[::stride], list(names)[::stride], top)


def column_height(names: Sequence[str], width: int) -> int:
    """Pixels that :func:`draw_columns` takes."""
    return TICK + 6 + min(MOST_BELOW, text_width(list(names))) if _are_words(names, width) else 20


def _are_words(names: Sequence[str], width: int) -> bool:
    """Return whether names are written upwards: not numbers, and not so short that they fit side by side."""
    return tick_stride(len(names), width, max(map(len, names))) > 1 and not all(name.isdigit() for name in names)


def time_ticks(page: Page, x: Sequence[float | str], left: int, top: int, width: int) -> None:
    """Labels of checks below a map: as many as fit, at round epochs where a check before training comes first."""
    count = len(x)
    texts = [value if isinstance(value, str) else _number(value) for value in x]
    stride = tick_stride(count, width, max(map(len, texts)))
    first = 1 if stride > 1 and isinstance(x[0], str) else 0
    shown = [0, *range(first + stride, count, stride)] if first else list(range(0, count, stride))
    middles = middles_of(count, width, left)
    page.ticks_below([middles[place] for place in shown], [texts[place] for place in shown], top)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def clamp(value: int, least: int, most: int) -> int:
    return max(least, min(most, value))
