"""convscope: watch what a CNN learns while it trains.

Callbacks for a Lightning ``Trainer`` that measure, on a held-out set and layer by layer, probe accuracy, filter
importance and inter-filter correlation, and stream them to TensorBoard::

    trainer = L.Trainer(max_epochs=20, callbacks=convscope.suite("standard"))
"""

from importlib.metadata import version

from convscope import rules
from convscope.callbacks import (
    AblationOracle,
    AlertError,
    ClassFilters,
    DriftAlert,
    FilterCorrelation,
    FilterHealth,
    FilterImportance,
    FilterPictures,
    Findings,
    ForwardFromLayer,
    LayerObserver,
    LayerPrediction,
    LayerProbe,
    LayerResult,
    LayerSimilarity,
    LayerTable,
    MapSpec,
    Moment,
    MultiScaleInterpretation,
    PerLayer,
    RepresentationDrift,
    suite,
)
from convscope.capture import HeldOut, Layer, Record, forward_from_layer

__version__ = version("convscope")

__all__ = [
    "AblationOracle",
    "AlertError",
    "ClassFilters",
    "DriftAlert",
    "FilterCorrelation",
    "FilterHealth",
    "FilterImportance",
    "FilterPictures",
    "Findings",
    "ForwardFromLayer",
    "HeldOut",
    "Layer",
    "LayerObserver",
    "LayerPrediction",
    "LayerProbe",
    "LayerResult",
    "LayerSimilarity",
    "LayerTable",
    "MapSpec",
    "Moment",
    "MultiScaleInterpretation",
    "PerLayer",
    "Record",
    "RepresentationDrift",
    "__version__",
    "forward_from_layer",
    "rules",
    "suite",
]
