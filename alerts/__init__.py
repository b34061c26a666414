"""Rules, detectors, and the judge that runs them over logged series. Imports neither torch nor Lightning."""

from convscope.alerts.alert import Alert, When
from convscope.alerts.calibration import Calibration, calibrate, calibrate_files, needed_runs, scaled_rules
from convscope.alerts.causes import Cause
from convscope.alerts.incidents import Incident
from convscope.alerts.judge import Judge, judge_run
from convscope.alerts.rules import Condition, Rule, convergence_rules, default_rules, load_rules
from convscope.alerts.series import read_series
from convscope.alerts.watch import Watch

__all__ = [
    "Alert",
    "Calibration",
    "Cause",
    "Condition",
    "Incident",
    "Judge",
    "Rule",
    "Watch",
    "When",
    "calibrate",
    "calibrate_files",
    "convergence_rules",
    "default_rules",
    "judge_run",
    "load_rules",
    "needed_runs",
    "read_series",
    "scaled_rules",
]
