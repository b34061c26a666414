"""convscope: watch what a CNN learns while it trains.

Callbacks for a Lightning ``Trainer`` that measure, on a held-out set and layer by layer, probe accuracy, filter
importance and inter-filter correlation, and stream them to TensorBoard::

    trainer = L.Trainer(max_epochs=20, callbacks=convscope.suite("standard"))
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convscope import rules
    from convscope.callbacks import (
        AblationOracle,
        AlertError,
        ClassFilters,
        DriftAlert,
        Explainer,
        FilterCorrelation,
        FilterHealth,
        FilterImportance,
        FilterLoss,
        FilterPictures,
        Findings,
        ForwardFromLayer,
        InputResampling,
        LayerObserver,
        LayerPrediction,
        LayerProbe,
        LayerResult,
        LayerSimilarity,
        LayerTable,
        MapSpec,
        Moment,
        MultiScaleInterpretation,
        PartInterpretability,
        PerLayer,
        RepresentationDrift,
        check,
        replay,
        suite,
    )
    from convscope.capture import HeldOut, Layer, Record, forward_from_layer
    from convscope.dashboard import read_run
    from convscope.explainers import ExplainerNetwork, InterpretableConv

__version__ = version("convscope")

__all__ = [
    "AblationOracle",
    "AlertError",
    "ClassFilters",
    "DriftAlert",
    "Explainer",
    "ExplainerNetwork",
    "FilterCorrelation",
    "FilterHealth",
    "FilterImportance",
    "FilterLoss",
    "FilterPictures",
    "Findings",
    "ForwardFromLayer",
    "HeldOut",
    "InputResampling",
    "InterpretableConv",
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
    "PartInterpretability",
    "PerLayer",
    "Record",
    "RepresentationDrift",
    "__version__",
    "check",
    "forward_from_layer",
    "read_run",
    "replay",
    "rules",
    "suite",
]

_HOMES = ("convscope.dashboard", "convscope.callbacks", "convscope.capture", "convscope.explainers")
"""Packages in which names are looked up, those without torch and Lightning first."""
_PACKAGES = ("alerts", "callbacks", "capture", "dashboard", "explainers", "loggers", "metrics", "rules")


def __getattr__(name: str) -> Any:
    """Names are imported when they are asked for: a reader of records, or TensorBoard itself, needs no torch."""
    if name in _PACKAGES:
        return importlib.import_module(f"convscope.{name}")
    for home in _HOMES if name in __all__ else ():
        module = importlib.import_module(home)
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module 'convscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
