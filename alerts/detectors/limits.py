"""Detectors that compare a value with a fixed limit, or with the best or the median of the series so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from convscope._arguments import number, one_of, whole_number
from convscope.alerts.detectors.base import Detector, Direction, Evidence

STILL = 3  # later values that must lie close together
MATURE = 3  # changes from which on a series is taken to have shown its own noise
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

    With ``noise`` the change must also be that many times as large as the largest that the series made before without
    exceeding, or that exceeded and did not last for ``persistence`` values, each taken from the reference of its time:
    a series that swings must swing further. While fewer than three such changes are known, ``prior`` counts as one.

    Args:
        limit: Share of ``|r|``, at least 0.
        least: Smallest change that counts, in the unit of the series, at least 0.
        least_of_first: Smallest change that counts, as a share of the first value's size, at least 0: the same for
            losses of any unit.
        reference: ``"best"`` (the greatest for ``down``, the least for ``up``), ``"worst"`` (the least for ``down``,
            the greatest for ``up``: the range itself must be left) or ``"median"``.
        window: Number of past values that the reference is taken from; None for all.
        noise: Multiple of the series' own largest earlier change, at least 0; with 0 its own noise does not count.
        prior: Change, in the unit of the series, that any young series is taken to be able to make, at least 0.

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
    least_of_first: float = 0.0
    reference: Literal["best", "worst", "median"] = "best"
    window: int | None = None
    noise: float = 0.0
    prior: float = 0.0
    direction: Direction = "down"
    warm_up: int = 1
    _past: list[float] = field(default_factory=list, init=False)
    _first: float | None = field(default=None, init=False)
    _largest: float = field(default=0.0, init=False)  # of the changes that did not exceed
    _changes: int = field(default=0, init=False)  # how many of those are known
    _exceeded: bool = field(default=False, init=False)
    _doubtful: list[float] = field(default_factory=list, init=False)  # the last changes, which exceeded

    def __post_init__(self) -> None:
        super().__post_init__()
        number("limit", self.limit, least=0.0)
        number("least", self.least, least=0.0)
        number("least_of_first", self.least_of_first, least=0.0)
        number("noise", self.noise, least=0.0)
        number("prior", self.prior, least=0.0)
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
        first = 0.0 if self._first is None else abs(self._first)
        least = max(self.least, self.least_of_first * first, self.noise * self._usual())
        self._exceeded = exceeded = self._beyond(score, self.limit) and self._beyond(change, least)
        # Without a limit on the share the amount counts: a rise from nothing is an infinite share.
        return Evidence(True, exceeded, score, reference, excess=abs(score if self.limit else change))

    def _usual(self) -> float:
        """Largest change that this series is known, or taken, to make while nothing is wrong."""
        return max(self._largest, self.prior) if self._changes < MATURE else self._largest

    def _reference(self) -> float:
        if self.reference == "median":
            return median(self._past)
        greatest = (self.reference == "best") == (self.direction == "down")
        return max(self._past) if greatest else min(self._past)

    def rebase(self) -> None:
        del self._past[:-REBASED]
        self._largest, self._changes, self._doubtful = 0.0, 0, []

    def _learn(self, value: float) -> None:
        if self.noise and self._past:
            change = value - self._reference()
            self._learn_change(
                abs(change) if self.direction == "both" else change if self.direction == "up" else -change
            )
        self._exceeded = False
        self._first = value if self._first is None else self._first
        self._past.append(value)
        if self.window is not None:
            del self._past[: -self.window]

    def _learn_change(self, size: float) -> None:
        if self._exceeded:
            self._doubtful.append(size)
            return
        # What exceeded and did not last was noise; what lasted was an alarm.
        noise = [size, *(self._doubtful if len(self._doubtful) < self.persistence else ())]
        self._largest, self._changes = max(self._largest, *noise), self._changes + len(noise)
        self._doubtful = []


@dataclass(kw_only=True)
class NoProgress(Detector):
    r"""A series that has got nowhere since it began: a loss that does not fall (``down``), a score that does not rise.

    It exceeds (direction ``down``) if the best of all later values is not below the first by the share ``limit``, or if
    all later values, at least three, lie within half that share of each other: in a run that fell apart in its first
    steps the first value is the worst of all, and the others lie still. Only the first ``until`` values are judged:
    later a series may well be at rest because it has arrived.

    Args:
        limit: Share of the first value that counts as progress, at least 0.
        until: Number of values that are judged, the first ``warm_up`` included.

    Raises:
        ValueError: if an argument is out of range.

    Source: ours.

    Example:
        >>> stuck, learns = NoProgress(limit=0.03, warm_up=3), NoProgress(limit=0.03, warm_up=3)
        >>> [stuck.update(value).fired for value in (9.1, 2.31, 2.30, 2.31)]
        [False, False, False, True]
        >>> [learns.update(value).fired for value in (2.3, 2.2, 2.0, 1.8)]
        [False, False, False, False]
    """

    limit: float = 0.03
    until: int = 10
    direction: Direction = "down"
    warm_up: int = 3
    _first: float | None = field(default=None, init=False)
    _best: float = field(default=math.inf, init=False)
    _worst: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        number("limit", self.limit, least=0.0)
        whole_number("warm_up", self.warm_up, least=1)
        whole_number("until", self.until, least=self.warm_up)
        one_of("direction", self.direction, ("up", "down"))

    def _judge(self, value: float) -> Evidence:
        sign = 1.0 if self.direction == "down" else -1.0
        best, worst = min(self._best, sign * value), max(self._worst, sign * value)
        assert self._first is not None
        gained, spread = _share_of(self._first - best, self._first), _share_of(worst - best, worst)
        still = self._seen >= STILL and spread <= self.limit / 2
        exceeded = self._seen < self.until and (gained <= self.limit or still)
        return Evidence(True, exceeded, -gained, sign * min(self._first, worst), excess=0.0)

    def _learn(self, value: float) -> None:
        value = value if self.direction == "down" else -value
        if self._first is None:
            self._first = value
        else:
            self._best, self._worst = min(self._best, value), max(self._worst, value)


def _share_of(change: float, whole: float) -> float:
    return change / abs(whole) if whole else math.copysign(math.inf, change) if change else 0.0


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
