"""Lightning callbacks: when to observe, what to log, what to keep in a checkpoint."""

from convscope.callbacks.alerts import DriftAlert
from convscope.callbacks.base import LayerObserver
from convscope.callbacks.correlation import FilterCorrelation
from convscope.callbacks.importance import FilterImportance
from convscope.callbacks.prediction import LayerPrediction
from convscope.callbacks.probe import LayerProbe
from convscope.callbacks.suite import suite
from convscope.callbacks.table import LayerTable

__all__ = [
    "DriftAlert",
    "FilterCorrelation",
    "FilterImportance",
    "LayerObserver",
    "LayerPrediction",
    "LayerProbe",
    "LayerTable",
    "suite",
]
