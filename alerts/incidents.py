"""Incident: one fault and the alerts that follow from it, from the check that found it to the one that closed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from convscope.alerts.alert import Alert, When, sentence
from convscope.alerts.causes import Cause
from convscope.alerts.rules import SEVERITIES

BACK = "the values are back"
SETTLED = "the values have settled"
NAMED = 2  # causes that the text names


@dataclass
class Incident:
    """Group of alerts that is reported as one: the alert nearest to the cause, and those that follow from it.

    An incident has the fields of an :class:`~convscope.alerts.Alert` (``rule``, ``message``, ``values``, …): those of
    the alert that heads it.

    Attributes:
        number: Number in the run, counted from 1; ``incident`` of its alerts.
        severity: The highest of its alerts; less as long as only a rule with :attr:`~convscope.rules.Rule.alone` fired.
        opened_as: Severity at its opening.
        alerts: The one that heads it first, then the others as they came, including those that were only added.
        opened: The check that found it.
        closed: The check that closed it, None while it is open.
        ending: Why it was closed: :data:`BACK` or :data:`SETTLED`.
        escalated: The check at which it last became more severe, None if it never did.
        changed: Other changes since the previous check: ``{"learning rate": (0.01, 0.1)}``, before and now.
        causes: Likely causes by the symptoms of all quantities and layers, the likeliest first; ranked when it is
            opened, and again at the next check. Empty where too few quantities are logged.
    """

    number: int
    severity: str
    alerts: list[Alert]
    opened: When
    closed: When | None = None
    ending: str = ""
    escalated: When | None = None
    opened_as: str = ""
    changed: dict[str, tuple[float, float]] = field(default_factory=dict)
    causes: list[Cause] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.opened_as = self.opened_as or self.severity

    @property
    def head(self) -> Alert:
        """The alert that is nearest to the cause."""
        return self.alerts[0]

    @property
    def is_open(self) -> bool:
        """Return whether it is not closed yet."""
        return self.closed is None

    @property
    def layers(self) -> list[str]:
        """Layers of its alerts, without repetition: those of the head first, worst first."""
        return list(dict.fromkeys(layer for alert in self.alerts for layer in alert.layers))

    @property
    def rules(self) -> list[str]:
        """Names of the rules that fired, without repetition, that of the head first."""
        return list(dict.fromkeys(alert.rule for alert in self.alerts))

    @property
    def sentence(self) -> str:
        """The event in one sentence: the message of the head, with a full stop."""
        return sentence(self.head.message)

    @property
    def consequences(self) -> str:
        """The other alerts in a few words: ``"representation_jump (conv3), training_loss_surge"``; may be empty."""
        return ", ".join(_named(alert) for alert in _once(self.alerts[1:]))

    @property
    def context(self) -> str:
        """Other changes since the previous check: ``"learning rate 0.01 to 0.1"``; may be empty."""
        return ", ".join(f"{name} {before:.3g} to {now:.3g}" for name, (before, now) in self.changed.items())

    @property
    def suspects(self) -> str:
        """The likeliest causes in words, and what tells the first from the others; may be empty."""
        if not self.causes:
            return ""
        named = "; or ".join(cause.text for cause in self.causes[:NAMED])  # shares are evidence, not probabilities
        return f"By all symptoms: {named}. To tell: {sentence(self.causes[0].ask)}"

    @property
    def duration(self) -> str:
        """Moments of its opening and closing: ``"epoch 5 to epoch 8, the values are back"``."""
        if self.closed is None:
            return f"open since {self.opened.label}"
        return f"{self.opened.label} to {self.closed.label}, {self.ending}"

    @property
    def text(self) -> str:
        """The whole incident in one line, as reported when it is opened, or when it has become more severe."""
        parts = [self.sentence, self.head.advice]
        worse = next((alert for alert in self.alerts if alert.severity == self.severity), self.head)
        if self.escalated and worse is not self.head:
            parts[:1] = [sentence(worse.message), f"This began at {self.opened.label}: {self.sentence}"]
        if self.consequences:
            parts.append(f"With it: {self.consequences}.")
        if self.context:
            parts.append(f"What else changed: {self.context}.")
        parts.append(self.suspects)
        return " ".join(part for part in parts if part)

    # Fields of the alert that heads it.

    @property
    def rule(self) -> str:
        """Name of the rule that heads it."""
        return self.head.rule

    @property
    def message(self) -> str:
        """Message of the alert that heads it."""
        return self.head.message

    @property
    def likely(self) -> str:
        """Probable cause."""
        return self.head.likely

    @property
    def look_at(self) -> str:
        """Place to look first."""
        return self.head.look_at

    @property
    def epoch(self) -> int:
        """Epoch in which it was opened, counted from 0."""
        return self.opened.epoch

    @property
    def step(self) -> int:
        """Training step at which it was opened."""
        return self.opened.step

    @property
    def check(self) -> int:
        """Number of the check that opened it."""
        return self.opened.check

    @property
    def values(self) -> dict[str, float]:
        """Value by tag of the series that the head found."""
        return self.head.values

    @property
    def expected(self) -> dict[str, float]:
        """Expected value of each."""
        return self.head.expected

    # Plain values.

    def as_dict(self) -> dict[str, Any]:
        """Plain values: the fields of the head (those of an alert line), and the incident's own."""
        own = {
            "incident": self.number,
            "severity": self.severity,
            "opened_as": self.opened_as,
            "layers": self.layers,
            "rules": self.rules,
            "opened": asdict(self.opened),
            "closed": asdict(self.closed) if self.closed else None,
            "ending": self.ending,
            "escalated": asdict(self.escalated) if self.escalated else None,
            "changed": {name: list(pair) for name, pair in self.changed.items()},
            "causes": [asdict(cause) for cause in self.causes],
            "text": self.text,
        }
        return self.head.as_dict() | own

    def state_dict(self) -> dict[str, Any]:
        """Plain values from which :meth:`of` restores the incident."""
        kept = ("severity", "opened_as", "opened", "closed", "ending", "escalated", "changed", "causes")
        own = {name: self.as_dict()[name] for name in kept}
        return own | {"number": self.number, "alerts": [alert.as_dict() for alert in self.alerts]}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Incident:
        """An incident from its plain values."""
        closed, escalated = state["closed"], state["escalated"]
        return cls(
            number=state["number"],
            severity=state["severity"],
            opened_as=state.get("opened_as", ""),  # as it is now, in states of earlier versions
            alerts=[Alert.of(alert) for alert in state["alerts"]],
            opened=When(**state["opened"]),
            closed=When(**closed) if closed else None,
            ending=state["ending"],
            escalated=When(**escalated) if escalated else None,
            changed={name: (pair[0], pair[1]) for name, pair in state["changed"].items()},
            causes=[Cause(**cause) for cause in state.get("causes", [])],
        )


def incident_records(incident: Incident) -> list[dict[str, Any]]:
    """Lines for a file: one per alert, then one each for its opening, its escalation and its closing.

    A line of an incident has an ``event`` (``opened``, ``escalated`` or ``closed``), and ``epoch``, ``step`` and
    ``check`` of that event; its other fields are those of the alert that heads it, and the incident's own.
    """
    moments = {"opened": incident.opened, "escalated": incident.escalated, "closed": incident.closed}
    lines = [alert.as_dict() for alert in incident.alerts]
    for event, when in moments.items():
        if when is not None:
            lines.append(incident.as_dict() | {"event": event} | asdict(when))
    return lines


def by_urgency(incidents: list[Incident]) -> list[Incident]:
    """Incidents in reading order: critical ones first, open before closed, latest first."""
    return sorted(
        incidents,
        key=lambda one: (-SEVERITIES.index(one.severity), not one.is_open, -one.number),  # type: ignore[arg-type]
    )


def severity_level(incidents: list[Incident]) -> int:
    """The highest severity of those that are open: 0 for none, 1 for info, 2 for warning, 3 for critical."""
    return max((SEVERITIES.index(one.severity) + 1 for one in incidents if one.is_open), default=0)  # type: ignore[arg-type]


def _once(alerts: list[Alert]) -> list[Alert]:
    """The alerts with critical ones first, and each rule once."""
    ordered = sorted(alerts, key=lambda alert: alert.severity != "critical")
    return list({alert.rule: alert for alert in reversed(ordered)}.values())[::-1]


def _named(alert: Alert) -> str:
    notes = [*(["critical"] if alert.severity == "critical" else []), *alert.layers[:1]]
    return f"{alert.rule} ({', '.join(notes)})" if notes else alert.rule
