"""The two pictures: a layer's correlation heat-map, and a quantity's learning map over layers and time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from convscope.loggers._canvas import (
    INK,
    TITLE_SIZE,
    Picture,
    add_axes,
    label_axis,
    mark_missing,
    missing_legend,
    new_figure,
    render,
    text_style,
    text_width,
)
from convscope.loggers.names import short_labels, shorten_middle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Floats = npt.NDArray[np.floating[Any]]

OPTIMAL_ORDER_LIMIT = 128  # above it the optimal leaf order takes longer than the picture
NUMBERED_FILTERS = 32  # with more, the numbers of neighbours would overlap
HEATMAP_SIDE = 320
MAP_ROW, MAP_COLUMN = 17, 22
NAME_LIMIT = 28


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
    Constant filters have no correlation: they are hatched grey, last, and counted in the title.

    Args:
        matrix: Pearson correlations, (C, C), with zero (or NaN) rows for constant filters.
        title: what the picture is of, usually the layer's name; the number of filters is added.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: if `matrix` is not square or is empty.
        ImportError: if matplotlib is missing.
    """
    correlation = _as_square(matrix)
    order = cluster_order(correlation)
    constant = _constant(correlation)
    shown = np.where(constant[:, None] | constant[None, :], np.nan, correlation)[np.ix_(order, order)]
    figure = new_figure(480, 424)
    axes = add_axes(figure, 54, 44, HEATMAP_SIDE, HEATMAP_SIDE)
    count = len(order)
    image = _paint(axes, _shrink(shown, HEATMAP_SIDE), "RdBu_r", -1.0, 1.0, extent=count)
    _title(figure, axes, f"{title}\n{_describe(count, int(constant.sum()))}")
    numbers = [str(index) for index in order] if count <= NUMBERED_FILTERS else []
    positions = [float(place) for place in range(len(numbers))]
    name = "filter (ordered by clustering)"
    label_axis(axes, "x", positions, numbers, name, rotation=90 if count > 12 else 0)
    label_axis(axes, "y", positions, numbers, name)
    _colour_bar(figure, image, (392, 44, 14, HEATMAP_SIDE), "Pearson correlation ρ", [-1, -0.5, 0, 0.5, 1])
    if constant.any():
        mark_missing(axes)
        missing_legend(figure, "constant", 392, 22)
    return render(figure)


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
        (H, W, 3) uint8; the size depends on L and T, up to a limit of columns.

    Raises:
        ValueError: if `values` is empty or does not match `layers` and `x`, or `vmin` is not below `vmax`.
        ImportError: if matplotlib is missing.
    """
    table = _as_table(values, layers, x)
    low, high = _limits(table, vmin, vmax)
    rows, columns = table.shape
    names = short_labels(layers, NAME_LIMIT)
    width, height = _clamp(columns * MAP_COLUMN, 260, 440), _clamp(rows * MAP_ROW, 68, 680)
    figure = new_figure(1, 1)
    left = int(text_width(figure, names)) + 34
    figure = new_figure(left + width + 96, 40 + height + 62)
    axes = add_axes(figure, left, 40, width, height)
    image = _paint(axes, table, "viridis", low, high, extent=None)
    _title(figure, axes, title)
    ticks = list(range(0, columns, _stride(columns, width, max(len(_number(value)) for value in x))))
    label_axis(axes, "x", [float(tick) for tick in ticks], [_number(x[tick]) for tick in ticks], x_label)
    named = list(range(0, rows, max(1, -(-rows * 12 // height))))
    label_axis(axes, "y", [float(row) for row in named], [names[row] for row in named], "← depth")
    _colour_bar(figure, image, (left + width + 14, 40, 14, height), unit, None)
    if not np.isfinite(table).all():
        mark_missing(axes)
        missing_legend(figure, "not measured", left, 8)
    return render(figure)


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

    count = len(correlation)
    if count < 3:
        return np.arange(count)
    distance = 1.0 - np.abs(np.nan_to_num(correlation))
    condensed = np.clip(distance[np.triu_indices(count, k=1)], 0.0, 1.0)
    tree = linkage(condensed, method="average", optimal_ordering=count <= OPTIMAL_ORDER_LIMIT)
    return np.asarray(leaves_list(tree), dtype=np.intp)


def _describe(count: int, constant: int) -> str:
    filters = f"{count} filter" if count == 1 else f"{count} filters"
    return f"{filters}, {constant} constant" if constant else filters


def _shrink(matrix: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """Means of square blocks once a filter would be thinner than a pixel, so that none is skipped."""
    block = -(-len(matrix) // side)
    if block == 1:
        return matrix
    starts = np.arange(0, len(matrix), block)
    known = np.isfinite(matrix)
    sums = np.add.reduceat(np.add.reduceat(np.where(known, matrix, 0.0), starts, axis=0), starts, axis=1)
    counts = np.add.reduceat(np.add.reduceat(known.astype(float), starts, axis=0), starts, axis=1)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


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


def _paint(
    axes: Axes, values: npt.NDArray[np.float64], colours: str, low: float, high: float, extent: int | None
) -> AxesImage:
    from matplotlib import colormaps

    palette = colormaps[colours].with_extremes(bad=(0.0, 0.0, 0.0, 0.0))
    masked = np.ma.masked_invalid(values)
    box = None if extent is None else (-0.5, extent - 0.5, extent - 0.5, -0.5)
    return axes.imshow(
        masked, cmap=palette, vmin=low, vmax=high, aspect="auto", origin="upper",
        interpolation="nearest", extent=box, resample=False,
    )  # fmt: skip


def _title(figure: Figure, axes: Axes, title: str) -> None:
    page_width, page_height = figure.get_size_inches() * figure.dpi
    lines = [shorten_middle(line, int(page_width // 7)) for line in title.split("\n")]
    figure.text(10 / page_width, 1 - 8 / page_height, "\n".join(lines), va="top", **text_style(TITLE_SIZE))


def _colour_bar(
    figure: Figure,
    image: AxesImage,
    box: tuple[float, float, float, float],
    label: str,
    ticks: list[float] | None,
) -> None:
    axes = add_axes(figure, *box)
    bar = figure.colorbar(image, cax=axes)
    if ticks is not None:
        bar.set_ticks(ticks)
    for text in axes.yaxis.get_ticklabels():
        text.set(**text_style())
    axes.yaxis.set_tick_params(length=3, width=0.8, color=INK, pad=2)
    axes.yaxis.set_label_text(label, **text_style())


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e5 or value != int(value) else f"{int(value)}"


def _stride(columns: int, width: int, characters: int) -> int:
    """The least of 1, 2, 5, 10, 20, … that leaves room for the tick labels."""
    room = max(1, width // (characters * 8 + 8))
    strides = (factor * 10**power for power in range(12) for factor in (1, 2, 5))
    return next(stride for stride in strides if -(-columns // stride) <= room)


def _clamp(value: int, least: int, most: int) -> int:
    return max(least, min(most, value))
