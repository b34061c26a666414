"""Watch: runs rules over series, values in, alerts out. Does not know trainers or tensors."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from convscope.alerts.alert import Alert
from convscope.alerts.conditions import ConditionWatch, words
from convscope.alerts.detectors import Gate
from convscope.alerts.rules import Rule

NOT_FINITE = "not_finite"


class Watch:
    """All rules over the series of one run.

    Besides the rules given, every tag that one of them watches gives an alert ``not_finite`` if it turns NaN or
    infinite; a rule of that name replaces this.

    Args:
        rules: The rules.
        on_fault: Called with the name of a rule that fails and the error, while the others go on; without it the
            error is raised.
    """

    def __init__(self, rules: Iterable[Rule], on_fault: Callable[[str, Exception], None] | None = None) -> None:
        self.given = list(rules)
        self.rules = list(self.given)
        if NOT_FINITE not in {rule.name for rule in self.given}:
            self.rules += _not_finite(self.given)
        self._watches = {rule.name: _RuleWatch(rule) for rule in self.rules}
        self._on_fault = on_fault
        self.checks = 0

    def update(
        self, values: Mapping[str, float], epoch: int = 0, step: int = 0, held: Collection[str] = ()
    ) -> list[Alert]:
        """Take in what was logged since the last check; returns the alerts that follow.

        Args:
            values: Values by tag.
            epoch: Epoch, counted from 0.
            step: Training step.
            held: Names of rules that do not fire at this check, but learn from it.
        """
        self.checks += 1
        moment = {"epoch": epoch, "step": step, "check": self.checks}
        found = [self._updated(name, values, moment, name in held) for name in self._watches]
        return [alert for alert in found if alert is not None]

    def start_over(self, names: Iterable[str]) -> None:
        """Let rules take the present level as normal: earlier values do not count for or against it."""
        for name in names:
            self._watches[name].start_over()

    def _updated(self, name: str, values: Mapping[str, float], moment: dict[str, int], held: bool) -> Alert | None:
        try:
            return self._watches[name].update(values, moment, held)
        except Exception as error:
            self._recover(name, error)
            return None

    def _recover(self, name: str, error: Exception) -> None:
        """Let a rule that failed forget what it has learnt, which may come from another rule of that name."""
        if self._on_fault is None:
            raise error
        self._watches[name] = _RuleWatch(self._watches[name].rule)
        self._on_fault(name, error)

    def inactive(self) -> dict[str, list[str]]:
        """Those of the rules that cannot fire, since a condition has matched nothing so far, with its globs."""
        return {rule.name: globs for rule in self.given if (globs := self._watches[rule.name].unmatched())}

    @staticmethod
    def nearest(globs: Iterable[str], keys: Iterable[str]) -> dict[str, list[str]]:
        """The keys that are most similar to each of the globs."""
        known = list(keys)
        return {glob: difflib.get_close_matches(glob, known, n=3, cutoff=0.4) for glob in globs}

    def state_dict(self) -> dict[str, Any]:
        """State of every detector of every series as plain values."""
        return {"checks": self.checks, "rules": {name: watch.state_dict() for name, watch in self._watches.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; rules that are new or have changed start over, rules that are gone are forgotten."""
        self.checks = state["checks"]
        for name in self._watches.keys() & state["rules"].keys():
            try:
                self._watches[name].load_state_dict(state["rules"][name])
            except Exception as error:
                self._recover(name, error)


class _RuleWatch:
    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._conditions = [ConditionWatch(condition) for condition in rule.conditions]
        self._excuses = [ConditionWatch(condition) for condition in rule.excuses]
        self._gate = Gate(cool_down=rule.cool_down)
        # A check that was excused must not count for persistence once the excuse is over.
        self._excuse_lasts = max(condition.memory for condition in self._conditions)
        self._excused_for = 0  # checks to come, this one among them

    def update(self, values: Mapping[str, float], moment: dict[str, int], held: bool) -> Alert | None:
        hold = [condition.update(values) for condition in self._conditions]  # every condition learns
        excuses = [excuse.update(values) for excuse in self._excuses]
        self._excused_for = self._excuse_lasts if any(excuses) else max(self._excused_for - 1, 0)
        _, fired = self._gate.update(all(hold) and not self._excused_for and not held)
        if not fired:
            return None
        alert = self._alert(moment)
        for condition in self._conditions:
            for series in condition.found().values():
                series.detector.restart()
        return alert

    def _alert(self, moment: dict[str, int]) -> Alert:
        found = [condition.found() for condition in self._conditions]
        message = self.rule.message.format(**words(found[0]))
        values = {tag: series.value for condition in found for tag, series in condition.items()}
        expected = {tag: series.expected() for condition in found for tag, series in condition.items()}
        rule = self.rule
        return Alert(
            rule.name, rule.severity, message, rule.likely, rule.look_at, **moment, values=values, expected=expected
        )

    def start_over(self) -> None:
        for condition in self._conditions:
            for series in condition.series.values():
                series.start_over()

    def unmatched(self) -> list[str]:
        """Globs of the conditions that matched nothing."""
        dead = [condition for condition in self._conditions if not condition.series]
        return [glob for condition in dead for glob in sorted(condition.unmatched)]

    def state_dict(self) -> dict[str, Any]:
        parts = [*self._conditions, *self._excuses]
        states = [part.state_dict() for part in parts]
        return {"gate": self._gate.state_dict(), "excused_for": self._excused_for, "conditions": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        parts = [*self._conditions, *self._excuses]
        if len(state["conditions"]) != len(parts):
            return  # another rule by the same name
        self._gate.load_state_dict(state["gate"])
        self._excused_for = state.get("excused_for", 0)
        for part, own in zip(parts, state["conditions"], strict=True):
            part.load_state_dict(own)


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
