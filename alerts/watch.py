"""Watch: runs rules over series, values in, alerts out. Knows no trainer and no tensors."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from convscope.alerts.detectors import Evidence, Gate, benjamini_hochberg, quorum
from convscope.alerts.rules import Condition, Rule

NOT_FINITE = "not_finite"


@dataclass(frozen=True)
class Alert:
    """A rule that fired.

    Attributes:
        rule: Name of the rule.
        severity: ``info``, ``warning`` or ``critical``.
        message: The sentence.
        likely: What is probably the matter.
        look_at: Where to look first.
        epoch: Epoch, counted from 0.
        step: Training step, on the axis that ``self.log`` uses.
        check: Number of the check, counted from 1.
        values: Value by tag of the series that the rule found.
        expected: What the detector would have expected of each.
    """

    rule: str
    severity: str
    message: str
    likely: str
    look_at: str
    epoch: int
    step: int
    check: int
    values: dict[str, float] = field(default_factory=dict)
    expected: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Alert:
        """An alert from its plain values, those of another version among them."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in state.items() if name in known})

    @property
    def text(self) -> str:
        """The alert in one line."""
        likely = f" Likely: {self.likely}." if self.likely else ""
        return f"{self.message}{likely}" + (f" Look at: {self.look_at}." if self.look_at else "")


class Watch:
    """All rules over the series of one run.

    Besides the rules given, every tag that one of them watches is an alert ``not_finite`` where it turns NaN or
    infinite; a rule of that name takes the place of it.

    Args:
        rules: The rules.
        on_fault: Told of a rule that fails, with its name and the error, while the others go on; without it the error
            is raised.
    """

    def __init__(self, rules: Iterable[Rule], on_fault: Callable[[str, Exception], None] | None = None) -> None:
        self.rules = list(rules)
        if NOT_FINITE not in {rule.name for rule in self.rules}:
            self.rules += _not_finite(self.rules)
        self._watches = {rule.name: _RuleWatch(rule) for rule in self.rules}
        self._on_fault = on_fault
        self.checks = 0

    def update(self, values: Mapping[str, float], epoch: int = 0, step: int = 0) -> list[Alert]:
        """Take in what was logged since the last check; returns the alerts that follow."""
        self.checks += 1
        moment = {"epoch": epoch, "step": step, "check": self.checks}
        found = [self._updated(name, values, moment) for name in self._watches]
        return [alert for alert in found if alert is not None]

    def _updated(self, name: str, values: Mapping[str, float], moment: dict[str, int]) -> Alert | None:
        try:
            return self._watches[name].update(values, moment)
        except Exception as error:
            self._start_over(name, error)
            return None

    def _start_over(self, name: str, error: Exception) -> None:
        """A rule that fails forgets what it has learnt, which may be of another rule by that name."""
        if self._on_fault is None:
            raise error
        self._watches[name] = _RuleWatch(self._watches[name].rule)
        self._on_fault(name, error)

    def unmatched(self, keys: Iterable[str], *, optional: bool) -> dict[str, list[str]]:
        """Globs that have matched nothing so far, with the nearest keys; of the optional rules, or of the others."""
        known = list(keys)
        return {
            glob: difflib.get_close_matches(glob, known, n=3, cutoff=0.4)
            for name, watch in self._watches.items()
            if watch.rule.optional == optional and name != NOT_FINITE
            for glob in watch.unmatched()
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain values: what every detector of every series has learnt."""
        return {"checks": self.checks, "rules": {name: watch.state_dict() for name, watch in self._watches.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue; rules that are new or have changed start over, rules that are gone are forgotten."""
        self.checks = state["checks"]
        for name in self._watches.keys() & state["rules"].keys():
            try:
                self._watches[name].load_state_dict(state["rules"][name])
            except Exception as error:
                self._start_over(name, error)


class _Series:
    """One tag of one condition: transform, detector and persistence."""

    def __init__(self, condition: Condition) -> None:
        self.detector = condition.make_detector()
        self.gate = Gate(self.detector.persistence, self.detector.out_of)
        self.transform = condition.transform
        self.previous: float | None = None
        self.value, self.active, self.evidence = math.nan, False, Evidence()

    def observe(self, value: float) -> None:
        self.value = value
        shown = self._transformed(value)
        self.evidence = Evidence() if shown is None else self.detector.observe(shown)

    def decide(self, exceeded: bool) -> None:
        self.active, _ = self.gate.update(exceeded)

    def expected(self) -> float:
        """What was expected, in the unit of the tag as far as the transform allows."""
        expected = self.evidence.expected
        return 10**expected if self.transform == "log" and expected < 300 else expected

    def factor(self) -> float:
        """How many times larger or smaller than what it is compared with."""
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
        return None if previous is None else value - previous

    def state_dict(self) -> dict[str, Any]:
        own = {"previous": self.previous, "value": self.value, "active": self.active}
        return {**own, "detector": self.detector.state_dict(), "gate": self.gate.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.previous, self.value, self.active = state["previous"], state["value"], state["active"]
        self.detector.load_state_dict(state["detector"])
        self.gate.load_state_dict(state["gate"])


class _ConditionWatch:
    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self.series: dict[str, _Series] = {}
        self.unmatched = set(condition.globs)

    def update(self, values: Mapping[str, float]) -> bool:
        """Whether the condition holds now. Series that were not logged stay as they were."""
        fresh = [self._observed(tag, value) for tag, value in values.items() if self._matches(tag)]
        for series, exceeded in zip(fresh, self._exceeded(fresh), strict=True):
            series.decide(exceeded)
        counted = self._counted()
        active = sum(series.active for series in counted.values())
        return bool(counted) and active >= quorum(len(counted), self.condition.quorum)

    def found(self) -> dict[str, _Series]:
        """The series that make the condition hold, the worst first."""
        active = {tag: series for tag, series in self._counted().items() if series.active}
        return dict(sorted(active.items(), key=lambda item: -_size(item[1].evidence.score)))

    def _matches(self, tag: str) -> bool:
        hits = {glob for glob in self.condition.globs if fnmatch.fnmatchcase(tag, glob)}
        self.unmatched -= hits
        return bool(hits)

    def _observed(self, tag: str, value: float) -> _Series:
        series = self.series.setdefault(tag, _Series(self.condition))
        series.observe(value)
        return series

    def _exceeded(self, fresh: list[_Series]) -> list[bool]:
        if self.condition.alpha is None:
            return [series.evidence.exceeded for series in fresh]
        judged = [series for series in fresh if series.evidence.p_value is not None]
        p_values = [series.evidence.p_value for series in judged if series.evidence.p_value is not None]
        rejected = dict(zip(map(id, judged), benjamini_hochberg(p_values, self.condition.alpha), strict=True))
        return [rejected.get(id(series), False) for series in fresh]

    def _counted(self) -> dict[str, _Series]:
        """Series in the depth that counts; they are in the order in which they were first logged."""
        low, high = self.condition.depth
        places = enumerate(self.series.items())
        return dict(item for place, item in places if low <= (place + 0.5) / len(self.series) <= high)

    def state_dict(self) -> dict[str, Any]:
        series = {tag: one.state_dict() for tag, one in self.series.items()}
        return {"series": series, "unmatched": sorted(self.unmatched), "kind": self._kind()}

    def _kind(self) -> list[str]:
        """What the series' states are of: those of another detector, or of other tags, are of no use."""
        return [str(self.condition.detector["kind"]), self.condition.transform, *self.condition.globs]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if list(state.get("kind", self._kind())) != self._kind():
            return
        self.unmatched = set(state["unmatched"]) & set(self.condition.globs)
        self.series = {tag: _Series(self.condition) for tag in state["series"]}
        for tag, series in self.series.items():
            series.load_state_dict(state["series"][tag])


class _RuleWatch:
    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._conditions = [_ConditionWatch(condition) for condition in rule.conditions]
        self._excuses = [_ConditionWatch(condition) for condition in rule.excuses]
        self._gate = Gate(cool_down=rule.cool_down)

    def update(self, values: Mapping[str, float], moment: dict[str, int]) -> Alert | None:
        held = [condition.update(values) for condition in self._conditions]  # every condition learns
        excused = [excuse.update(values) for excuse in self._excuses]
        _, fired = self._gate.update(all(held) and not any(excused))
        if not fired:
            return None
        alert = self._alert(moment)
        for condition in self._conditions:
            for series in condition.found().values():
                series.detector.restart()
        return alert

    def _alert(self, moment: dict[str, int]) -> Alert:
        found = [condition.found() for condition in self._conditions]
        message = self.rule.message.format(**_words(found[0]))
        values = {tag: series.value for condition in found for tag, series in condition.items()}
        expected = {tag: series.expected() for condition in found for tag, series in condition.items()}
        rule = self.rule
        return Alert(
            rule.name, rule.severity, message, rule.likely, rule.look_at, **moment, values=values, expected=expected
        )

    def unmatched(self) -> list[str]:
        """Globs of conditions of which no glob matched anything."""
        dead = [c for c in self._conditions if not c.series]
        return [glob for condition in dead for glob in sorted(condition.unmatched)]

    def state_dict(self) -> dict[str, Any]:
        parts = [*self._conditions, *self._excuses]
        return {"gate": self._gate.state_dict(), "conditions": [part.state_dict() for part in parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        parts = [*self._conditions, *self._excuses]
        if len(state["conditions"]) != len(parts):
            return  # another rule by the same name
        self._gate.load_state_dict(state["gate"])
        for part, own in zip(parts, state["conditions"], strict=True):
            part.load_state_dict(own)


def layer_of(tag: str) -> str:
    """The layer in ``<family>/<quantity>/<layer>``; the tag itself where there is none."""
    parts = tag.split("/", 2)
    return parts[2] if len(parts) == 3 else tag


def _words(found: dict[str, _Series]) -> dict[str, Any]:
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


def _not_finite(rules: list[Rule]) -> list[Rule]:
    globs = list(dict.fromkeys(glob for rule in rules for c in rule.conditions for glob in c.globs))
    if not globs:
        return []
    return [
        Rule(
            name=NOT_FINITE,
            severity="critical",
            when=[{"metric": globs, "detector": {"kind": "finite"}}],
            message="{metric} is {value}{others}",
            likely="the network or its loss has overflowed, or a batch held NaN",
            look_at="learning rate, loss scaling and the last batches",
            cool_down=0,
        )
    ]
