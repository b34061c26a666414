"""The range of a learning map's colours: from chance, or the least value, to the best, without outliers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST_SPAN = 0.05  # share of the quantity's possible range: smaller differences are noise and should not be visible
_FENCE = 3.0  # interquartile ranges beyond the quartiles: Tukey's "far out"


@dataclass(frozen=True)
class Scale:
    """Values of the darkest and the brightest colour, and their names.

    Attributes:
        low: Value at and below which colours are darkest.
        high: Value at and above which colours are brightest.
        low_name: ``"chance"``, or empty.
        high_name: ``"best"``, or empty.
    """

    low: float
    high: float
    low_name: str = ""
    high_name: str = ""


def scale_of(
    values: npt.ArrayLike,
    least: float | None = None,
    most: float | None = None,
    start: float | None = None,
    start_name: str = "",
) -> Scale:
    """The range of colours that distinguishes ``values``.

    It runs from ``start``, else the least value, to the greatest. Values more than three interquartile ranges beyond
    the quartiles do not stretch it. It spans at least 5 % of the possible range, so that noise stays one colour.

    Args:
        values: any shape; NaN and infinite values do not count.
        least: the least value that the quantity can have; None where there is no bound.
        most: the greatest, likewise.
        start: value at which the range begins, such as the accuracy of a guess.
        start_name: name of that value; the upper end is then called "best".

    >>> scale_of([0.25, 0.31, 0.46], 0, 1, start=0.25, start_name="chance")
    Scale(low=0.25, high=0.46, low_name='chance', high_name='best')
    >>> scale_of([0.997, 0.999, 1.0], 0, 1).low
    0.95
    """
    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    if found.size == 0:
        found = np.array([x for x in (start, least, most) if x is not None] or [0.0])
    low, high = _without_outliers(found)
    low = low if start is None else start
    low, high = (max(low, least), max(high, least)) if least is not None else (low, high)
    low, high = (min(low, most), min(high, most)) if most is not None else (low, high)
    low, high = _wide_enough(low, high, least, most, fixed=start is not None)
    return Scale(low, high, start_name, "best" if start_name else "")


def _without_outliers(found: npt.NDArray[np.float64]) -> tuple[float, float]:
    quarter, three = np.percentile(found, [25, 75])
    fence = _FENCE * (three - quarter)
    # If most values are equal (no dead filters), the others are not outliers: the map must show them.
    kept = found[(found >= quarter - fence) & (found <= three + fence)] if fence > 0 else found
    return float(kept.min()), float(kept.max())


def _wide_enough(low: float, high: float, least: float | None, most: float | None, fixed: bool) -> tuple[float, float]:
    bounded = least is not None and most is not None
    span = LEAST_SPAN * (most - least) if bounded else 1e-3 * max(abs(low), abs(high)) or 1.0  # type: ignore[operator]
    missing = span - (high - low)
    if missing <= 0:
        return low, high
    if fixed and (most is None or low + span <= most):
        return low, low + span
    low, high = low - missing / 2, high + missing / 2
    if most is not None and high > most:
        low, high = most - span, most
    if least is not None and low < least:
        low, high = least, least + span
    return low, high
