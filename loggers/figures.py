"""Two pictures: a layer's correlation heat-map, and a quantity's learning map over layers and time."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from convscope.loggers._canvas import CARD, Page, Picture, text_width
from convscope.loggers._heatmap import (
    HEATMAP_SIDE,
    MAP_ROW,
    bar_marks,
    bar_space,
    clamp,
    colour_cells,
    draw_colour_bar,
    draw_legend,
    draw_title,
    middles_of,
    shrink,
    shrink_signed,
    time_ticks,
)
from convscope.loggers.names import short_labels

OPTIMAL_ORDER_LIMIT = 128  # above it the optimal leaf order takes longer than the picture
NUMBERED_FILTERS = 20  # numbers a picture has: more would touch
HEATMAP_CELLS = 120  # more would fill the disk faster and show hardly more
NAME_LIMIT = 17


def cluster_order(matrix: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Order filters so that correlated ones, with either sign, stand next to one another.

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


def correlation_heatmap(matrix: npt.ArrayLike, title: str, order: npt.NDArray[np.intp] | None = None) -> Picture:
    """Draw a layer's filter correlation, rows and columns ordered by `cluster_order`.

    Colours run from −1 (blue) over 0 (white) to 1 (red) in every picture, so that layers and epochs compare.
    Constant filters have no correlation: they are hatched grey, last, and counted in the title. Above 120 filters
    neighbours share a cell, which shows their mean |ρ| with the prevailing sign. Filters' numbers stand on the left, as
    many as there is space for.

    Args:
        matrix: Pearson correlations, (C, C), with zero (or NaN) rows for constant filters.
        title: what the picture is of, usually the layer's name; the number of filters is added.
        order: of rows and columns, (C,), where it is known; by default that of `cluster_order`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: if `matrix` is not square or is empty.
        ImportError: if matplotlib is missing.

    >>> correlation_heatmap([[1.0, 0.8], [0.8, 1.0]], "layer1.0.conv1").shape
    (332, 350, 3)
    """
    correlation = _as_square(matrix)
    order, constant = cluster_order(correlation) if order is None else order, _constant(correlation)
    blank = constant[:, None] | constant[None, :]
    shown = np.where(blank, np.nan, correlation)[np.ix_(order, order)]
    count, left, top, side = len(order), 46, 42, HEATMAP_SIDE
    page = Page(CARD, top + side + 50)
    draw_title(page, f"{title}\n{_describe(count, int(constant.sum()))}")
    page.area(colour_cells(shrink_signed(shown, HEATMAP_CELLS), side, side, "RdBu_r", -1.0, 1.0), left, top)
    # Rows only: columns are in the same order, and text is most of the drawing time.
    thinned = slice(None, None, -(-count // NUMBERED_FILTERS))
    page.ticks_left(middles_of(count, side, top)[thinned], [str(index) for index in order][thinned], left)
    name = "filter (ordered by clustering)"
    page.text(name, left + side / 2, top + side + 6, across="middle", down="top")
    if count <= 100:  # numbers of three digits take its place
        page.text(name, 2, top + side / 2, upwards=True)
    draw_colour_bar(page, "RdBu_r", (-1.0, 1.0), "Pearson correlation ρ", left + side + 12, top, side, steps=2)
    if constant.any():
        draw_legend(page, "constant", left)
    return page.pixels


def learning_map(
    values: npt.ArrayLike,
    layers: Sequence[str],
    x: Sequence[float | str],
    title: str,
    unit: str,
    vmin: float | None = None,
    vmax: float | None = None,
    x_label: str = "epoch",
    ends: tuple[str, str] = ("", ""),
) -> Picture:
    """Draw a quantity over layers (rows, input on top) and time (columns, one per check, evenly spaced).

    Values that are NaN or infinite are hatched grey, "not measured".

    Args:
        values: (L, T), L layers by T checks.
        layers: L names in depth order; long ones are shortened in the middle.
        x: T epochs or steps, the columns' labels; a text stands as it is, "–" for a check before training.
        title: what the picture shows.
        unit: the colour bar's label, e.g. "accuracy (0 to 1)".
        vmin: value of the darkest colour; the least finite value if None.
        vmax: value of the brightest colour; the greatest finite value if None.
        x_label: what `x` counts.
        ends: names of the darkest and the brightest colour, e.g. ("chance", "best").

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
    rows = len(table)
    low, high = _limits(table, vmin, vmax)
    names = short_labels(layers, NAME_LIMIT)
    left, top = text_width(names) + 24, 40 if any(ends) else 28
    height = clamp(rows * MAP_ROW, 126, 560)
    width = CARD - left - bar_space(bar_marks((low, high), height, 4, exact=True)[1])
    page = Page(CARD, top + height + 62)
    draw_title(page, title)
    shown = shrink(table, height, width)
    page.area(colour_cells(shown, height, width, "viridis", low, high), left, top)
    time_ticks(page, x, left, top + height, width)
    thinned = slice(None, None, -(-rows * 12 // height))
    page.ticks_left(middles_of(rows, height, top)[thinned], names[thinned], left)
    page.text(x_label, left + width / 2, top + height + 22, across="middle", down="top")
    page.text("← depth", 2, top + height / 2, upwards=True)
    draw_colour_bar(page, "viridis", (low, high), unit, left + width + 12, top, height, 4, ends)
    if not np.isfinite(shown).all():
        draw_legend(page, "not measured", left)
    return page.pixels


def _as_square(matrix: npt.ArrayLike) -> npt.NDArray[np.float64]:
    correlation = np.asarray(matrix, dtype=np.float64)
    if correlation.ndim != 2 or correlation.shape[0] != correlation.shape[1] or correlation.size == 0:
        raise ValueError(f"matrix must be a non-empty square (C, C) array, got shape {correlation.shape}")
    return correlation


def _as_table(values: npt.ArrayLike, layers: Sequence[str], x: Sequence[float | str]) -> npt.NDArray[np.float64]:
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
