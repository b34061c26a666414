"""Base class of detectors: evidence for one value, the gate that turns it into an alarm, saved state."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from convscope._arguments import one_of, whole_number

Direction = Literal["up", "down", "both"]


@dataclass(frozen=True)
class Evidence:
    """Judgement of one value by a detector.

    Attributes:
        ready: True if it can judge yet; if not, ``exceeded`` is False and means nothing.
        exceeded: True if the value lies beyond the limit.
        score: Signed distance that the value (or the chart's statistic) has moved, in the detector's own unit.
        expected: The value that the detector would have expected.
        p_value: Probability of so large a score if nothing has changed; None for detectors that have none.
        excess: Measure of how bad it is, to rank series; the size of the score unless the detector says otherwise.
    """

    ready: bool = False
    exceeded: bool = False
    score: float = 0.0
    expected: float = math.nan
    p_value: float | None = None
    excess: float = math.nan

    def __post_init__(self) -> None:
        if math.isnan(self.excess):
            object.__setattr__(self, "excess", abs(self.score))


@dataclass(frozen=True)
class Verdict:
    """Evidence and its consequence: ``active`` after persistence, ``fired`` once, after the cool-down."""

    evidence: Evidence
    active: bool
    fired: bool


@dataclass
class Gate:
    """Conversion of a sequence of yes and no into single alarms.

    It is active once ``persistence`` of the last ``out_of`` answers were yes. It fires when it becomes active, and not
    again before it has been inactive and ``cool_down`` further answers have passed.

    Raises:
        ValueError: if an argument is out of range.

    Source: m-of-n runs rules, as in Western Electric's Statistical Quality Control Handbook (1956).

    Example:
        >>> gate = Gate(persistence=2, out_of=3)
        >>> [gate.update(answer)[1] for answer in (True, False, True, True, False, False)]
        [False, False, True, False, False, False]
    """

    persistence: int = 1
    out_of: int | None = None
    cool_down: int = 0
    _answers: list[bool] = field(default_factory=list, init=False)
    _was_active: bool = field(default=False, init=False)
    _silent: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        whole_number("persistence", self.persistence, least=1)
        whole_number("cool_down", self.cool_down, least=0)
        if self.out_of is not None:
            whole_number("out_of", self.out_of, least=self.persistence)

    def update(self, exceeded: bool) -> tuple[bool, bool]:
        """Take in one answer; return ``(active, fired)``."""
        self._answers = [*self._answers, exceeded][-(self.out_of or self.persistence) :]
        active = sum(self._answers) >= self.persistence
        rises = active and not self._was_active
        # A rise during the cool-down is not lost: it fires at its end if it is still there.
        fired = rises and self._silent == 0
        self._was_active = active and (fired or self._was_active)
        self._silent = self.cool_down if fired else max(self._silent - 1, 0)
        return active, fired

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return state_of(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` left off."""
        load_state(self, state)


@dataclass(kw_only=True)
class Detector(ABC):
    """Judge of the values of one series as they arrive, 10 to 200 in all.

    Values that are not finite are skipped: :class:`Finite` is the detector for those.

    Args:
        direction: Direction that is worth an alarm.
        warm_up: Number of values taken in before the first is judged.
        persistence: Number of values among the last ``out_of`` that must exceed the limit.
        out_of: See ``persistence``; equal to it by default.
        cool_down: Number of values after an alarm during which there is no other.

    Raises:
        ValueError: if an argument is out of range.
    """

    direction: Direction = "both"
    warm_up: int = 0
    persistence: int = 1
    out_of: int | None = None
    cool_down: int = 0
    _seen: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        one_of("direction", self.direction, get_args(Direction))
        whole_number("warm_up", self.warm_up, least=0)
        self._gate = Gate(self.persistence, self.out_of, self.cool_down)

    @property
    def gives_p_values(self) -> bool:
        """Return whether ``Evidence.p_value`` is given, so that many tests can be controlled by it."""
        return False

    def observe(self, value: float) -> Evidence:
        """Judge ``value`` by the earlier ones, then learn from it. No persistence, no cool-down."""
        if not math.isfinite(value):
            return Evidence()
        evidence = self._judge(float(value)) if self._seen >= self.warm_up else Evidence()
        self._learn(float(value))
        self._seen += 1
        return evidence

    def update(self, value: float) -> Verdict:
        """:meth:`observe`, then persistence and cool-down. After an alarm the chart begins again."""
        evidence = self.observe(value)
        active, fired = self._gate.update(evidence.exceeded)
        if fired:
            self.restart()
        return Verdict(evidence, active, fired)

    def restart(self) -> None:
        """Forget accumulated evidence after an alarm, if there is any; the baseline stays."""
        return

    def rebase(self) -> None:
        """Take the present level as normal, if the detector keeps a past that it compares with."""
        self.restart()

    @abstractmethod
    def _judge(self, value: float) -> Evidence:
        """Evidence of a finite value."""

    def _learn(self, value: float) -> None:
        """Take a finite value into the baseline."""
        return

    def _beyond(self, score: float, limit: float) -> bool:
        """Return whether a signed score lies beyond ``limit`` in the direction that counts."""
        return (self.direction != "down" and score > limit) or (self.direction != "up" and score < -limit)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists: the learnt state, without the arguments."""
        return {**state_of(self), "gate": self._gate.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` left off."""
        own = dict(state)
        self._gate.load_state_dict(own.pop("gate"))
        load_state(self, own)


def state_of(instance: Any) -> dict[str, Any]:
    """A dataclass's fields that are not arguments."""
    return {f.name: copy.copy(getattr(instance, f.name)) for f in fields(instance) if not f.init}


def load_state(instance: Any, state: dict[str, Any]) -> None:
    """Set the fields that :func:`state_of` gave."""
    for name, value in state.items():
        setattr(instance, name, copy.copy(value))
