"""Control charts: robust z, EWMA, two-sided CUSUM and Page–Hinkley."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean, median, stdev

from scipy import special

from convscope._arguments import number, share, whole_number
from convscope.alerts.detectors.base import Detector, Evidence

_MAD_TO_SIGMA = 1.4826022185056018  # 1 / Φ⁻¹(3/4): the MAD of a normal series times this is its standard deviation


@dataclass(kw_only=True)
class RobustZ(Detector):
    r"""Distance from the median of past values in robust standard deviations.

    .. math:: z = \frac{x - \operatorname{med}}{\max(1.4826\,\mathrm{MAD},\ \texttt{least\_scale})}

    The p-value takes :math:`z/\sqrt{1+\pi/(2n)}` (the median of ``n`` values has an error too) as a t with
    :math:`\max(0.4\,(n - 1), 1)` degrees of freedom, fitted to the quantiles of normal values: approximate. Its size
    at 5 % was measured between 4 % and 6 % for n of 5 to 60; a test repeats that.

    Args:
        limit: Limit in robust standard deviations, above 0.
        window: Number of past values that count; None for all.
        least_scale: Least standard deviation that an estimate may have, in the unit of the series: with a flat past any
            change would be infinite.

    Raises:
        ValueError: if an argument is out of range.

    Source: Iglewicz & Hoaglin 1993 (the modified z-score; their limit is 3.5); the p-value is ours.

    Example:
        >>> detector = RobustZ(limit=3.5, least_scale=0.01)
        >>> [detector.update(value).fired for value in (1.0, 1.1, 0.9, 1.0, 1.05, 3.0)]
        [False, False, False, False, False, True]
    """

    limit: float = 3.5
    window: int | None = None
    least_scale: float = 1e-12
    warm_up: int = 5
    _past: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        number("limit", self.limit, least=0.0, above=True)
        number("least_scale", self.least_scale, least=0.0, above=True)
        whole_number("warm_up", self.warm_up, least=3)
        if self.window is not None:
            whole_number("window", self.window, least=self.warm_up)

    @property
    def gives_p_values(self) -> bool:
        return True

    def _judge(self, value: float) -> Evidence:
        centre = median(self._past)
        scale = max(_MAD_TO_SIGMA * median(abs(x - centre) for x in self._past), self.least_scale)
        z = (value - centre) / scale
        return Evidence(True, self._beyond(z, self.limit), z, centre, self._p_value(z))

    def _p_value(self, z: float) -> float:
        count = len(self._past)
        t = z / math.sqrt(1 + math.pi / (2 * count))
        if self.direction != "both":
            return _t_tail(t if self.direction == "up" else -t, count)
        return 2 * _t_tail(abs(t), count)

    def _learn(self, value: float) -> None:
        self._past.append(value)
        if self.window is not None:
            del self._past[: -self.window]


@dataclass(kw_only=True)
class _Chart(Detector):
    """A chart of ``(x − mean)/std``; both are given, or estimated from the first ``warm_up`` values and then kept."""

    mean: float | None = None
    std: float | None = None
    least_scale: float = 1e-12
    warm_up: int = 10
    _baseline: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        number("least_scale", self.least_scale, least=0.0, above=True)
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean={self.mean!r}, std={self.std!r}: give both, or neither to estimate them")
        if self.mean is None:
            whole_number("warm_up", self.warm_up, least=3)
        else:
            number("mean", self.mean)
            number("std", self.std, least=0.0, above=True)
            self.warm_up = 0

    def _learn(self, value: float) -> None:
        if self._seen < self.warm_up:
            self._baseline.append(value)

    def _standard(self) -> tuple[float, float]:
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        return fmean(self._baseline), max(stdev(self._baseline), self.least_scale)


@dataclass(kw_only=True)
class EWMA(_Chart):
    r"""Exponentially weighted moving average of the standardised values.

    .. math::
        y_t = \lambda x_t + (1-\lambda) y_{t-1},\quad
        |y_t| > L \sqrt{\tfrac{\lambda}{2-\lambda}\left(1-(1-\lambda)^{2t}\right)}

    The score is :math:`y_t` in its own standard deviations, so that ``limit`` is :math:`L`.

    Args:
        limit: :math:`L`, above 0.
        smoothing: :math:`\lambda` in (0, 1]; 1 is a Shewhart chart.
        mean: In-control mean; estimated from the first ``warm_up`` values if None, as is ``std``.
        std: In-control standard deviation. If it is estimated from few values, false alarms are more frequent than
            the textbook's run lengths.
        least_scale: Least standard deviation that an estimate may have.

    Raises:
        ValueError: if an argument is out of range.

    Source: Roberts 1959; Lucas & Saccucci 1990. Limits are those of the first values, not the asymptotic ones.

    Example:
        >>> detector = EWMA(mean=0.0, std=1.0, limit=2.962, smoothing=0.2)
        >>> [round(detector.update(value).evidence.score, 2) for value in (0.0, 1.0, 2.0, 3.0)]
        [0.0, 0.78, 1.96, 3.45]
    """

    limit: float = 2.962
    smoothing: float = 0.2
    _average: float = field(default=0.0, init=False)
    _steps: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        number("limit", self.limit, least=0.0, above=True)
        share("smoothing", self.smoothing, "a weight")

    @property
    def gives_p_values(self) -> bool:
        return True

    def _judge(self, value: float) -> Evidence:
        mean, std = self._standard()
        self._steps += 1
        self._average += self.smoothing * ((value - mean) / std - self._average)
        score = self._average / math.sqrt(self._variance())
        return Evidence(True, self._beyond(score, self.limit), score, mean, self._p_value(score))

    def _variance(self) -> float:
        """Variance of the average, in units of the values' own."""
        return self.smoothing / (2 - self.smoothing) * (1 - (1 - self.smoothing) ** (2 * self._steps))

    def _p_value(self, score: float) -> float:
        count = len(self._baseline)
        if count:  # the estimated mean has an error too, by 1/count
            score /= math.sqrt(1 + (1 - (1 - self.smoothing) ** self._steps) ** 2 / (count * self._variance()))
        if self.direction != "both":
            return _tail(score if self.direction == "up" else -score, count)
        return 2 * _tail(abs(score), count)

    def restart(self) -> None:
        self._average, self._steps = 0.0, 0


@dataclass(kw_only=True)
class CUSUM(_Chart):
    r"""Tabular two-sided cumulative sum of the standardised values.

    .. math::
        S^+_t = \max(0,\ S^+_{t-1} + x_t - k),\quad S^-_t = \max(0,\ S^-_{t-1} - x_t - k),\quad S^\pm_t > h

    The score is the larger in size of :math:`S^+` and :math:`-S^-`, if the direction allows both.

    Args:
        limit: :math:`h` in standard deviations, above 0.
        slack: :math:`k` in standard deviations, at least 0: half the shift to be found.
        mean: In-control mean; estimated from the first ``warm_up`` values if None, as is ``std``.
        std: In-control standard deviation, see :class:`EWMA`.
        least_scale: Least standard deviation that an estimate may have.

    Raises:
        ValueError: if an argument is out of range.

    Source: Page 1954; Montgomery, Introduction to Statistical Quality Control, chapter 9.

    Example:
        >>> detector = CUSUM(mean=0.0, std=1.0, limit=4.0, slack=0.5)
        >>> [detector.update(value).evidence.score for value in (1.0, 2.0, 2.0, 2.5)]
        [0.5, 2.0, 3.5, 5.5]
    """

    limit: float = 5.0
    slack: float = 0.5
    _high: float = field(default=0.0, init=False)
    _low: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        number("limit", self.limit, least=0.0, above=True)
        number("slack", self.slack, least=0.0)

    def _judge(self, value: float) -> Evidence:
        mean, std = self._standard()
        z = (value - mean) / std
        self._high = max(0.0, self._high + z - self.slack)
        self._low = max(0.0, self._low - z - self.slack)
        high = self._high if self.direction != "down" else 0.0
        low = self._low if self.direction != "up" else 0.0
        score = high if high >= low else -low
        return Evidence(True, self._beyond(score, self.limit), score, mean)

    def restart(self) -> None:
        self._high = self._low = 0.0


@dataclass(kw_only=True)
class PageHinkley(Detector):
    r"""Page–Hinkley test: the cumulative distance from the running mean has left its lowest (highest) point.

    .. math::
        U_t = \alpha U_{t-1} + x_t - \bar{x}_t - \delta,\quad U_t - \min_{s \le t} U_s > \texttt{limit}

    and likewise downwards. All is in the unit of the series; the score is the signed distance. After an alarm it
    starts over, with a new mean.

    Args:
        limit: Limit in the unit of the series, above 0.
        delta: Change that is tolerated at each value, at least 0.
        forgetting: :math:`\alpha` in (0, 1]; 1 forgets nothing.

    Raises:
        ValueError: if an argument is out of range.

    Source: Page 1954, Hinkley 1971, in the form of the ``river`` library, which a test compares it with.

    Example:
        >>> detector = PageHinkley(limit=1.0, delta=0.01, warm_up=3)
        >>> [detector.update(value).fired for value in (0.0, 0.1, 0.0, 0.1, 1.0, 1.0)]
        [False, False, False, False, False, True]
    """

    limit: float = 1.0
    delta: float = 0.005
    forgetting: float = 1.0
    warm_up: int = 5
    _count: int = field(default=0, init=False)
    _mean: float = field(default=0.0, init=False)
    _up: float = field(default=0.0, init=False)
    _down: float = field(default=0.0, init=False)
    _least: float = field(default=math.inf, init=False)
    _most: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        number("limit", self.limit, least=0.0, above=True)
        number("delta", self.delta, least=0.0)
        share("forgetting", self.forgetting, "a factor")

    def observe(self, value: float) -> Evidence:
        if not math.isfinite(value):
            return Evidence()
        self._seen += 1
        self._accumulate(float(value))
        if self._count <= self.warm_up:
            return Evidence()
        return self._judge(float(value))

    def _accumulate(self, value: float) -> None:
        self._count += 1
        self._mean += (value - self._mean) / self._count
        self._up = self.forgetting * self._up + value - self._mean - self.delta
        self._down = self.forgetting * self._down + value - self._mean + self.delta
        self._least, self._most = min(self._least, self._up), max(self._most, self._down)

    def _judge(self, value: float) -> Evidence:
        rise = self._up - self._least if self.direction != "down" else 0.0
        fall = self._most - self._down if self.direction != "up" else 0.0
        score = rise if rise >= fall else -fall
        return Evidence(True, self._beyond(score, self.limit), score, self._mean)

    def restart(self) -> None:
        self._count, self._mean, self._up, self._down = 0, 0.0, 0.0, 0.0
        self._least, self._most = math.inf, -math.inf


def _t_tail(t: float, count: int) -> float:
    return float(special.stdtr(max(0.4 * (count - 1), 1.0), -t))


def _tail(score: float, count: int) -> float:
    """Upper tail of t if the baseline has ``count`` values, of the normal distribution if it was given."""
    return float(special.stdtr(count - 1, -score)) if count else float(special.ndtr(-score))
