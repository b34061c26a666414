"""Detectors that compare a value with a fixed limit, or with the best or the median of the series so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from convscope._arguments import number, one_of, whole_number
from convscope.alerts.detectors.base import Detector, Direction, Evidence

REBASED = 2  # past values that are kept when the present level is declared normal


@dataclass(kw_only=True)
class Threshold(Detector):
    """Values beyond a fixed limit: ``value > limit`` (up), ``value < limit`` (down), ``|value| > limit`` (both).

    The score is ``value − limit`` for ``up`` and ``down`` (positive or negative in the direction of the alarm) and the
    value itself for ``both``; ``expected`` is the limit.

    Raises:
        ValueError: if an argument is out of range.

    Source: Shewhart chart with limits known beforehand.

    Example:
        >>> detector = Threshold(limit=0.5, direction="up")
        >>> [detector.update(value).fired for value in (0.2, 0.6, 0.7, 0.1, 0.9)]
        [False, True, False, False, True]
    """

    limit: float
    direction: Direction = "up"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("limit", self.limit, least=0.0 if self.direction == "both" else -math.inf)

    def _judge(self, value: float) -> Evidence:
        if self.direction == "both":
            return Evidence(True, abs(value) > self.limit, value, self.limit)
        score = value - self.limit
        return Evidence(True, self._beyond(score, 0.0), score, self.limit)


@dataclass(kw_only=True)
class RelativeDrop(Detector):
    r"""A fall (or, with ``direction="up"``, a rise) by a share of an earlier level of the series.

    With :math:`r` the reference (``"best"``: the most favourable of the last ``window`` values, ``"median"``: their
    median), the score is :math:`(x - r)/|r|`; it exceeds if it is beyond ``limit`` and :math:`|x - r|` is also beyond
    ``least``. ``limit=0`` with ``least`` gives an absolute drop, ``window=1`` a change since the last value.

    Args:
        limit: Share of ``|r|``, at least 0.
        least: Smallest change that counts, in the unit of the series, at least 0.
        reference: ``"best"`` (the greatest for ``down``, the least for ``up``), ``"worst"`` (the least for ``down``,
            the greatest for ``up``: the range itself must be left) or ``"median"``.
        window: Number of past values that the reference is taken from; None for all.

    Raises:
        ValueError: if an argument is out of range, or ``direction="both"`` comes without ``reference="median"``.

    Source: EarlyStopping's comparison with the best, as a share.

    Example:
        >>> detector = RelativeDrop(limit=0.2, warm_up=2)
        >>> [detector.update(value).fired for value in (0.5, 0.6, 0.55, 0.45, 0.62)]
        [False, False, False, True, False]
    """

    limit: float = 0.2
    least: float = 0.0
    reference: Literal["best", "worst", "median"] = "best"
    window: int | None = None
    direction: Direction = "down"
    warm_up: int = 1
    _past: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        number("limit", self.limit, least=0.0)
        number("least", self.least, least=0.0)
        whole_number("warm_up", self.warm_up, least=1)
        if self.window is not None:
            whole_number("window", self.window, least=1)
        one_of("reference", self.reference, ("best", "worst", "median"))
        if self.direction == "both" and self.reference != "median":
            raise ValueError(
                f"direction='both' with reference={self.reference!r}: best and worst need a direction; "
                "give 'up' or 'down', or reference='median'"
            )

    def _judge(self, value: float) -> Evidence:
        reference = self._reference()
        change = value - reference
        if reference == 0:
            score = math.copysign(math.inf, change) if change else 0.0
        else:
            score = change / abs(reference)
        exceeded = self._beyond(score, self.limit) and self._beyond(change, self.least)
        # Without a limit on the share the amount counts: a rise from nothing is an infinite share.
        return Evidence(True, exceeded, score, reference, excess=abs(score if self.limit else change))

    def _reference(self) -> float:
        if self.reference == "median":
            return median(self._past)
        greatest = (self.reference == "best") == (self.direction == "down")
        return max(self._past) if greatest else min(self._past)

    def rebase(self) -> None:
        del self._past[:-REBASED]

    def _learn(self, value: float) -> None:
        self._past.append(value)
        if self.window is not None:
            del self._past[: -self.window]


@dataclass(kw_only=True)
class Finite(Detector):
    """Detector of NaN and infinite values.

    Raises:
        ValueError: if an argument is out of range.

    Source: ours.

    Example:
        >>> detector = Finite()
        >>> [detector.update(value).fired for value in (0.2, float("nan"), float("inf"), 0.1, float("nan"))]
        [False, True, False, False, True]
    """

    def observe(self, value: float) -> Evidence:
        self._seen += 1
        return Evidence(True, not math.isfinite(value), 0.0 if math.isfinite(value) else math.inf)

    def _judge(self, value: float) -> Evidence:
        return Evidence(True)
