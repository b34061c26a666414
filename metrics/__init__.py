"""Metrics of a layer: torchmetrics classes over the pure functions in :mod:`convscope.metrics.functional`."""

from convscope.metrics.cka import LinearCKA
from convscope.metrics.correlation import ChannelCorrelation
from convscope.metrics.functional import CorrelationResult
from convscope.metrics.importance import (
    ActivationImportance,
    BatchNormImportance,
    GradientActivationImportance,
    OutputCorrelation,
    TaylorImportance,
    WeightImportance,
)
from convscope.metrics.probe import CentroidProbe, KNNProbe, LogisticProbe, ProbeResult, RidgeProbe
from convscope.metrics.summary import GiniCoefficient, RankStability, TopShare, Turnover

__all__ = [
    "ActivationImportance",
    "BatchNormImportance",
    "CentroidProbe",
    "ChannelCorrelation",
    "CorrelationResult",
    "GiniCoefficient",
    "GradientActivationImportance",
    "KNNProbe",
    "LinearCKA",
    "LogisticProbe",
    "OutputCorrelation",
    "ProbeResult",
    "RankStability",
    "RidgeProbe",
    "TaylorImportance",
    "TopShare",
    "Turnover",
    "WeightImportance",
]
