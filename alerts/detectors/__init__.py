"""Detectors for short series (10 to 200 values): plain Python, only numbers in and out.

``detector.update(value)`` gives a verdict, and ``state_dict`` holds plain values, so that a run resumes where it was.
"""

from convscope.alerts.detectors.base import Detector, Direction, Evidence, Gate, Verdict
from convscope.alerts.detectors.charts import CUSUM, EWMA, PageHinkley, RobustZ
from convscope.alerts.detectors.control import benjamini_hochberg, quorum
from convscope.alerts.detectors.limits import Finite, NoProgress, RelativeDrop, Threshold

DETECTORS: dict[str, type[Detector]] = {
    "threshold": Threshold,
    "relative_drop": RelativeDrop,
    "robust_z": RobustZ,
    "ewma": EWMA,
    "cusum": CUSUM,
    "page_hinkley": PageHinkley,
    "no_progress": NoProgress,
    "finite": Finite,
}
"""Detectors by their name in rules."""

__all__ = [
    "CUSUM",
    "DETECTORS",
    "Detector",
    "Direction",
    "EWMA",
    "Evidence",
    "Finite",
    "Gate",
    "NoProgress",
    "PageHinkley",
    "RelativeDrop",
    "RobustZ",
    "Threshold",
    "Verdict",
    "benjamini_hochberg",
    "quorum",
]
