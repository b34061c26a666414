"""Shares with Wilson's interval, medians with a bootstrap interval, and tables in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Share = tuple[float, float, float]


def share_of(answers: Sequence[bool]) -> Share:
    """Share with Wilson's 95 % interval."""
    count = len(answers)
    if not count:
        return math.nan, 0.0, 1.0
    p, z = sum(answers) / count, 1.96
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return p, max(0.0, centre - half), min(1.0, centre + half)


def counted(answers: Sequence[bool]) -> str:
    """``"8 of 9 (89 %, 57 to 98)"``."""
    p, low, high = share_of(answers)
    if not answers:
        return "–"
    return f"{sum(answers)} of {len(answers)} ({100 * p:.0f} %, {100 * low:.0f} to {100 * high:.0f})"


def interval(values: Sequence[float], statistic: Callable[..., Any] = np.median) -> str:
    """Median with a bootstrap 95 % interval."""
    low, high = bootstrap(values, statistic)
    return f"{statistics.median(values):g} ({low:g} to {high:g})" if values else "–"


def bootstrap(values: Sequence[float], statistic: Callable[..., Any] = np.median) -> tuple[float, float]:
    """Limits of the 95 % interval of a statistic."""
    if not values:
        return math.nan, math.nan
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.percentile(statistic(draws, axis=1), (2.5, 97.5))
    return float(low), float(high)


def yes(answer: bool) -> str:
    """``yes``, or a ``no`` that stands out."""
    return "yes" if answer else "**no**"


def section(title: str, rows: Iterable[Sequence[str]]) -> str:
    """A heading and a table."""
    head, *body = rows
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]
    return "\n".join([f"## {title}", "", *lines])
