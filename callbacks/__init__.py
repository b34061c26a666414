"""Lightning callbacks, one file per thing that a user adds to a Trainer, and the parts to write one's own from."""

from convscope.callbacks.ablation import AblationOracle
from convscope.callbacks.alerts import DriftAlert
from convscope.callbacks.class_filters import ClassFilters
from convscope.callbacks.correlation import FilterCorrelation
from convscope.callbacks.drift import RepresentationDrift
from convscope.callbacks.engine.findings import Findings, LayerResult, MapSpec, Moment
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.explainer import Explainer
from convscope.callbacks.filter_loss import FilterLoss
from convscope.callbacks.filter_pictures import FilterPictures
from convscope.callbacks.forward import ForwardFromLayer
from convscope.callbacks.health import FilterHealth
from convscope.callbacks.importance import FilterImportance
from convscope.callbacks.multi_scale import MultiScaleInterpretation
from convscope.callbacks.offline import check, replay
from convscope.callbacks.part_interpretability import PartInterpretability
from convscope.callbacks.parts.actions import AlertError
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.per_layer import PerLayer
from convscope.callbacks.prediction import LayerPrediction
from convscope.callbacks.probe import LayerProbe
from convscope.callbacks.resampling import InputResampling
from convscope.callbacks.similarity import LayerSimilarity
from convscope.callbacks.suites import suite
from convscope.callbacks.table import LayerTable

__all__ = [
    "AblationOracle",
    "AlertError",
    "ClassFilters",
    "DriftAlert",
    "Explainer",
    "FilterCorrelation",
    "FilterHealth",
    "FilterImportance",
    "FilterLoss",
    "FilterPictures",
    "Findings",
    "ForwardFromLayer",
    "InputResampling",
    "LayerObserver",
    "LayerPrediction",
    "LayerProbe",
    "LayerResult",
    "LayerSimilarity",
    "LayerTable",
    "MapSpec",
    "Moment",
    "MultiScaleInterpretation",
    "PartInterpretability",
    "PerLayer",
    "Plan",
    "RepresentationDrift",
    "check",
    "replay",
    "suite",
]
