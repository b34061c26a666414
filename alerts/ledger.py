"""Ledger: groups the alerts of a run into incidents, opens them and closes them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from convscope.alerts.alert import Alert, When
from convscope.alerts.causes import default_table
from convscope.alerts.context import Context
from convscope.alerts.depth import DepthOrder
from convscope.alerts.incidents import BACK, SETTLED, Incident
from convscope.alerts.rules import Rule, default_rules
from convscope.alerts.settling import Excursion
from convscope.alerts.symptoms import Symptoms, strongest

CALM = 2  # checks in a row
RANKED = 2  # checks of an incident whose symptoms count for its causes: a training loss is known one check late


@dataclass
class Changes:
    """Changes that one check made to the incidents.

    Attributes:
        alerts: The alerts of the check, with the numbers of their incidents.
        opened: Incidents that are new.
        escalated: Incidents that have become more severe.
        extended: Incidents that were open before and have new alerts, including those that escalated.
        closed: Incidents that are over.
    """

    alerts: list[Alert] = field(default_factory=list)
    opened: list[Incident] = field(default_factory=list)
    escalated: list[Incident] = field(default_factory=list)
    extended: list[Incident] = field(default_factory=list)
    closed: list[Incident] = field(default_factory=list)

    @property
    def told(self) -> list[Incident]:
        """Incidents that are worth a message."""
        return [*self.opened, *self.escalated]

    @property
    def touched(self) -> list[Incident]:
        """Incidents that have changed."""
        return [*self.opened, *self.extended, *self.closed]


class Ledger:
    """The incidents of one run.

    The alerts of one check are one incident, headed by the rule of the lowest :attr:`~convscope.rules.Rule.rank`. While
    it is open, later alerts of rules that may follow from it are added to it. It is closed at the second check in a row
    at which no alert was added and every series that its alerts named is back or has settled.

    Args:
        rules: The rules whose alerts come.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.incidents: list[Incident] = []
        self._rules = {rule.name: rule for rule in rules}
        self._excursions: dict[int, dict[str, Excursion]] = {}
        self._calm: dict[int, int] = {}
        self._context, self._depth = Context(), DepthOrder()
        self._symptoms, self._shown = Symptoms(), dict[int, dict[str, float]]()

    @property
    def open(self) -> list[Incident]:
        """Incidents that are open, the latest first."""
        return [incident for incident in reversed(self.incidents) if incident.is_open]

    def held(self) -> set[str]:
        """Names of the rules that would be misleading now."""
        return self._held_by(self.open)

    def update(self, alerts: Iterable[Alert], values: Mapping[str, float], when: When) -> Changes:
        """Take in one check."""
        changes = Changes()
        self._depth.learn(values)
        context = self._context.update(values)
        for excursions in self._excursions.values():
            for tag in excursions.keys() & values.keys():
                excursions[tag].take(values[tag])
        alerts = list(alerts)
        self._place(alerts, context, when, changes)
        self._rank_causes(self._symptoms.update(values), when)
        fired = [alert.rule for alert in alerts]
        changes.alerts.sort(key=lambda alert: fired.index(alert.rule))
        self._close(when, changes)
        return changes

    # Opening, and adding.

    def _place(
        self, alerts: list[Alert], context: dict[str, tuple[float, float]], when: When, changes: Changes
    ) -> None:
        homes = [(alert, self._home(alert)) for alert in alerts]
        own = [alert for alert, home in homes if home is None]
        for alert, home in homes:
            # An alert that follows from an old incident may also follow from the new one.
            if home is not None and not any(self._follows(alert, other.rule) for other in own):
                self._add(home, alert, when, changes)
            elif home is not None:
                own.append(alert)
        if own:
            self._open(own, context, when, changes)

    def _home(self, alert: Alert) -> Incident | None:
        """The open incident that an alert may follow from, the latest first."""
        return next((one for one in self.open if self._belongs(alert, one)), None)

    def _belongs(self, alert: Alert, incident: Incident) -> bool:
        if alert.severity != "info" and all(one.severity == "info" for one in incident.alerts):
            return False  # a warning is not added to a note
        # An alert nearer to the cause than the head is not a consequence, but a cause of its own. If it makes the
        # incident critical it is reported in any case, and need not be another one.
        escalates = alert.severity == "critical" != incident.severity
        later = escalates or self._rank(alert.rule) >= self._rank(incident.rule)
        return later and any(self._follows(alert, rule) for rule in incident.rules)

    def _rank(self, rule: str) -> int:
        return self._rules[rule].rank if rule in self._rules else 50  # a resumed run may have other rules

    def _follows(self, alert: Alert, rule: str) -> bool:
        return alert.rule == rule or _matches(rule, self._rules[alert.rule].follows)

    def _open(self, alerts: list[Alert], context: dict[str, tuple[float, float]], when: When, changes: Changes) -> None:
        number = len(self.incidents) + 1
        ordered = [replace(alert, incident=number) for alert in sorted(alerts, key=self._order)]
        mine = {tag for alert in ordered for tag in alert.values}
        severity = self._severity([*ordered, *(alert for one in self.open for alert in one.alerts)], ordered)
        incident = Incident(number, severity, ordered, when, changed=self._context.without(context, mine))
        self.incidents.append(incident)
        self._excursions[number], self._calm[number] = {}, 0
        for alert in ordered:
            self._follow(alert)
        changes.alerts += ordered
        changes.opened.append(incident)

    def _severity(self, company: Sequence[Alert], alerts: Sequence[Alert]) -> str:
        """The highest of the alerts; at most that of ``alone`` where one rule is all that has fired."""
        highest = min((alert.severity for alert in alerts), key=_SEVERITY.__getitem__)
        rules = {alert.rule for alert in company if alert.severity != "info"}
        only = self._rules.get(rules.pop()) if len(rules) == 1 else None
        if only is None or only.alone is None:
            return highest
        return max(highest, only.alone, key=_SEVERITY.__getitem__)

    def _order(self, alert: Alert) -> tuple[bool, int, int, float]:
        """Sort key: deepest cause first, notes last; of equal ones the more severe, then the nearest to the input."""
        rank, severity = self._rank(alert.rule), _SEVERITY[alert.severity]
        place = self._depth.place(alert.layers[0] if alert.layers else None)
        return alert.severity == "info", rank, severity, place

    def _add(self, incident: Incident, alert: Alert, when: When, changes: Changes) -> None:
        alert = replace(alert, incident=incident.number)
        incident.alerts.append(alert)
        self._follow(alert)
        self._calm[incident.number] = 0
        changes.alerts.append(alert)
        if incident not in changes.extended:
            changes.extended.append(incident)
        severity = self._severity(incident.alerts, incident.alerts)
        if _SEVERITY[severity] < _SEVERITY[incident.severity]:
            incident.severity, incident.escalated = severity, when
            if incident not in changes.escalated:
                changes.escalated.append(incident)

    def _follow(self, alert: Alert) -> None:
        assert alert.incident is not None
        excursions = self._excursions[alert.incident]
        for tag, value in alert.values.items():
            if tag not in excursions:
                excursions[tag] = Excursion(alert.expected[tag], value, [value])

    def _rank_causes(self, now: dict[str, float], when: When) -> None:
        """Rank the causes of incidents that are new, or one check old."""
        for incident in self.open:
            if not _shipped_names() & set(incident.rules):
                continue  # what a rule of the user's own found need not be any of the table's causes
            if when.check - incident.check < RANKED:
                shown = strongest(self._shown.get(incident.number, {}), now)
                self._shown[incident.number], incident.causes = shown, default_table().rank(shown)
            else:
                self._shown.pop(incident.number, None)

    # Closing.

    def _close(self, when: When, changes: Changes) -> None:
        for incident in self.open:
            if incident in changes.opened or incident in changes.extended:
                continue
            excursions = self._excursions[incident.number].values()
            calm = all(excursion.back or excursion.settled for excursion in excursions)
            self._calm[incident.number] = self._calm[incident.number] + 1 if calm else 0
            if self._calm[incident.number] >= CALM:
                back = all(excursion.back for excursion in excursions)
                incident.closed, incident.ending = when, BACK if back else SETTLED
                del self._excursions[incident.number], self._calm[incident.number]
                changes.closed.append(incident)

    def released(self, closed: list[Incident]) -> set[str]:
        """Names of the rules that are no longer held by any incident."""
        return self._held_by(closed) - self.held()

    def _held_by(self, incidents: list[Incident]) -> set[str]:
        fired = {rule for incident in incidents for rule in incident.rules}
        return {name for name, rule in self._rules.items() if any(_matches(other, rule.held_by) for other in fired)}

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "incidents": [incident.state_dict() for incident in self.incidents],
            "excursions": {
                str(number): {tag: one.state_dict() for tag, one in excursions.items()}
                for number, excursions in self._excursions.items()
            },
            "calm": {str(number): count for number, count in self._calm.items()},
            "context": self._context.state_dict(),
            "depth": list(self._depth.layers),
            "symptoms": self._symptoms.state_dict(),
            "shown": {str(number): shown for number, shown in self._shown.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state, with the incidents that were open."""
        incidents = [Incident.of(one) for one in state["incidents"]]
        excursions = {
            int(number): {tag: Excursion(**one) for tag, one in found.items()}
            for number, found in state["excursions"].items()
        }
        calm = {int(number): int(count) for number, count in state["calm"].items()}
        self._context.load_state_dict(state["context"])
        self._depth.layers = list(state["depth"])
        self._symptoms.load_state_dict(state.get("symptoms", {}))
        self._shown = {int(number): dict(shown) for number, shown in state.get("shown", {}).items()}
        self.incidents, self._excursions, self._calm = incidents, excursions, calm


_SEVERITY = {"critical": 0, "warning": 1, "info": 2}


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


@lru_cache
def _shipped_names() -> frozenset[str]:
    return frozenset(rule.name for rule in default_rules())
