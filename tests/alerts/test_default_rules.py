"""Every default rule fires for what it is for, and is silent on curves that merely move."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import convscope
from convscope.alerts import judge_run
from convscope.alerts.alert import Alert
from convscope.alerts.watch import Watch

LAYERS = 4
Rows = list[dict[str, float]]


def rows(quantity: str, values: list[float], layers: int = LAYERS, others: float | None = None) -> Rows:
    """One quantity of ``LAYERS`` layers by check; with ``others`` the last ``layers`` alone move."""
    return [
        {f"{quantity}/l{i}": value if others is None or i >= LAYERS - layers else others for i in range(LAYERS)}
        for value in values
    ]


def plain(tag: str, values: list[float]) -> Rows:
    return [{tag: value} for value in values]


def both(*parts: Rows) -> Rows:
    return [{k: v for row in at for k, v in row.items()} for at in zip(*parts, strict=True)]


def alerts(series: Rows) -> list[Alert]:
    watch = Watch(convscope.rules.default())
    return [alert for row in series for alert in watch.update(row)]


STEADY = [0.5] * 7
CASES: dict[str, Rows] = {
    "not_finite": plain("anything", [1.0, math.nan]),
    "non_finite_values": rows("health/nonfinite", [0.0, 0.0, 12.0], layers=1, others=0.0),
    "probe_collapse": rows("probe/accuracy", [0.3, 0.6, 0.8, 0.82, 0.81, 0.6], layers=1, others=0.5),
    "memorising": both(
        rows("probe/accuracy", [0.6, 0.8, 0.9, 0.85, 0.81, 0.8, 0.79, 0.78]),
        plain("train_loss", [1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05]),
    ),
    "forgetting": rows("drift/cka_reference", [0.95, 0.8, 0.4]),
    "nothing_yet": both(
        plain("train_loss", [9.0, 2.31, 2.30, 2.31, 2.31]), plain("val_loss", [2.31, 2.32, 2.30, 2.31, 2.30])
    ),
    "at_chance_yet": both(plain("probe/chance", [0.1] * 5), plain("val_acc", [0.1, 0.11, 0.09, 0.1, 0.1])),
    "learns_nothing": both(
        plain("train_loss", [9.0, *[2.31, 2.30] * 3, 2.31]), plain("val_loss", [2.31, 2.32, 2.30, 2.31] * 2)
    ),
    "at_chance": both(plain("probe/chance", [0.1] * 9), plain("val_acc", [0.1, 0.11, 0.09] * 3)),
    "never_above_chance": both(
        plain("probe/chance", [0.1] * 8),
        plain("val_acc", [0.1, 0.11, 0.09, 0.1] * 2),
        plain("val_loss", [2.3, 2.31] * 4),
    ),
    "worse_than_a_guess": both(
        plain("probe/chance", [0.1] * 8),
        plain("probe/guess_loss", [2.3] * 8),
        plain("val_acc", [0.1, 0.11, 0.09, 0.1] * 2),
        plain("train_loss", [3e4, 87.0, 57.0, 50.0, 40.0, 35.0, 31.0, 28.0]),
        plain("val_loss", [58.0, 52.0, 48.0, 44.0, 40.0, 36.0, 33.0, 30.0]),
    ),
    "stalled_layer": rows("health/not_learning", [0.0, 0.0, 1.0], layers=1, others=0.0),
    "nothing_moves": rows("health/update_ratio", [0.0, 0.0]),
    "learning_stopped": rows("health/update_ratio", [0.3, 0.2, 0.2, 0.2, 0.001]),
    "update_surge": rows("health/update_ratio", [0.3, 0.2, 0.2, 0.15, 0.1, 0.1, 0.1, 3.0]),
    "updates_fade": both(
        rows("health/update_ratio", [0.3, 0.2, 0.2, 0.2, 0.08, 0.02, 0.01]),
        plain("convscope/learning_rate", [0.1] * 7),
        plain("train_loss", [2.0, 1.0, 0.7, 0.6, 0.6, 0.6, 0.6]),
    ),
    "weights_shrink": rows("health/weight_norm", [2.0, 2.05, 2.1, 2.1, 2.12, 1.9]),
    "statistics_stopped": rows("health/statistics_change", [0.3, 0.2, 0.1, 0.0]),
    "statistics_surge": rows("health/statistics_change", [0.3, 0.2, 0.1, 0.1, 0.8]),
    "training_loss_rise": plain("train_loss", [2.0, 1.0, 0.5, 0.4, 0.52, 0.6]),
    "validation_loss_rise": plain("val_loss", [2.0, 1.0, 0.8, 0.7, 1.0, 1.1, 1.1, 1.2]),
    "accuracy_fall": plain("val_acc", [0.3, 0.5, 0.6, 0.7, 0.5, 0.5, 0.45]),
    "training_loss_surge": plain("train_loss", [2.0, 1.0, 0.5, 0.4, 0.3, 1.2]),
    "validation_loss_surge": plain("val_loss", [2.0, 1.0, 0.5, 0.4, 0.3, 3.0, 2.0, 2.0]),
    "gap_surge": both(
        plain("train_loss", [2.0, 1.8, 1.7, 1.6, 1.4, 1.0, 0.7]),
        plain("val_loss", [2.0, 1.8, 1.75, 1.65, 1.8, 1.9, 2.1]),
    ),
    "validation_too_good": both(
        plain("train_loss", [2.0, 1.0, 0.5, 0.3, 0.4]), plain("val_loss", [2.0, 1.1, 0.7, 0.5, 0.3])
    ),
    "movement_surge": rows("drift/mean_shift", [0.5, 0.2, 0.1, 0.05, 0.6]),
    "distribution_shift": rows("drift/mean_shift", [0.5, 0.3, 0.2, 0.2, 0.1, 0.1, 2.0], layers=1, others=0.1),
    "activation_surge": rows("health/activation_rms", [1.0, 1.1, 1.0, 1.0, 5.0], layers=1, others=1.0),
    "dead_filter_surge": rows("health/dead_filters", [0.0, 0.1, 0.1, 0.4], layers=1, others=0.0),
    "redundancy_surge": rows("correlation/redundant_share", [0.05] * 5 + [0.3], layers=1, others=0.0),
    "rank_collapse": rows(
        "correlation/effective_rank_ratio", [0.8, 0.7, 0.6, 0.6, 0.6, 0.6, 0.3], layers=1, others=0.5
    ),
    "importance_concentration": rows("importance/gini", [0.4, *[0.5] * 5, 0.8, 0.82], layers=1, others=0.5),
    "overlap_at_chance": plain("resampling/above_chance", [0.0, 0.2, 0.4, 0.5, 0.05]),
    "precision_collapse": rows("resampling/precision_median", [3.0, 2.0, 1.5, 0.8, 0.1], layers=1, others=1.0),
    "exploding_signal": rows("health/gradient_rms", [0.1, 0.05, 0.02, 0.02, 0.01, 0.01, 0.5]),
    "vanishing_signal": rows("health/activation_rms", [1.0, 1.1, 1.0, 0.1], layers=1, others=1.0),
    "representation_jump": rows("drift/cka_previous", [0.6, 0.8, 0.9, 0.95, 0.97, 0.98, 0.2]),
    "explanation_jump": both(
        plain("multi_scale/rank_correlation", [0.6, 0.7, 0.8, 0.75, 0.8, 0.2]),
        plain("val_acc", [0.5, 0.7, 0.9, 0.91, 0.92, 0.91]),
    ),
    "explanation_shift": plain("multi_scale/shift", [0.1, 0.07, 0.05, 0.04, 0.04, 0.26]),
    "explanation_collapse": plain("multi_scale/r2_fine", [0.1, 0.5, 0.7, 0.75, 0.2]),
    "validation_in_training": plain("batches/validation", [0.0, 0.0, 0.2]),
    "samples_repeated": plain("batches/repeated", [0.01, 0.0, 0.02, 0.5]),
    "inputs_rescaled": plain("batches/spread_0", [1.0, 1.01, 1.0, 255.0]),
    "inputs_shifted": plain("batches/level_1", [0.01, 0.0, -0.01, 1.7]),
    "inputs_changed": plain("batches/skew_2", [0.7, 0.71, 0.69, -0.7]),
    "targets_changed": plain("batches/class_share_1", [0.1, 0.11, 0.1, 0.6]),
    "targets_do_not_fit": plain("batches/told", [0.4, 0.41, 0.4, 0.39, 0.2, 0.21, 0.2]),
    "targets_in_one_place": plain("batches/told_most", [0.4, 0.42, 0.41, 0.95]),
    "answers_fall_behind": both(
        plain("probe/accuracy/output", [0.5, 0.7, 0.8, 0.85, 0.85, 0.85]),
        plain("val_acc", [0.4, 0.65, 0.76, 0.82, 0.6, 0.45]),
    ),
    "answers_shift": plain("probe/answer_bias", [0.8, 0.5, 0.3, 0.2, 0.15, 0.12, 0.5, 0.55]),
    "inputs_constant": plain("batches/spread_0", [0.0]),
    "gradients_underflow": plain("gradients/zero", [0.01, 0.02, 0.01, 0.6, 0.7]),
    "gradients_shrink": plain("gradients/norm", [2.0, 1.5, 1.4, 0.001]),
    "no_gradient": plain("gradients/zero", [0.99, 0.98]),
    "gradients_gone": plain("gradients/norm", [1e-12, 1e-12]),
    "filters_copied": rows("correlation/copied_filters", [0.0, 0.0, 0.0, 0.3], layers=1, others=0.0),
    "heldout_changed": plain("zz_convscope/heldout_changed", [0.0, 1.0]),
}


def test_every_default_rule_has_a_case() -> None:
    assert CASES.keys() == {rule.name for rule in convscope.rules.default()}


@pytest.mark.parametrize("name", list(CASES))
def test_a_rule_speaks_for_what_it_is_for_and_not_before(name: str) -> None:
    series = CASES[name]
    (alert,) = [alert for alert in alerts(series) if alert.rule == name]
    assert alert.check == len(series) or name == "memorising"
    assert "{" not in alert.message
    assert "nan" not in alert.message or name == "not_finite"


# Curves of healthy training, in the shapes that fool simple rules.
HEALTHY: dict[str, Rows] = {
    "fine-tuning has arrived when it begins": both(
        plain("probe/chance", [0.1] * 8), plain("val_acc", [0.9] * 8), plain("val_loss", [0.3] * 8)
    ),
    "only the validation loss does not fall": both(
        plain("train_loss", [2.3, 2.0, 1.5, 1.0, 0.5, 0.2]), plain("val_loss", [2.3, 2.31, 2.4, 2.5, 2.6, 2.7])
    ),
    "a slow start": both(
        plain("probe/chance", [0.1] * 7),
        plain("val_acc", [0.1, 0.1, 0.1, 0.1, 0.11, 0.14, 0.2]),
        plain("train_loss", [2.33, 2.32, 2.30, 2.29, 2.27, 2.25, 2.2]),
        plain("val_loss", [2.33, 2.32, 2.31, 2.30, 2.28, 2.26, 2.2]),
    ),
    "accuracy waits for three checks": both(
        plain("probe/chance", [0.1] * 6), plain("val_acc", [0.1, 0.1, 0.1, 0.3, 0.5, 0.6])
    ),
    "accuracy saturates": rows("probe/accuracy", [0.1, 0.5, 0.7, 0.8, 0.84, 0.86, 0.85, 0.87, 0.86, 0.87]),
    "early layers lose what late ones gain": rows("probe/accuracy", [0.6] * 8 + [0.55, 0.5]),
    "the loss falls": plain("train_loss", [2.3 * 0.7**i for i in range(12)]),
    "a warm restart": both(
        plain("train_loss", [1.0, 0.5, 0.3, 0.25, 0.33, 0.28, 0.2, 0.18, 0.25]),
        plain("convscope/learning_rate", [0.1, 0.05, 0.01, 0.001, 0.1, 0.05, 0.01, 0.001, 0.1]),
    ),
    "cosine to nothing": rows(
        "health/update_ratio", [0.3 * (1 + math.cos(math.pi * i / 12)) + 1e-4 for i in range(12)]
    ),
    "a step of the schedule": rows("health/update_ratio", [0.3, 0.2, 0.2, 0.2, 0.02, 0.02, 0.002, 0.002]),
    "warm-up": rows("health/update_ratio", [0.01, 0.03, 0.06, 0.1, 0.12, 0.12, 0.12]),
    "weight decay shrinks all weights from the start": rows("health/weight_norm", [5.0 * 0.93**i for i in range(12)]),
    "running statistics settle": rows("health/statistics_change", [0.3 * 0.7**i for i in range(12)]),
    "updates shrink with the schedule": both(
        rows("health/update_ratio", [0.2 * 0.5**i for i in range(10)]),
        plain("convscope/learning_rate", [0.1 * 0.5**i for i in range(10)]),
        plain("train_loss", [2.0, 1.0, 0.7, 0.65, *[0.6] * 6]),
    ),
    "a network that fits its data moves less": both(
        rows("health/update_ratio", [0.2 * 0.4**i for i in range(10)]),
        plain("convscope/learning_rate", [0.1] * 10),
        plain("train_loss", [2.0 * 0.5**i for i in range(10)]),
    ),
    "the rank settles": rows("correlation/effective_rank_ratio", [0.9, 0.6, 0.45, 0.4, 0.37, 0.35, 0.34, 0.33]),
    "gradients vanish as the loss does": rows("health/gradient_rms", [0.1 * 0.6**i for i in range(12)]),
    "a few filters die": rows("health/dead_filters", [0.0, 0.05, 0.05, 0.1, 0.1, 0.15, 0.15]),
    "explanations change while the network learns": both(
        plain("multi_scale/rank_correlation", [0.5, 0.4, 0.6, 0.5, 0.1, 0.5, 0.6]),
        plain("val_acc", [0.2, 0.3, 0.4, 0.5, 0.7, 0.72, 0.73]),
    ),
    "evidence wanders from place to place": plain("multi_scale/shift", [0.03, 0.02, 0.02, 0.01, 0.03, 0.02, 0.05]),
    "drift slows down": rows("drift/cka_previous", [0.5, 0.7, 0.85, 0.9, 0.95, 0.97, 0.99, 0.96, 0.99]),
}


@pytest.mark.parametrize("name", list(HEALTHY))
def test_default_rules_are_silent_on(name: str) -> None:
    assert [alert for alert in alerts(HEALTHY[name]) if alert.severity != "info"] == []


def test_a_slow_start_is_a_note() -> None:
    found = [(alert.rule, alert.severity, alert.check) for alert in alerts(HEALTHY["a slow start"])]
    assert found == [("nothing_yet", "info", 5), ("at_chance_yet", "info", 5)]


def test_a_warning_of_no_progress_waits_for_the_end_of_a_warm_up() -> None:
    still = both(plain("val_loss", [2.3] * 12), plain("convscope/learning_rate", [0.01 * (i + 1) for i in range(12)]))
    assert [alert.rule for alert in alerts(still)] == ["nothing_yet"]
    flat = both(plain("val_loss", [2.3] * 12), plain("convscope/learning_rate", [0.01] * 12))
    assert [alert.rule for alert in alerts(flat)] == ["nothing_yet", "learns_nothing"]


ONE_POSITION = ("dead_filter_surge", "redundancy_surge", "rank_collapse", "importance_concentration",
                "distribution_shift", "vanishing_signal")  # fmt: skip


@pytest.mark.parametrize("name", ONE_POSITION)
def test_layers_of_one_position_are_left_out_where_a_few_numbers_say_little(name: str) -> None:
    def found(positions: float) -> list[str]:
        sizes = {f"convscope/positions/l{i}": positions for i in range(LAYERS)}
        return [alert.rule for alert in alerts([{**row, **sizes} for row in CASES[name]])]

    assert name not in found(1.0)
    assert name in found(4.0)


def test_a_run_that_learns_nothing_is_said_by_the_fifth_check_and_no_layer_is_blamed() -> None:
    # Every layer is dead, and only the last bias learns.
    layers = rows("health/not_learning", [0.0, *[1.0] * 9], layers=3, others=0.0)
    losses = both(plain("val_loss", [2.35, 2.31, *[2.30] * 8]), layers)
    # The training loss comes with every other check.
    series = [{**row, "train_loss": 2.31} if i % 2 else row for i, row in enumerate(losses)]
    note, found = judge_run(series, convscope.rules.default())
    assert (note.rules, note.severity) == (["nothing_yet"], "info")
    assert note.check <= 5
    assert "nothing has been learnt so far" in note.message
    assert (found.rules, found.severity) == (["learns_nothing"], "warning")
    assert found.check == 8


def test_a_layer_that_stands_still_while_the_loss_falls_is_blamed_at_once() -> None:
    layers = rows("health/not_learning", [0.0, 1.0, 1.0], layers=1, others=0.0)
    found = alerts(both(layers, plain("val_loss", [2.3, 1.5, 1.0])))
    assert [(alert.rule, alert.check) for alert in found] == [("stalled_layer", 2)]


def test_the_sentence_names_layer_numbers_cause_and_place() -> None:
    (alert,) = [a for a in alerts(CASES["probe_collapse"]) if a.rule == "probe_collapse"]
    assert alert.message.startswith("l3 lost 22 points of probe accuracy (0.82 to 0.60)")
    assert "Likely: " in alert.text
    assert "Look at: " in alert.text
    record: dict[str, Any] = alert.as_dict()
    assert record["severity"] == "critical"


def test_the_documentation_lists_every_default_rule() -> None:
    page = Path(__file__).parents[2] / "docs" / "alerts.md"
    text = page.read_text(encoding="utf-8")
    for rule in convscope.rules.default():
        assert f"| `{rule.name}` | {rule.severity}{'*' if rule.alone == 'info' else ''} |" in text


def test_sentences_can_be_printed_on_any_terminal() -> None:
    for rule in convscope.rules.default():
        assert f"{rule.message}{rule.likely}{rule.look_at}".isascii(), rule.name
