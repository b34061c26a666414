"""Judge: rules and incidents over the logged values of a run, live or recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from convscope.alerts.alert import When
from convscope.alerts.incidents import Incident
from convscope.alerts.ledger import Changes, Ledger
from convscope.alerts.rules import Rule
from convscope.alerts.watch import Watch


class Judge:
    """Watches series with rules, and groups the alerts into incidents.

    Args:
        rules: The rules.
        on_fault: As for :class:`~convscope.alerts.Watch`.

    Example:
        >>> from convscope.alerts import load_rules
        >>> when = [{"metric": "val_loss", "detector": {"kind": "threshold", "limit": 2.0}}]
        >>> judge = Judge(load_rules([{"name": "high", "when": when, "message": "{metric} is {value}"}]))
        >>> for epoch, loss in enumerate([1.0, 3.0, 1.0, 0.9]):
        ...     changes = judge.update({"val_loss": loss}, epoch=epoch)
        >>> [(one.sentence, one.duration) for one in judge.incidents]
        [('val_loss is 3.0.', 'epoch 1 to epoch 3, the values are back')]
    """

    def __init__(self, rules: Iterable[Rule], on_fault: Callable[[str, Exception], None] | None = None) -> None:
        self.watch = Watch(rules, on_fault)
        self.ledger = Ledger(self.watch.rules)

    @property
    def incidents(self) -> list[Incident]:
        """All incidents so far, oldest first."""
        return self.ledger.incidents

    def update(self, values: Mapping[str, float], epoch: int = 0, step: int = 0) -> Changes:
        """Take in what was logged since the last check.

        Args:
            values: Values by tag, those of layers in depth order.
            epoch: Epoch, counted from 0.
            step: Training step.
        """
        alerts = self.watch.update(values, epoch, step, held=self.ledger.held())
        changes = self.ledger.update(alerts, values, When(epoch, step, self.watch.checks))
        self.watch.start_over(self.ledger.released(changes.closed))
        return changes

    def state_dict(self) -> dict[str, Any]:
        """State of rules and incidents as plain values."""
        return {"watch": self.watch.state_dict(), "ledger": self.ledger.state_dict()}


def judge_run(checks: Iterable[Mapping[str, float]], rules: Iterable[Rule]) -> list[Incident]:
    """Incidents of a recorded run.

    Args:
        checks: What was logged at each check, by tag; the epoch is the number of the check, from 0.
        rules: The rules.
    """
    found = Judge(rules)
    for epoch, values in enumerate(checks):
        found.update(values, epoch)
    return found.incidents
