"""One epoch's results as plain text: one line per layer, in depth order."""

import math
from collections.abc import Mapping

from convscope.loggers.names import short_labels, shorten_middle
from convscope.loggers.terminal import printable

MISSING = "–"
MAX_WIDTH = 100
MIN_NAME, MAX_NAME = 16, 40
GAP = "  "


def layer_table(
    rows: Mapping[str, Mapping[str, float | None]], title: str, encoding: str | None = None, width: int = MAX_WIDTH
) -> str:
    """One line per layer and one column per quantity; columns that do not fit follow in a table below.

    Columns appear in the order in which the rows first name them. None and NaN print as "–"; other values
    keep about three significant digits. Layer names that do not fit are shortened in the middle.

    Args:
        rows: layer -> {column: value}, layers in depth order, input first.
        title: the line above the table.
        encoding: of the terminal; columns line up in the plain characters that replace those it lacks. None if
            all can be shown.
        width: characters of a line, where a column and the shortest names fit in it; at most 100.

    Returns:
        Text without a trailing line break; the title and "no layers were measured" if `rows` is empty.

    >>> rows = {"conv1": {"probe acc": 0.41, "Δ": None}, "conv2": {"probe acc": 0.7312, "Δ": 0.3212}}
    >>> print(layer_table(rows, "epoch 3"))
    epoch 3
    layer  probe acc      Δ
    conv1      0.410      –
    conv2      0.731  0.321
    """
    width = min(width, MAX_WIDTH)
    if not rows:
        return printable(f"{title}\nno layers were measured", encoding)
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [[format_value(row.get(column)) for column in columns] for row in rows.values()]
    table = [[printable(text, encoding) for text in row] for row in (columns, *cells)]
    widths = [max(len(text) for text in column) for column in zip(*table, strict=True)]
    names = ["layer", *(printable(name, encoding) for name in short_labels(list(rows), _name_room(widths, width)))]
    blocks = _blocks(widths, width - max(map(len, names)))
    lines = [line for start, stop in blocks for line in _lines(names, table, widths, start, stop)]
    return "\n".join([printable(shorten_middle(title, width), encoding), *lines])


def _blocks(widths: list[int], space: int) -> list[tuple[int, int]]:
    """Ranges of columns that fit beside one another; at least one column each."""
    blocks, start, taken = [], 0, 0
    for place, width in enumerate(widths):
        if place > start and taken + width + len(GAP) > space:
            blocks.append((start, place))
            start, taken = place, 0
        taken += width + len(GAP)
    return [*blocks, (start, len(widths))]


def _lines(names: list[str], table: list[list[str]], widths: list[int], start: int, stop: int) -> list[str]:
    width = max(map(len, names))
    rows = [map(str.rjust, row[start:stop], widths[start:stop]) for row in table]
    return [GAP.join([name.ljust(width), *row]) for name, row in zip(names, rows, strict=True)]


def format_value(value: float | None) -> str:
    """A number in few characters; "–" for None and NaN. Counts, given as integers, print as they are.

    >>> [format_value(v) for v in (0.5, -0.034, 0.00344, 17.26, 1234.0, 2.5e-6, 3.1e7, None)]
    ['0.500', '-0.034', '0.0034', '17.3', '1234', '2.5e-06', '3.1e+07', '–']
    """
    if value is None or math.isnan(value):
        return MISSING
    if isinstance(value, int):
        return str(value)
    size = abs(value)
    if value != 0 and (size < 1e-3 or size >= 1e6):
        return f"{value:.1e}" if math.isfinite(value) else f"{value}"
    if 0 < size < 0.01:
        return f"{value:.4f}"
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:.0f}"


def _name_room(widths: list[int], space: int) -> int:
    taken = sum(width + len(GAP) for width in widths)
    return min(MAX_NAME, max(MIN_NAME, space - taken))
