"""State of conditions: the series that a condition of a rule watches, and the words for its findings."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from convscope.alerts.alert import layer_of
from convscope.alerts.context import POSITIONS
from convscope.alerts.detectors import Evidence, Gate, benjamini_hochberg, quorum
from convscope.alerts.rules import Condition


class Series:
    """One tag of one condition: transform, detector and persistence."""

    def __init__(self, condition: Condition) -> None:
        self.detector = condition.make_detector()
        self.gate = Gate(self.detector.persistence, self.detector.out_of)
        self.transform = condition.transform
        self.previous: float | None = None  # as the transform sees it
        self.base = math.nan  # what the value was compared with, if the transform compares
        self.value, self.active, self.evidence = math.nan, False, Evidence()
        self.ready = False  # whether it has judged a value yet

    def observe(self, value: float) -> None:
        self.value = value
        shown = self._transformed(value)
        self.evidence = Evidence() if shown is None else self.detector.observe(shown)
        self.ready = self.ready or self.evidence.ready

    def decide(self, exceeded: bool) -> None:
        self.active, _ = self.gate.update(exceeded)

    def expected(self) -> float:
        """The expected value in the unit of the tag, whatever transform the detector sees."""
        expected = self.evidence.expected
        if self.transform in ("change", "log_change"):
            expected += self.base
        return 10 ** min(expected, 300) if self.transform.startswith("log") else expected

    def badness(self) -> tuple[float, float]:
        """Key to sort from bad to worse; infinite scores are ordered by how far the value moved."""
        return _size(self.evidence.excess), _size(self.value - self.expected())

    def factor(self) -> float:
        """Factor by which it is larger or smaller than the value that it is compared with."""
        if self.transform == "log_change":
            return 10 ** min(abs(self.evidence.score + self.evidence.expected), 300)
        expected = self.expected()
        ratio = abs(self.value / expected) if expected and self.value else math.inf
        return max(ratio, 1 / ratio) if math.isfinite(ratio) else math.inf

    def _transformed(self, value: float) -> float | None:
        if self.transform == "value" or not math.isfinite(value):
            return value
        if self.transform.startswith("log"):
            if value <= 0:
                return None
            value = math.log10(value)
        if self.transform == "log":
            return value
        previous, self.previous = self.previous, value
        self.base = math.nan if previous is None else previous
        return None if previous is None else value - previous

    def start_over(self) -> None:
        """Forget findings and most of the past: the present level counts as normal from now on."""
        self.detector.rebase()
        self.gate = Gate(self.detector.persistence, self.detector.out_of)
        self.active = False

    def state_dict(self) -> dict[str, Any]:
        own = {"previous": self.previous, "value": self.value, "active": self.active, "ready": self.ready}
        return {**own, "detector": self.detector.state_dict(), "gate": self.gate.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.previous, self.value, self.active = state["previous"], state["value"], state["active"]
        self.ready = state.get("ready", True)
        self.detector.load_state_dict(state["detector"])
        self.gate.load_state_dict(state["gate"])


class ConditionWatch:
    """One condition over all series that match it."""

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self.series: dict[str, Series] = {}
        self.unmatched = set(condition.globs)
        self._others = condition.others
        self._tags: tuple[str, ...] = ()
        self._mine: list[str] = []  # those of them that match

    def update(self, values: Mapping[str, float]) -> bool:
        """Return whether the condition holds now. Series that were not logged stay as they were."""
        fresh = [
            self._observed(tag, value)
            for tag in self._matching(values)
            if (value := self._relative(tag, values)) is not None
        ]
        for series, exceeded in zip(fresh, self._exceeded(fresh), strict=True):
            series.decide(exceeded)
        counted = self._counted()
        active = sum(series.active for series in counted.values())
        judges = sum(series.ready for series in counted.values())
        return judges > 0 and active >= quorum(judges, self.condition.quorum)

    @property
    def memory(self) -> int:
        """Number of checks that an answer is based on."""
        detector = self.condition.make_detector()
        return detector.out_of or detector.persistence

    def found(self) -> dict[str, Series]:
        """The series that make the condition hold, worst first."""
        active = {tag: series for tag, series in self._counted().items() if series.active}
        # A stable sort: of layers that are equally bad the first in depth comes first.
        return dict(sorted(active.items(), key=lambda item: item[1].badness(), reverse=True))

    def _relative(self, tag: str, values: Mapping[str, float]) -> float | None:
        """The value of a tag as ``minus`` and ``per`` want it; None where that cannot be told at this check."""
        if not self._others:
            return values[tag]
        others = {name: _of_same_layer(one, tag) for name, one in self._others.items()}
        if not all(one in values for one in others.values()):
            return None
        value = values[tag]
        if "minus" in others:
            value -= values[others["minus"]]
        if "per" in others:
            if values[others["per"]] == 0:
                return None
            value /= values[others["per"]]
        return value

    def _matching(self, values: Mapping[str, float]) -> list[str]:
        tags = tuple(values)
        if tags != self._tags:  # a run has the same tags at most checks
            mine = [tag for tag in tags if self._matches(tag)]
            self._tags, self._mine = tags, [tag for tag in mine if self._is_wide(tag, values)]
        return self._mine

    def _matches(self, tag: str) -> bool:
        if tag in self._others.values():
            return False
        hits = _hits(tag, tuple(self.condition.globs))
        self.unmatched -= hits
        return bool(hits)

    def _is_wide(self, tag: str, values: Mapping[str, float]) -> bool:
        least = self.condition.positions
        return least == 1 or values.get(f"{POSITIONS}/{layer_of(tag)}", least) >= least

    def _observed(self, tag: str, value: float) -> Series:
        if tag not in self.series:
            self.series[tag] = Series(self.condition)
        self.series[tag].observe(value)
        return self.series[tag]

    def _exceeded(self, fresh: list[Series]) -> list[bool]:
        if self.condition.alpha is None:
            return [series.evidence.exceeded for series in fresh]
        judged = [series for series in fresh if series.evidence.p_value is not None]
        p_values = [series.evidence.p_value for series in judged if series.evidence.p_value is not None]
        rejected = dict(zip(map(id, judged), benjamini_hochberg(p_values, self.condition.alpha), strict=True))
        return [rejected.get(id(series), False) for series in fresh]

    def _counted(self) -> dict[str, Series]:
        """Series in the range of depth that counts; they are in the order in which they were first logged."""
        low, high = self.condition.depth
        places = enumerate(self.series.items())
        return dict(item for place, item in places if low <= (place + 0.5) / len(self.series) <= high)

    def state_dict(self) -> dict[str, Any]:
        series = {tag: one.state_dict() for tag, one in self.series.items()}
        return {"series": series, "unmatched": sorted(self.unmatched), "kind": self._kind()}

    def _kind(self) -> list[str]:
        """Identity of the series' states: states of another detector, or of other tags, cannot be used."""
        return [str(self.condition.detector["kind"]), self.condition.transform, *self.condition.globs]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if list(state.get("kind", self._kind())) != self._kind():
            return
        self.unmatched = set(state["unmatched"]) & set(self.condition.globs)
        self.series = {tag: Series(self.condition) for tag in state["series"]}
        for tag, series in self.series.items():
            series.load_state_dict(state["series"][tag])


@lru_cache(maxsize=65536)  # a replay of many runs asks for the same ones again and again
def _hits(tag: str, globs: tuple[str, ...]) -> frozenset[str]:
    """The globs that a tag matches."""
    return frozenset(glob for glob in globs if fnmatch.fnmatchcase(tag, glob))


def _of_same_layer(other: str, tag: str) -> str:
    """The tag that ``other`` stands for beside ``tag``: itself, or where it ends in ``/*`` that of tag's layer."""
    return other.removesuffix("*") + layer_of(tag) if other.endswith("/*") else other


def words(found: dict[str, Series]) -> dict[str, Any]:
    tag, worst = next(iter(found.items()))
    layers, expected = [layer_of(t) for t in found], worst.expected()
    change = worst.value - expected
    named = ", ".join(layers[1:4]) + (", ..." if len(layers) > 4 else "")
    return {
        "layer": layers[0],
        "layers": ", ".join(layers),
        "count": len(layers),
        "others": f"; also: {named}" if len(layers) > 1 else "",
        "metric": tag,
        "value": worst.value,
        "expected": expected,
        "change": change,
        "percent": abs(100 * change / expected) if expected else math.inf,
        "points": abs(100 * change),
        "factor": worst.factor(),
    }


def _size(score: float) -> float:
    return abs(score) if not math.isnan(score) else math.inf
