"""Metrics of a layer: torchmetrics classes over the pure functions in :mod:`convscope.metrics.functional`."""

from convscope.metrics.ablation import ChannelMean, InterventionOutcome
from convscope.metrics.cka import LinearCKA
from convscope.metrics.correlation import ChannelCorrelation, ChannelMoments
from convscope.metrics.drift import PooledFeatures
from convscope.metrics.functional import CorrelationResult
from convscope.metrics.health import FilterActivity, SignalResult, SignalRMS
from convscope.metrics.importance import (
    ActivationImportance,
    BatchNormImportance,
    GradientActivationImportance,
    OutputCorrelation,
    TaylorImportance,
    WeightImportance,
)
from convscope.metrics.multi_scale import MultiScaleFit, SwitchingAreas
from convscope.metrics.parts import EquivarianceProxy, FilterPartScore, FilterPurity, PeakInstability, PurityResult
from convscope.metrics.prediction import OutputReadout
from convscope.metrics.probe import CentroidProbe, KNNProbe, LogisticProbe, ProbeResult, RidgeProbe
from convscope.metrics.resampling import ImageResampling, ResampledImages
from convscope.metrics.summary import GiniCoefficient, RankStability, TopShare, Turnover
from convscope.metrics.task_probes import (
    MultiLabelProbe,
    MultiLabelResult,
    RegressionProbe,
    RegressionResult,
    SegmentationProbe,
    SegmentationResult,
)

__all__ = [
    "ActivationImportance",
    "BatchNormImportance",
    "CentroidProbe",
    "ChannelCorrelation",
    "ChannelMean",
    "ChannelMoments",
    "CorrelationResult",
    "EquivarianceProxy",
    "FilterActivity",
    "FilterPartScore",
    "FilterPurity",
    "GiniCoefficient",
    "GradientActivationImportance",
    "ImageResampling",
    "InterventionOutcome",
    "KNNProbe",
    "LinearCKA",
    "LogisticProbe",
    "MultiLabelProbe",
    "MultiLabelResult",
    "MultiScaleFit",
    "OutputCorrelation",
    "OutputReadout",
    "PeakInstability",
    "PooledFeatures",
    "ProbeResult",
    "PurityResult",
    "RankStability",
    "RegressionProbe",
    "RegressionResult",
    "ResampledImages",
    "RidgeProbe",
    "SegmentationProbe",
    "SegmentationResult",
    "SignalRMS",
    "SignalResult",
    "SwitchingAreas",
    "TaylorImportance",
    "TopShare",
    "Turnover",
    "WeightImportance",
]
