"""Every quantity as a pure function of tensors."""

from convscope.metrics.functional.ablation import OutcomeResult, removal_area
from convscope.metrics.functional.cka import linear_cka, linear_cka_matrix
from convscope.metrics.functional.correlation import (
    ChannelStatistics,
    CorrelationResult,
    CorrelationSummary,
    channel_correlation,
    correlation_summary,
    effective_rank,
    participation_ratio,
)
from convscope.metrics.functional.decision import (
    decision_depth,
    information_gain,
    lost_and_found,
    prediction_entropy,
)
from convscope.metrics.functional.drift import correlation_change, mean_shift, variance_shift
from convscope.metrics.functional.health import ActivityResult, filter_activity, signal_rms
from convscope.metrics.functional.importance import (
    activation_importance,
    batch_norm_importance,
    gradient_activation_importance,
    output_correlation,
    taylor_importance,
    weight_importance,
)
from convscope.metrics.functional.logistic import logistic_probe_scores, logistic_scorer
from convscope.metrics.functional.neighbours import (
    centroid_probe_scores,
    centroid_scorer,
    knn_probe_scores,
    knn_scorer,
)
from convscope.metrics.functional.parts import (
    PartScoreResult,
    filter_loss,
    part_maps,
    part_scores,
)
from convscope.metrics.functional.places import PeaksResult, equivariance_proxy, location_instability, peaks
from convscope.metrics.functional.positions import (
    exchanged_labels,
    fair_position_scorer,
    features_at,
    position_scorer,
    spread_positions,
)
from convscope.metrics.functional.readout import calibrated_readout, calibration_error
from convscope.metrics.functional.resampling import (
    Overlap,
    ResamplingScores,
    ResamplingSums,
    permuted_overlap,
    resampling_scores,
    resampling_sums,
    set_overlap,
    top_filters,
)
from convscope.metrics.functional.ridge import ridge_label_predictor, ridge_predictor, ridge_probe_scores, ridge_scorer
from convscope.metrics.functional.scores import (
    Scorer,
    balanced_accuracy,
    best_layer,
    chance_level,
    control_accuracy,
    depth_monotonicity,
    probe_accuracy,
    probe_depth,
    selectivity,
)
from convscope.metrics.functional.serving import ServingResult, serving_filters
from convscope.metrics.functional.summary import gini, rank_stability, top_share, turnover
from convscope.metrics.functional.tasks import (
    blind_average_precision,
    control_score,
    label_prevalence,
    mean_average_precision,
    mean_iou,
    r2_score,
)
from convscope.metrics.functional.updates import (
    WeightUpdate,
    direction_change,
    standing_still,
    update_ratio,
    weight_update,
)

__all__ = [
    "ActivityResult",
    "ChannelStatistics",
    "CorrelationResult",
    "CorrelationSummary",
    "OutcomeResult",
    "Overlap",
    "ResamplingScores",
    "ResamplingSums",
    "PartScoreResult",
    "PeaksResult",
    "Scorer",
    "ServingResult",
    "activation_importance",
    "balanced_accuracy",
    "batch_norm_importance",
    "calibrated_readout",
    "calibration_error",
    "best_layer",
    "centroid_probe_scores",
    "centroid_scorer",
    "chance_level",
    "channel_correlation",
    "control_accuracy",
    "control_score",
    "correlation_change",
    "correlation_summary",
    "decision_depth",
    "depth_monotonicity",
    "direction_change",
    "effective_rank",
    "equivariance_proxy",
    "exchanged_labels",
    "fair_position_scorer",
    "features_at",
    "filter_activity",
    "filter_loss",
    "gini",
    "gradient_activation_importance",
    "information_gain",
    "knn_probe_scores",
    "knn_scorer",
    "blind_average_precision",
    "label_prevalence",
    "linear_cka",
    "linear_cka_matrix",
    "location_instability",
    "logistic_probe_scores",
    "logistic_scorer",
    "lost_and_found",
    "mean_average_precision",
    "mean_iou",
    "mean_shift",
    "output_correlation",
    "part_maps",
    "part_scores",
    "peaks",
    "position_scorer",
    "prediction_entropy",
    "participation_ratio",
    "permuted_overlap",
    "probe_accuracy",
    "probe_depth",
    "r2_score",
    "rank_stability",
    "removal_area",
    "resampling_scores",
    "resampling_sums",
    "ridge_label_predictor",
    "ridge_predictor",
    "ridge_probe_scores",
    "ridge_scorer",
    "selectivity",
    "signal_rms",
    "spread_positions",
    "standing_still",
    "serving_filters",
    "set_overlap",
    "taylor_importance",
    "top_filters",
    "top_share",
    "turnover",
    "update_ratio",
    "weight_update",
    "WeightUpdate",
    "variance_shift",
    "weight_importance",
]
