"""Incidents: what becomes one, who heads it, what is held while it lasts, and when it is over."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

import convscope
from convscope.alerts import Incident, Judge, judge_run
from convscope.alerts.depth import DepthOrder
from convscope.alerts.incidents import BACK, SETTLED, by_urgency, incident_records, severity_level
from convscope.alerts.rules import Rule, default_rules
from convscope.alerts.watch import Watch
from tests.support.restarts import restarted

LAYERS = ("conv1", "conv2", "conv3", "conv4")
Rows = list[dict[str, float]]


def series(**curves: list[float]) -> Rows:
    """Rows of curves by name; ``health__dead_filters__conv1`` is the tag ``health/dead_filters/conv1``."""
    return [{tag.replace("__", "/"): value for tag, value in zip(curves, row, strict=True)} for row in
            zip(*curves.values(), strict=True)]  # fmt: skip


def layered(quantity: str, values: dict[str, list[float]], usual: float = 0.0) -> Rows:
    """One quantity of all layers, those that are not named at their usual value."""
    length = len(next(iter(values.values())))
    return [{f"{quantity}/{n}": values[n][i] if n in values else usual for n in LAYERS} for i in range(length)]


def together(*parts: Rows) -> Rows:
    return [{tag: value for row in rows for tag, value in row.items()} for rows in zip(*parts, strict=True)]


def up(name: str, metric: str, **changes: Any) -> dict[str, Any]:
    when = [{"metric": metric, "detector": {"kind": "threshold", "limit": 0.5}}]
    return {"name": name, "when": when, "cool_down": 0, "message": f"{name} is high", **changes}


def judged(rows: Rows, *rules: dict[str, Any]) -> list[Incident]:
    return judge_run(rows, convscope.rules.load(list(rules)) if rules else default_rules())


def messages(rows: Rows, rules: list[Rule] | None = None) -> list[int]:
    """Checks, from 0, with a message, once for each."""
    judge = Judge(rules or default_rules())
    return [check for check, row in enumerate(rows) for _ in judge.update(row, check).told]


# One fault, one incident.

DYING = together(
    layered("health/dead_filters", {"conv2": [0.0] * 5 + [0.6] * 5}),
    layered("drift/cka_previous", {n: [0.95] * 5 + [0.2] + [0.95] * 4 for n in ("conv3", "conv4")}, usual=0.95),
    layered("probe/accuracy", {n: [0.3, 0.5, 0.6, 0.62, 0.63, 0.4, 0.5, 0.58, 0.62, 0.63] for n in LAYERS}),
    series(train_loss=[2.0, 1.5, 1.0, 0.9, 0.8, 2.2, 1.5, 1.0, 0.8, 0.7]),
)


def test_alerts_of_one_check_are_one_incident_with_the_cause_first() -> None:
    (incident,) = judged(DYING)
    at_once = ["dead_filter_surge", "representation_jump", "probe_collapse", "training_loss_surge"]
    assert incident.rules == [*at_once, "training_loss_rise"]
    assert (incident.severity, incident.layers[0], incident.opened.check) == ("critical", "conv2", 6)
    assert incident.sentence.startswith("60 points more of conv2's filters are dead")
    assert {alert.incident for alert in incident.alerts} == {1}
    assert messages(DYING) == [5]


def test_the_text_tells_all_of_it_in_sentences() -> None:
    (incident,) = judged(together(DYING, series(convscope__learning_rate=[0.1] * 5 + [0.6] + [0.1] * 4)))
    assert incident.text.startswith(
        "60 points more of conv2's filters are dead than before (60% in all). Likely: a step that was too large, or "
        "biases pushed far below zero. Look at: learning rate, initialisation, and the layer's biases. With it: "
        "probe_collapse (critical, conv3), representation_jump (conv3). What else changed: "
        "learning rate 0.1 to 0.6, training loss 0.8 to 2.2. By all symptoms: "
    )
    named = [cause for cause in incident.causes if cause.text in incident.text]
    assert named == incident.causes[:2]
    assert incident.text.endswith(f"To tell: {incident.causes[0].ask}")
    assert incident.changed == {"learning rate": (0.1, 0.6), "training loss": (0.8, 2.2)}


def test_a_loss_is_context_where_it_rises_and_no_alert_is_about_it() -> None:
    rows = series(x=[0.0, 1.0], train_loss=[1.0, 2.0], val_loss=[1.0, 0.5])
    assert judged(rows, up("a", "x"))[0].changed == {"training loss": (1.0, 2.0)}
    rising = [up("a", "x"), {**up("b", "train_loss"), "when": [{"metric": "train_loss", "detector": {
        "kind": "threshold", "limit": 1.5}}]}]  # fmt: skip
    assert judged(rows, *rising)[0].changed == {}


def test_rank_decides_who_heads_and_a_note_never_heads_a_warning() -> None:
    rows = series(x=[1.0], y=[1.0], z=[1.0])
    rules = [up("late", "x", rank=80), up("early", "y", rank=20), up("note", "z", rank=0, severity="info")]
    (incident,) = judged(rows, *rules)
    assert (incident.rules, incident.severity) == (["early", "late", "note"], "warning")


def test_of_equal_ranks_the_critical_one_heads_then_the_one_nearest_to_the_input() -> None:
    rows = [{"q/a/conv1": 0.0, "q/a/conv2": 1.0, "q/b/conv1": 1.0, "q/b/conv2": 0.0, "x": 1.0}]
    rules = [up("a", "q/a/*"), up("b", "q/b/*"), up("c", "x", severity="critical")]
    assert judged(rows, *rules)[0].rules == ["c", "b", "a"]


# Who is worst.


@pytest.mark.parametrize("worst", LAYERS)
def test_of_layers_that_had_no_dead_filters_the_one_with_most_is_named(worst: str) -> None:
    shares = {name: [0.0] * 5 + [0.97 if name == worst else 0.81] for name in LAYERS}
    (incident,) = judged(layered("health/dead_filters", shares))
    assert incident.layers == [worst, *(name for name in LAYERS if name != worst)]
    assert incident.sentence.startswith(f"97 points more of {worst}'s filters are dead")


def test_a_small_rise_from_little_is_not_worse_than_a_large_one_from_more() -> None:
    shares = {"conv1": [0.01] * 5 + [0.21], "conv3": [0.2] * 5 + [0.9]}
    assert judged(layered("health/dead_filters", shares))[0].layers == ["conv3", "conv1"]


def test_of_layers_that_are_equally_bad_the_first_in_depth_is_named() -> None:
    stands_still = {name: [0.01] * 4 + [0.0] for name in LAYERS}
    (incident,) = judged(layered("health/update_ratio", stands_still))
    assert incident.sentence == (
        "the weights of 4 layers have all but stopped changing: those of conv1 by 0 relative to their size since the "
        "last check, by at least 0.01 in the checks before; also: conv2, conv3, conv4."
    )


def test_depth_is_merged_from_callbacks_that_see_different_layers() -> None:
    order = DepthOrder()
    order.learn(["probe/accuracy/b", "probe/accuracy/d", "probe/accuracy/output"])
    order.learn(["val_loss", "health/rms/a", "health/rms/b", "health/rms/c", "health/rms/d"])
    assert order.layers == ["a", "b", "c", "d", "output"]
    assert [order.place(name) for name in ("a", "output", "x", None)] == [0, 4, math.inf, math.inf]


# What follows, and what does not.


def test_what_follows_is_added_without_a_message() -> None:
    rows = series(x=[1, 1, 1, 1], y=[0, 1, 1, 1])
    rules = [up("x", "x"), up("y", "y", follows=["x"])]
    (incident,) = judged(rows, *rules)
    assert [(a.rule, a.check, a.incident) for a in incident.alerts] == [("x", 1, 1), ("y", 2, 1)]
    assert messages(rows, convscope.rules.load(rules)) == [0]


@pytest.mark.parametrize("changes", [{}, {"follows": ["other"]}, {"follows": ["x"], "rank": 20}])
def test_what_does_not_follow_or_is_nearer_to_the_cause_is_an_incident_of_its_own(changes: dict[str, Any]) -> None:
    rows = series(x=[1, 1, 1], y=[0, 1, 1])
    found = judged(rows, up("x", "x"), up("y", "y", **changes))
    assert [(one.number, one.rules) for one in found] == [(1, ["x"]), (2, ["y"])]


def test_what_may_follow_from_the_old_and_from_the_new_goes_with_the_new() -> None:
    rows = series(x=[1, 1], y=[0, 1], z=[0, 1])
    found = judged(rows, up("x", "x"), up("y", "y", rank=10), up("z", "z", follows=["x", "y"]))
    assert [one.rules for one in found] == [["x"], ["y", "z"]]


def test_a_consequence_that_is_critical_is_one_more_message_and_no_more_than_one() -> None:
    rows = series(x=[1, 1, 1, 1], y=[0, 1, 1, 1], z=[0, 0, 1, 1])
    rules = [up("x", "x"), *(up(n, n, follows=["x"], severity="critical", rank=60) for n in "yz")]
    (incident,) = judged(rows, *rules)
    assert messages(rows, convscope.rules.load(rules)) == [0, 1]
    assert incident.escalated is not None
    assert (incident.severity, incident.escalated.check) == ("critical", 2)
    assert incident.text == "y is high. This began at epoch 0: x is high. With it: y (critical), z (critical)."


def test_numbers_that_break_in_a_critical_incident_are_told_all_the_same() -> None:
    broken = layered("health/nonfinite", {"conv1": [0.0] * 7 + [9.0] * 3})
    found = judged(together(DYING, broken))
    assert [(one.rule, one.severity, one.opened.check) for one in found] == [
        ("dead_filter_surge", "critical", 6), ("non_finite_values", "critical", 8),
    ]  # fmt: skip
    assert messages(together(DYING, broken)) == [5, 7]


def test_a_warning_does_not_go_under_a_note() -> None:
    rows = series(x=[1, 1], y=[0, 1])
    found = judged(rows, up("x", "x", severity="info"), up("y", "y", follows=["x"]))
    assert [one.severity for one in found] == ["info", "warning"]


# What is held.

RECOVERY = together(
    layered("probe/accuracy", {n: [0.4, 0.6, 0.8, 0.82, 0.3, 0.5, 0.6, 0.66, 0.7, 0.72, 0.73, 0.735] for n in LAYERS}),
    series(train_loss=[2.0, 1.5, 1.0, 0.9, 2.2, 1.9, 1.6, 1.4, 1.2, 1.1, 1.0, 0.9]),
)


def test_what_one_rule_says_alone_is_a_note_until_another_joins_it() -> None:
    rows = series(a=[0.0, 1.0, 1.0, 1.0, 1.0], b=[0.0, 0.0, 0.0, 1.0, 1.0])
    rules = [up("a", "a", alone="info", rank=10), up("b", "b", alone="info", rank=20, follows=["a"])]
    (incident,) = judged(rows, *rules)
    assert (incident.opened_as, incident.severity, incident.epoch) == ("info", "warning", 1)
    assert incident.as_dict()["escalated"]["epoch"] == 3
    assert "a is high" in incident.text
    assert "With it: b" in incident.text
    assert messages(rows, convscope.rules.load(rules)) == [1, 3]
    (alone,) = judged([{"a": row["a"], "b": 0.0} for row in rows], *rules)
    assert (alone.severity, alone.escalated) == ("info", None)


def test_beside_an_open_incident_a_rule_is_not_alone() -> None:
    rows = series(a=[0.0, 1.0, 1.0, 1.0], b=[0.0, 0.0, 1.0, 1.0])
    rules = [up("a", "a", alone="info"), up("b", "b", alone="info")]
    first, second = judged(rows, *rules)  # b follows nothing, so it opens its own
    assert (first.severity, second.severity, second.opened_as) == ("info", "warning", "warning")
    together_at_once = judged(series(a=[0.0, 1.0], b=[0.0, 1.0]), *rules)
    assert [one.severity for one in together_at_once] == ["warning"]
    noted = judged(rows, rules[0], up("b", "b", severity="info"))
    assert [one.severity for one in noted] == ["info", "info"]


def test_a_note_that_became_a_warning_becomes_critical_too() -> None:
    rows = series(a=[1.0] * 4, b=[0.0, 1.0, 1.0, 1.0], c=[0.0, 0.0, 1.0, 1.0])
    follow = {"rank": 60, "follows": ["a"]}
    rules = [up("a", "a", alone="info"), up("b", "b", **follow), up("c", "c", severity="critical", **follow)]
    (incident,) = judged(rows, *rules)
    assert (incident.severity, incident.escalated.epoch) == ("critical", 2)  # type: ignore[union-attr]
    assert messages(rows, convscope.rules.load(rules)) == [0, 1, 2]


def test_a_recovery_is_not_called_memorising() -> None:
    watch = Watch(default_rules())
    assert "memorising" in [alert.rule for row in RECOVERY for alert in watch.update(row)]  # by itself it would
    (incident,) = judged(RECOVERY)
    assert incident.rules == ["probe_collapse", "training_loss_surge", "training_loss_rise"]
    assert incident.closed is not None


def test_memorising_is_found_once_the_incident_is_over() -> None:
    later = together(
        layered("probe/accuracy", {n: [0.735, 0.73, 0.67, 0.66, 0.65, 0.64] for n in LAYERS}),
        series(train_loss=[0.8, 0.7, 0.6, 0.5, 0.4, 0.3]),
    )
    assert [one.rules for one in judged(RECOVERY + later)][1:] == [["memorising"]]


def test_a_rule_that_is_held_begins_again_from_where_the_incident_left_the_curve() -> None:
    fall = {"kind": "relative_drop", "limit": 0.2, "warm_up": 1}
    held = {"name": "b", "when": [{"metric": "y", "detector": fall}], "held_by": ["a"], "cool_down": 0}
    y = [1.0, 1.0, 0.7, 0.7, 0.7, 0.7, 0.7, 0.5]
    found = judged(series(x=[0, 1, 1, 0, 0, 0, 0, 0], y=y), up("a", "x"), held)
    assert [(one.rules, one.opened.check) for one in found] == [(["a"], 2), (["b"], 8)]
    assert [one.opened.check for one in judged(series(y=y), held)] == [3]


@pytest.mark.parametrize("high", [1, 2, 3])
def test_a_faster_learning_rate_excuses_a_loss_for_as_long_as_the_persistence_looks_back(high: int) -> None:
    """The loss is up with the rate, and as high at the first check after it: none of that was judged."""
    rates = [0.1] * 5 + [0.6] * high + [0.1] * 4
    losses = [1.0, 0.9, 0.8, 0.7, 0.6] + [0.8] * high
    losses += [losses[-1] + 0.01, 0.5, 0.45, 0.4]
    assert judged(series(train_loss=losses, convscope__learning_rate=rates)) == []
    steady = series(train_loss=losses, convscope__learning_rate=[0.1] * len(losses))
    assert "training_loss_rise" in judged(steady)[0].rules


def test_a_layer_that_comes_back_is_not_blamed_on_inputs() -> None:
    rms = {"conv3": [1.0, 1.1, 1.0, 1.0, 1.0, 0.05, 0.05, 0.06, 0.9, 1.0]}
    found = judged(layered("health/activation_rms", rms, usual=1.0))
    assert [one.rules for one in found] == [["vanishing_signal"]]
    rms["conv3"][-1] = 5.0  # larger than ever is another matter
    assert "activation_surge" in [
        rule for one in judged(layered("health/activation_rms", rms, 1.0)) for rule in one.rules
    ]


# When it is over.


@pytest.mark.parametrize(
    ("values", "closed", "ending"),
    [
        ([1, 2, 1, 1, 1], 4, BACK),  # at the second check in a row
        ([1, 2, 1, 2, 1, 1], 6, BACK),
        ([1, 2, 2, 2, 2, 2], 5, SETTLED),  # three values at rest, twice in a row
        ([1, 2, 2, 3, 4, 4, 4, 4], 8, SETTLED),
        ([1, 2, 3, 4, 5, 6, 7], None, ""),
        ([1, 2, math.nan, math.nan, math.nan, math.nan], None, ""),
        ([1, math.nan, math.nan, math.nan, 1, 1], 6, BACK),
    ],
)
def test_it_is_closed_when_values_are_back_or_have_settled(
    values: list[float], closed: int | None, ending: str
) -> None:
    when = [{"metric": "x", "detector": {"kind": "relative_drop", "direction": "up", "limit": 0.5, "warm_up": 1}}]
    (incident,) = judged(series(x=values), {"name": "a", "when": when, "cool_down": 0})[:1]
    assert (incident.closed.check if incident.closed else None, incident.ending) == (closed, ending)


def test_a_series_that_is_not_logged_stays_as_it_was() -> None:
    rows = [{"x": 1.0}, {"x": 0.0}, {"y": 0.0}, {"x": 0.0}]
    assert judged(rows, up("a", "x"))[0].duration == "epoch 0 to epoch 2, the values are back"


def test_a_fault_after_it_is_over_is_another_incident() -> None:
    found = judged(series(x=[0, 1, 0, 0, 0, 1]), up("a", "x"))
    assert [(one.number, one.opened.check) for one in found] == [(1, 2), (2, 6)]


def test_what_is_open_decides_the_level() -> None:
    judge = Judge(convscope.rules.load([up("a", "x"), up("b", "y", severity="critical")]))
    levels = []
    for x, y in [(0, 0), (1, 0), (1, 1), (1, 0), (0, 0), (0, 0), (0, 0)]:
        judge.update({"x": float(x), "y": float(y)})
        levels.append(severity_level(judge.incidents))
    assert levels == [0, 2, 3, 3, 0, 0, 0]
    assert [one.rule for one in by_urgency(judge.incidents)] == ["b", "a"]


# Plain values.


def test_lines_have_alerts_and_events_and_both_have_the_fields_of_an_alert() -> None:
    (incident,) = judged(series(x=[0, 1, 0, 0]), up("a", "x", likely="a cause"))
    lines = incident_records(incident)
    assert [(line.get("event"), line["check"], line["incident"]) for line in lines] == [
        (None, 2, 1), ("opened", 2, 1), ("closed", 4, 1),
    ]  # fmt: skip
    assert all(line["message"] == "a is high" and line["values"] == {"x": 1} for line in lines)
    assert json.loads(json.dumps(lines)) == lines


@pytest.mark.parametrize("cut", range(1, 12))
def test_state_survives_json_with_an_incident_open(cut: int) -> None:
    rows = together(RECOVERY[:10], DYING[:10])
    whole = judged(rows)
    assert [one.as_dict() for one in restarted(default_rules, rows, cut)] == [one.as_dict() for one in whole]
    assert any(one.closed for one in whole)
