"""Tables of the benchmark of scale, with the exponents of growth: docs/benchmarks-scale.md."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.pages import DOCS, write_tables
from benchmarks.scale_cases import CASES

PAGE = DOCS / "benchmarks-scale.md"

SERIES = {
    "layers": "layers",
    "channels": "channels of the two widest layers",
    "heldout": "held-out samples",
    "classes": "classes",
}
Rows = dict[str, dict[str, Any]]


def written(rows: Rows) -> str:
    """Put the tables into the page, between its marks, and return them."""
    tables = "\n\n".join([machine_of(rows), photographs(rows), *(growth(rows, name) for name in SERIES), probe(rows)])
    write_tables(PAGE, tables)
    return tables


def machine_of(rows: Rows) -> str:
    """Machines of the records."""
    return "Machine: " + "; ".join(sorted({row["machine"] for row in rows.values()})) + "."


def photographs(rows: Rows) -> str:
    """One row for each network on large images."""
    head = "| network | layers | held out, chunk | check, s | ÷ forward (F) | ÷ training forward + backward | "
    head += "peak, MiB | training step's peak, MiB | share | event file, KiB per check |"
    lines = ["## Images of ImageNet's size", "", head, "|---" * 10 + "|"]
    for name, row in _of(rows, "photographs"):
        case = CASES[name]
        lines.append(
            f"| {case.title} | {row['layers']} | {case.heldout}, {case.chunk} | {row['seconds']:.1f} | "
            f"{row['forwards']:.1f} | {row['steps']:.2f} | {row['peak']:.0f} | {row['step peak']:.0f} | "
            f"{row['peak'] / row['step peak']:.2f} | {row['written']:.0f} |"
        )
    return "\n".join(lines)


def growth(rows: Rows, series: str) -> str:
    """A series, and the exponents of its columns."""
    found = _of(rows, series)
    columns = ("seconds", "forward", "forwards", "peak", "written")
    head = (
        f"| {SERIES[series]} | observed layers | check, s | forward, s | check ÷ forward | peak, MiB | KiB per check |"
    )
    lines = [f"## Growth with {SERIES[series]}", "", head, "|---" * 7 + "|"]
    for name, row in found:
        lines.append(
            f"| {CASES[name].at:,} | {row['layers']} | {row['seconds']:.2f} | {row['forward']:.3f} | "
            f"{row['forwards']:.1f} | {row['peak']:.0f} | {row['written']:.0f} |"
        )
    at = [CASES[name].at for name, _ in found]
    fits = [exponent(at, [row[column] for _, row in found]) for column in columns]
    ends = [exponent(at[-2:], [row[column] for _, row in found][-2:]) for column in columns]
    for title, values in (("exponent", fits), ("of the last two", ends)):
        cells = [f"{value:.2f}" for value in values]
        lines.append(f"| **{title}** | | {' | '.join(cells)} |")
    return "\n".join(lines)


def probe(rows: Rows) -> str:
    """Memory of a probe of many samples and channels."""
    lines = ["## A probe of 10,000 samples and 2,048 channels", ""]
    lines += ["| what | peak, MiB | training step's peak, MiB | check, s | ÷ forward |", "|---" * 5 + "|"]
    for name, row in _of(rows, "probe"):
        lines.append(
            f"| {CASES[name].title} | {row['peak']:.0f} | {row['step peak']:.0f} | {row['seconds']:.1f} | "
            f"{row['forwards']:.1f} |"
        )
    return "\n".join(lines)


def exponent(x: list[float], y: list[float]) -> float:
    """Slope of the straight line through the logarithms: 1 is linear growth; NaN for a single point."""
    pairs = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True) if a > 0 and b > 0]
    if len(pairs) < 2:
        return math.nan
    middle = [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
    down = sum((a - middle[0]) ** 2 for a, _ in pairs)
    return sum((a - middle[0]) * (b - middle[1]) for a, b in pairs) / down


def _of(rows: Rows, series: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, rows[name]) for name, case in CASES.items() if case.series == series and name in rows]
