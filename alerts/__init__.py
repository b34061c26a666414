"""Rules, detectors and the watch that runs them over logged series. Knows neither torch nor Lightning."""

from convscope.alerts.rules import Condition, Rule, default_rules, load_rules
from convscope.alerts.watch import Alert, Watch

__all__ = ["Alert", "Condition", "Rule", "Watch", "default_rules", "load_rules"]
