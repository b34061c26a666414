"""The two pictures: a layer's correlation heat-map, and a quantity's learning map over layers and time."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from convscope.loggers._canvas import (
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
from convscope.loggers.names import short_labels, shorten_middle

OPTIMAL_ORDER_LIMIT = 128  # above it the optimal leaf order takes longer than the picture
NUMBERED_FILTERS = 20  # with more, the numbers of neighbours would touch
# The Images tab draws every picture 350 pixels wide without smoothing, so another width would garble the text.
CARD = 350
HEATMAP_SIDE = 240
HEATMAP_CELLS = 120  # more would fill the disk faster and show hardly more
MAP_ROW = 14
NAME_LIMIT = 17
BAR_WIDTH = 12


def cluster_order(matrix: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Order filters so that those that say the same thing, with either sign, stand next to one another.

    Average-linkage hierarchical clustering (SciPy) on the distance 1 − |ρ|; up to 128 filters the leaves are
    ordered optimally. Constant filters, whose diagonal is not above 0, come last in their own order.

    Args:
        matrix: Pearson correlations, (C, C).

    Returns:
        A permutation of 0 … C−1, (C,).

    Raises:
        ValueError: if `matrix` is not square or is empty.

    >>> cluster_order([[1, 0.1, 0.9, 0], [0.1, 1, 0.1, 0], [0.9, 0.1, 1, 0], [0, 0, 0, 0]]).tolist()
    [1, 2, 0, 3]
    """
    correlation = _as_square(matrix)
    constant = _constant(correlation)
    varying = np.flatnonzero(~constant)
    leaves = _leaves(correlation[np.ix_(varying, varying)])
    return np.concatenate([varying[leaves], np.flatnonzero(constant)])


def correlation_heatmap(matrix: npt.ArrayLike, title: str) -> Picture:
    """Draw a layer's filter correlation, rows and columns ordered by `cluster_order`.

    Colours run from −1 (blue) over 0 (white) to 1 (red) in every picture, so that layers and epochs compare.
    Constant filters have no correlation: they are hatched grey, last, and counted in the title. Above 120 filters
    neighbours share a cell, which shows their mean |ρ| with the prevailing sign.

    Args:
        matrix: Pearson correlations, (C, C), with zero (or NaN) rows for constant filters.
        title: what the picture is of, usually the layer's name; the number of filters is added.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: if `matrix` is not square or is empty.
        ImportError: if matplotlib is missing.

    >>> correlation_heatmap([[1.0, 0.8], [0.8, 1.0]], "layer1.0.conv1").shape
    (332, 350, 3)
    """
    correlation = _as_square(matrix)
    order, constant = cluster_order(correlation), _constant(correlation)
    blank = constant[:, None] | constant[None, :]
    shown = np.where(blank, np.nan, correlation)[np.ix_(order, order)]
    count, left, top, side = len(order), 46, 42, HEATMAP_SIDE
    page = Page(CARD, top + side + 50)
    _title(page, f"{title}\n{_describe(count, int(constant.sum()))}")
    page.area(_cells(_shrink_signed(shown, HEATMAP_CELLS), side, side, "RdBu_r", -1.0, 1.0), left, top)
    if count <= NUMBERED_FILTERS:
        # Rows only: columns are in the same order, and text is most of the drawing time.
        page.ticks_left(_middles(count, side, top), [str(index) for index in order], left)
    name = "filter (ordered by clustering)"
    page.text(name, left + side / 2, top + side + 6, across="middle", down="top")
    page.text(name, 2, top + side / 2, upwards=True)
    _colour_bar(page, "RdBu_r", (-1.0, 1.0), "Pearson correlation ρ", left + side + 12, top, side, steps=2)
    if constant.any():
        _legend(page, "constant", left)
    return page.pixels


def learning_map(
    values: npt.ArrayLike,
    layers: Sequence[str],
    x: Sequence[float],
    title: str,
    unit: str,
    vmin: float | None = None,
    vmax: float | None = None,
    x_label: str = "epoch",
) -> Picture:
    """Draw a quantity over layers (rows, input on top) and time (columns, one a check, evenly spaced).

    Values that are NaN or infinite are hatched grey, "not measured".

    Args:
        values: (L, T), L layers by T checks.
        layers: L names in depth order; long ones are shortened in the middle.
        x: T epochs or steps, the columns' labels.
        title: what the picture shows.
        unit: the colour bar's label, e.g. "accuracy (0 to 1)".
        vmin: value of the darkest colour; the least finite value if None.
        vmax: value of the brightest colour; the greatest finite value if None.
        x_label: what `x` counts.

    Returns:
        (H, W, 3) uint8; 350 wide, the height depends on L up to a limit.

    Raises:
        ValueError: if `values` is empty or does not match `layers` and `x`, or `vmin` is not below `vmax`.
        ImportError: if matplotlib is missing.

    >>> accuracy = [[0.2, 0.4], [0.3, float("nan")]]
    >>> learning_map(accuracy, ["conv1", "conv2"], [0, 1], "probe accuracy", "accuracy (0 to 1)", 0, 1).ndim
    3
    """
    table = _as_table(values, layers, x)
    rows, columns = table.shape
    low, high = _limits(table, vmin, vmax)
    names = short_labels(layers, NAME_LIMIT)
    left, top = text_width(names) + 24, 26
    width, height = CARD - left - 76, _clamp(rows * MAP_ROW, 126, 560)
    page = Page(CARD, top + height + 62)
    _title(page, title)
    shown = _shrink(table, height, width)
    page.area(_cells(shown, height, width, "viridis", low, high), left, top)
    stride = _stride(columns, width, max(len(_number(value)) for value in x))
    middles = _middles(columns, width, left)[::stride]
    page.ticks_below(middles, [_number(value) for value in x[::stride]], top + height)
    thinned = slice(None, None, -(-rows * 12 // height))
    page.ticks_left(_middles(rows, height, top)[thinned], names[thinned], left)
    page.text(x_label, left + width / 2, top + height + 22, across="middle", down="top")
    page.text("← depth", 2, top + height / 2, upwards=True)
    _colour_bar(page, "viridis", (low, high), unit, left + width + 12, top, height, steps=4)
    if not np.isfinite(shown).all():
        _legend(page, "not measured", left)
    return page.pixels


def _as_square(matrix: npt.ArrayLike) -> npt.NDArray[np.float64]:
    correlation = np.asarray(matrix, dtype=np.float64)
    if correlation.ndim != 2 or correlation.shape[0] != correlation.shape[1] or correlation.size == 0:
        raise ValueError(f"matrix must be a non-empty square (C, C) array, got shape {correlation.shape}")
    return correlation


def _as_table(values: npt.ArrayLike, layers: Sequence[str], x: Sequence[float]) -> npt.NDArray[np.float64]:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or table.shape != (len(layers), len(x)):
        raise ValueError(
            f"values must be a non-empty (layers, checks) table of shape ({len(layers)}, {len(x)}) for "
            f"{len(layers)} layers and {len(x)} entries of x, got shape {table.shape}"
        )
    return table


def _constant(correlation: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return ~(np.diagonal(correlation) > 0)  # also true for NaN


def _leaves(correlation: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    count = len(correlation)
    if count < 3:
        return np.arange(count)
    related = squareform(correlation, checks=False)
    condensed = np.clip(1.0 - np.abs(np.nan_to_num(related)), 0.0, 1.0)
    tree = linkage(condensed, method="average", optimal_ordering=count <= OPTIMAL_ORDER_LIMIT)
    return np.asarray(leaves_list(tree), dtype=np.intp)


def _describe(count: int, constant: int) -> str:
    filters = f"{count} filter" if count == 1 else f"{count} filters"
    return f"{filters}, {constant} constant" if constant else filters


def _shrink(values: Floats, rows: int, columns: int) -> Floats:
    """Means of blocks once there are more cells than wanted, so that none is skipped; NaN does not count."""
    if values.shape[0] <= rows and values.shape[1] <= columns:
        return values
    known = np.isfinite(values)
    sums = _block_sums(np.where(known, values, 0.0), rows, columns)
    counts = _block_sums(known.astype(np.float64), rows, columns)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _shrink_signed(matrix: Floats, cells: int) -> Floats:
    """Mean size with the prevailing sign, so that opposite correlations do not cancel into white."""
    return _shrink(np.abs(matrix), cells, cells) * np.where(_shrink(matrix, cells, cells) < 0, -1.0, 1.0)


def _block_sums(values: Floats, rows: int, columns: int) -> Floats:
    for axis, limit in enumerate((rows, columns)):
        length = values.shape[axis]
        parts = min(length, limit)
        values = np.add.reduceat(values, np.arange(parts) * length // parts, axis=axis)
    return values


def _limits(table: npt.NDArray[np.float64], vmin: float | None, vmax: float | None) -> tuple[float, float]:
    finite = table[np.isfinite(table)]
    low = vmin if vmin is not None else float(finite.min()) if finite.size else 0.0
    high = vmax if vmax is not None else float(finite.max()) if finite.size else low + 1.0
    if vmin is not None and vmax is not None and vmin >= vmax:
        raise ValueError(f"vmin must be below vmax, got vmin={vmin} and vmax={vmax}")
    if high > low:
        return low, high
    half = 0.5 * max(abs(low), 1.0) if vmin is None and vmax is None else max(abs(low), 1.0)
    return (low if vmin is not None else high - half), (high if vmax is not None else low + half)


def _cells(values: Floats, height: int, width: int, palette: str, low: float, high: float) -> Picture:
    picture = stretch(colour(values, palette, low, high), height, width)
    stripe(picture, stretch(~np.isfinite(values), height, width))
    return picture


def _title(page: Page, title: str) -> None:
    room = (page.pixels.shape[1] - 8) // 8
    for number, line in enumerate(title.split("\n")):
        page.text(shorten_middle(line, room), 4, 4 + 16 * number, down="top", size=TITLE_SIZE)


def _colour_bar(
    page: Page, palette: str, limits: tuple[float, float], label: str, left: int, top: int, height: int, steps: int
) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = limits
    ramp = np.linspace(high, low, height)[:, None]
    page.area(stretch(colour(ramp, palette, low, high), height, BAR_WIDTH), left, top)
    marks = np.asarray(MaxNLocator(steps).tick_values(low, high), dtype=np.float64)
    marks = marks[(marks >= low) & (marks <= high)]
    places = [top + round((high - mark) / (high - low) * (height - 1)) for mark in marks]
    page.ticks_right(places, [f"{mark:.4g}" for mark in marks], left + BAR_WIDTH)
    room = max(8, (height + 40) // 7)
    page.text(shorten_middle(label, room), page.pixels.shape[1] - 2, top + height / 2, across="right", upwards=True)


def _legend(page: Page, label: str, left: int) -> None:
    bottom = page.pixels.shape[0]
    page.area(missing_swatch(), left, bottom - 20)
    page.text(label, left + 18, bottom - 14)


def _middles(cells: int, pixels: int, start: int) -> list[int]:
    return [start + (2 * cell + 1) * pixels // (2 * cells) for cell in range(cells)]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _stride(columns: int, width: int, characters: int) -> int:
    """The least of 1, 2, 5, 10, 20, … that leaves room for the tick labels."""
    room = max(1, width // (characters * 7 + 6))
    decade = 1
    while columns > room * 5 * decade:
        decade *= 10
    return next(factor * decade for factor in (1, 2, 5) if columns <= room * factor * decade)


def _clamp(value: int, least: int, most: int) -> int:
    return max(least, min(most, value))
