"""Rules, detectors, and the judge that runs them over logged series. Imports neither torch nor Lightning."""

from convscope.alerts.alert import Alert, When
from convscope.alerts.incidents import Incident
from convscope.alerts.judge import Judge, judge_run
from convscope.alerts.rules import Condition, Rule, default_rules, load_rules
from convscope.alerts.watch import Watch

__all__ = [
    "Alert",
    "Condition",
    "Incident",
    "Judge",
    "Rule",
    "Watch",
    "When",
    "default_rules",
    "judge_run",
    "load_rules",
]
