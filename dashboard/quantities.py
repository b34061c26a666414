"""Quantities of convscope's own callbacks: title, unit, range, meaning."""

from __future__ import annotations

from typing import Any

SHARE, COUNT, ANY = (0.0, 1.0), (0.0, None), (None, None)
Range = tuple[float | None, float | None]

_KNOWN: dict[str, dict[str, tuple[str, str, Range, str]]] = {
    "probe": {
        "accuracy": ("Probe accuracy", "accuracy", SHARE, "share of held-out samples that a linear probe gets right"),
        "balanced_accuracy": ("Balanced probe accuracy", "mean recall", SHARE, "mean recall of the classes"),
        "mean_average_precision": ("Mean average precision", "mAP", SHARE, "of the labels, ranked by a linear probe"),
        "r2": ("Explained variance", "R²", (None, 1.0), "share of the targets' variance that a linear probe explains"),
        "miou": ("Mean IoU", "IoU", SHARE, "of masks that a linear probe of each position predicts"),
        "pixel_accuracy": ("Pixel accuracy", "accuracy", SHARE, "share of positions that a linear probe gets right"),
        "selectivity": ("Selectivity", "difference", (-1.0, 1.0), "the probe's score minus that on permuted targets"),
    },
    "importance": {
        "gini": ("Concentration of importance", "Gini", SHARE, "0: all filters equal; towards 1: one has it all"),
        "top_share": ("Share of the top filters", "share", SHARE, "of the total, held by the top 10 %"),
        "mean": ("Mean importance", "criterion", COUNT, "mean over the layer's filters"),
        "rank_stability": (
            "Rank stability",
            "Spearman",
            (-1.0, 1.0),
            "of importance, with the previous check",
        ),
        "turnover": ("Turnover", "share", SHARE, "1 - Jaccard of the top filters with the previous check"),
    },
    "correlation": {
        "mean_abs": ("Mean correlation", "|ρ|", SHARE, "mean over pairs of filters"),
        "redundant_share": ("Redundant pairs", "share", SHARE, "share of pairs with |ρ| above the threshold"),
        "effective_rank": ("Effective rank", "directions", (1.0, None), "exponential of the spectrum's entropy"),
        "effective_rank_ratio": ("Effective rank", "rank / filters", SHARE, "effective rank divided by filters"),
        "participation_ratio": ("Participation ratio", "directions", (1.0, None), "(Σλ)² / Σλ² of the spectrum"),
        "participation_ratio_ratio": ("Participation ratio", "ratio / filters", SHARE, "divided by filters"),
        "constant_filters": ("Constant filters", "filters", COUNT, "filters that do not vary"),
        "copied_filters": ("Copied filters", "share", SHARE, "filters with the activations and the weights of another"),
    },
    "drift": {
        "cka_previous": ("Similarity to the previous check", "CKA", SHARE, "1: the same up to rotation and scale"),
        "cka_first": ("Similarity to the first check", "CKA", SHARE, "1: the same but for rotation, scale"),
        "cka_reference": ("Similarity to the reference", "CKA", SHARE, "1: the same up to rotation and scale"),
        "correlation_change": (
            "Change of correlation",
            "relative",
            COUNT,
            "‖R − R'‖ / ‖R'‖ of the matrix",
        ),
        "mean_shift": ("Shift of means", "standard deviations", COUNT, "of the channel means since the last check"),
        "variance_shift": ("Shift of variances", "share", SHARE, "Σ|v − v'| / Σ(v + v') of the channel variances"),
        "importance_stability_previous": (
            "Stability of importance, previous check",
            "Spearman",
            (-1.0, 1.0),
            "with the last check",
        ),
        "importance_stability_first": (
            "Stability of importance, first check",
            "Spearman",
            (-1.0, 1.0),
            "with the first check",
        ),
    },
    "health": {
        "dead_filters": ("Dead filters", "share", SHARE, "filters that are active for no held-out sample"),
        "constant_filters": ("Constant filters", "share", SHARE, "filters that give one value everywhere"),
        "saturated_filters": ("Saturated filters", "share", SHARE, "filters at a bound of their activation function"),
        "activation_rms": ("Size of activations", "RMS", COUNT, "root mean square"),
        "gradient_rms": ("Size of gradients", "RMS", COUNT, "root mean square of each sample's loss gradient"),
        "activation_ratio": ("Growth of activations", "ratio", COUNT, "RMS here divided by that of the previous layer"),
        "gradient_ratio": ("Growth of gradients", "ratio", COUNT, "RMS of the previous layer divided by that here"),
        "nonfinite": ("NaN and infinite activations", "values", COUNT, "count over the held-out set"),
        "nonfinite_gradients": ("NaN and infinite gradients", "values", COUNT, "count over the held-out set"),
        "died": ("Filters that died", "filters", COUNT, "since the previous check"),
        "revived": ("Filters that came back", "filters", COUNT, "since the previous check"),
        "update_ratio": ("Size of updates", "‖Δw‖/‖w‖", COUNT, "of the layer's weights since the previous check"),
        "not_learning": ("Not learning", "0 or 1", SHARE, "1 if the weights stood still while others moved"),
        "weight_norm": ("Size of weights", "L2 norm", COUNT, "of the layer's weights, biases left out"),
        "statistics_change": (
            "Movement of BatchNorm's statistics",
            "standard deviations",
            COUNT,
            "running mean and deviation since the previous check",
        ),
    },
    "prediction": {
        "true_probability": ("Probability of the true class", "probability", SHARE, "mean over samples"),
        "entropy": ("Entropy of the prediction", "nats", COUNT, "mean over samples"),
        "gain": ("Gain of the layer", "nats", ANY, "mean log p of the true class minus the previous layer's"),
        "agreement": ("Agreement with the output", "share", SHARE, "samples for which both predict the same class"),
        "calibration_error": ("Calibration error", "ECE", SHARE, "expected calibration error, 15 bins"),
    },
    "similarity": {
        "to_previous": ("Similarity to the previous layer", "CKA", SHARE, "debiased estimates may fall below 0"),
        "to_output": ("Similarity to the output", "CKA", SHARE, "debiased estimates may fall below 0"),
    },
    "class_filters": {
        "strongest": ("Strongest correlation with a class", "ρ", (-1.0, 1.0), "mean over classes"),
        "top_share": ("Share of the top filters", "share", SHARE, "of a class, mean over classes"),
        "serving": ("Filters that serve a class", "share", SHARE, "filters in the top of any class"),
    },
    "ablation": {
        "top": ("Loss without a top filter", "loss", ANY, "mean rise where one is ablated"),
        "bottom": ("Loss without a bottom filter", "loss", ANY, "mean rise where one is ablated"),
        "random": ("Loss without a random filter", "loss", ANY, "mean rise where one is ablated"),
    },
    "forward": {
        "area_ascending": ("Area, least important first", "area", SHARE, "under the removal curve"),
        "area_descending": ("Area, most important first", "area", SHARE, "under the removal curve"),
        "area_random": ("Area, random order", "area", SHARE, "under the removal curve"),
        "gap": ("Gap between removal orders", "area", (-1.0, 1.0), "above 0 if the criterion tells what matters"),
        "without_layer": ("Without the layer", "score", SHARE, "all filters removed"),
    },
}


def describe(kind: str, quantity: str) -> dict[str, Any]:
    """Title, unit, range (``low``, ``high``; None if open) and meaning; empty if the quantity is not convscope's own.

    >>> describe("probe", "accuracy")["unit"], describe("mine", "x")
    ('accuracy', {})
    """
    found = _KNOWN.get(kind, {}).get(quantity)
    if found is None and kind == "ablation" and quantity.startswith("spearman_"):
        criterion = quantity.removeprefix("spearman_")
        found = (f"Does {criterion} predict ablation?", "Spearman", (-1.0, 1.0), "of the criterion with the loss rise")
    if found is None:
        return {}
    title, unit, (low, high), meaning = found
    return {"title": title, "unit": unit, "low": low, "high": high, "meaning": meaning}
