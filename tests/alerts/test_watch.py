"""Rules at work on series that are known: transforms, depth, quorums, many tests, latching, words, state."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import convscope
from convscope.alerts.alert import Alert, layer_of
from convscope.alerts.watch import Watch

UP = {"kind": "threshold", "limit": 0.5}


def watch(*conditions: dict[str, Any], **changes: Any) -> Watch:
    return Watch(convscope.rules.load([{"name": "a", "when": list(conditions), "cool_down": 0, **changes}]))


def checks(found: Watch, series: dict[str, list[float | None]]) -> list[int]:
    """Numbers, from 0, of the checks at which rule ``a`` fired; None: not logged at that check."""
    length = len(next(iter(series.values())))
    rows = [{tag: v[i] for tag, v in series.items() if v[i] is not None} for i in range(length)]
    return [i for i, row in enumerate(rows) for alert in found.update(row) if alert.rule == "a"]  # type: ignore[arg-type]


def test_an_alert_comes_once_while_the_condition_lasts_and_again_when_it_comes_back() -> None:
    assert checks(watch({"metric": "x", "detector": UP}), {"x": [0, 1, 1, 1, 0, 1]}) == [1, 5]


def test_the_rules_cool_down() -> None:
    assert checks(watch({"metric": "x", "detector": UP}, cool_down=3), {"x": [1, 0, 1, 0, 1, 0, 0]}) == [0, 4]


def test_globs_match_many_series_and_only_those() -> None:
    found = watch({"metric": ["p/*", "q"], "detector": UP})
    (alert,) = found.update({"p/a": 1.0, "p/b": 0.0, "q": 0.7, "r": 9.0})
    assert alert.values == {"p/a": 1.0, "q": 0.7}


def test_values_are_divided_by_those_of_a_tag_or_of_the_same_layer_and_not_judged_without_them() -> None:
    rate = {"u/a": [1.0, 1.0, 1.0, 1.0], "rate": [4.0, None, 0.0, 1.0]}
    assert checks(watch({"metric": "u/*", "per": "rate", "detector": UP}), rate) == [3]
    layers = {"u/q/a": [1.0, 1.0], "u/q/b": [1.0, 1.0], "n/q/a": [4.0, 4.0], "n/q/b": [4.0, 1.0]}
    found = watch({"metric": "u/q/*", "per": "n/q/*", "detector": UP})
    assert checks(found, layers) == [1]
    (alert,) = watch({"metric": "u/q/*", "minus": "n/q/*", "detector": UP}).update(
        {"u/q/a": 1.0, "n/q/a": 0.2, "u/q/b": 9.0}
    )
    assert alert.values == {"u/q/a": 0.8}


@pytest.mark.parametrize(("quorum", "expected"), [(1, [1]), (2, [2]), (3, [3]), (0.5, [2]), (0.9, [3])])
def test_quorum(quorum: float, expected: list[int]) -> None:
    series = {"p/a": [0, 1, 1, 1], "p/b": [0, 0, 1, 1], "p/c": [0, 0, 0, 1]}
    assert checks(watch({"metric": "p/*", "detector": UP, "quorum": quorum}), series) == expected


@pytest.mark.parametrize(("depth", "expected"), [([0, 0.5], [1]), ([0.5, 1], [3]), ([0, 1], [1])])
def test_depth_takes_the_order_of_logging(depth: list[float], expected: list[int]) -> None:
    series = {"p/z": [0, 1, 1, 1], "p/y": [0, 0, 1, 1], "p/b": [0, 0, 0, 1], "p/a": [0, 0, 0, 1]}
    assert checks(watch({"metric": "p/*", "detector": UP, "depth": depth}), series) == expected


def test_all_conditions_must_hold_at_the_same_check() -> None:
    both = watch({"metric": "x", "detector": UP}, {"metric": "y", "detector": {**UP, "direction": "down"}})
    assert checks(both, {"x": [1, 0, 1, 1], "y": [1, 0, 1, 0]}) == [3]


def test_a_rule_is_silent_while_it_is_excused_and_speaks_afterwards_if_it_still_holds() -> None:
    def excused() -> Watch:
        return watch({"metric": "x", "detector": UP}, unless=[{"metric": "y", "detector": UP}])

    assert checks(excused(), {"x": [0, 1, 1, 0, 1, 1], "y": [0, 1, 1, 0, 1, 0]}) == [5]
    assert checks(excused(), {"x": [0, 1, 1], "y": [None, None, None]}) == [1]
    # What excuses it has learnt is in the state, too.
    first, second = excused(), excused()
    first.update({"x": 0.0, "y": 1.0})
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.update({"x": 1.0}) == first.update({"x": 1.0}) == []


def test_a_series_that_is_not_logged_keeps_its_last_answer_and_its_detector_its_data() -> None:
    both = watch({"metric": "x", "detector": UP}, {"metric": "y", "detector": UP})
    assert checks(both, {"x": [1, None, None], "y": [0, 0, 1]}) == [2]
    persistent = watch({"metric": "x", "detector": {**UP, "persistence": 2}})
    assert checks(persistent, {"x": [1, None, None, 1]}) == [3]


def test_persistence_is_each_series_own() -> None:
    series = {"p/a": [1, 0, 1, 0], "p/b": [0, 1, 0, 1]}
    assert checks(watch({"metric": "p/*", "detector": {**UP, "persistence": 2}}), series) == []


@pytest.mark.parametrize(
    ("transform", "values", "expected"),
    [
        ("change", [5.0, 5.4, 6.0, 6.1], [2]),
        ("log", [1.0, 3.0, 10.0, 0.0], [2]),
        ("log_change", [1.0, 0.0, 2.0, 20.0], [3]),
    ],
)
def test_transforms(transform: str, values: list[float], expected: list[int]) -> None:
    limit = {"change": 0.5, "log": 0.5, "log_change": 0.5}[transform]
    found = watch({"metric": "x", "transform": transform, "detector": {"kind": "threshold", "limit": limit}})
    assert checks(found, {"x": values}) == expected


def test_false_discovery_rate_over_layers_and_quantities() -> None:
    """24 noisy series of 40 checks: judged one by one they nearly all cry wolf, together hardly ever."""

    def share(alpha: float | None) -> float:
        fired = 0
        for seed in range(40):
            noise = np.random.default_rng(seed).normal(size=(24, 12))
            detector = {"kind": "robust_z", "limit": 2.0, "warm_up": 8}
            when = {"metric": "p/*", "detector": detector, **({} if alpha is None else {"alpha": alpha})}
            fired += bool(checks(watch(when), {f"p/{i}": list(row) for i, row in enumerate(noise)}))
        return fired / 40

    assert share(None) > 0.9
    assert share(0.01) < 0.25  # four checks are judged in each run


def test_false_discovery_rate_finds_what_is_there() -> None:
    noise = np.random.default_rng(0).normal(size=(12, 12))
    noise[:6, -1] += 40
    when = {"metric": "p/*", "detector": {"kind": "robust_z", "warm_up": 8}, "alpha": 0.01}
    assert 11 in checks(watch(when), {f"p/{i}": list(row) for i, row in enumerate(noise)})


# Words.


def test_the_message_names_the_worst_layer_and_the_others() -> None:
    message = "{layer} lost {points:.0f} points ({percent:.0f} %) of {metric}{others}; {count}: {layers}"
    drop = {"kind": "relative_drop", "limit": 0.1}
    found = watch({"metric": "probe/accuracy/*", "detector": drop}, message=message)
    layers = {"probe/accuracy/conv1": 0.5, "probe/accuracy/layer.conv2": 0.8, "probe/accuracy/c3": 0.8}
    found.update(layers)
    (alert,) = found.update({"probe/accuracy/conv1": 0.4, "probe/accuracy/layer.conv2": 0.4, "probe/accuracy/c3": 0.8})
    assert alert.message == (
        "layer.conv2 lost 40 points (50 %) of probe/accuracy/layer.conv2; also: conv1; 2: layer.conv2, conv1"
    )
    assert alert.expected == {"probe/accuracy/layer.conv2": 0.8, "probe/accuracy/conv1": 0.5}


@pytest.mark.parametrize(
    ("transform", "values", "expected"),
    [
        ("value", [0.2, 0.9], 0.5),
        ("change", [2.0, 2.9], 2.5),
        ("log", [1.0, 9.0], 10**0.5),
        ("log_change", [3.0, 30.0], 3 * 10**0.5),
    ],
)
def test_what_was_expected_is_in_the_unit_of_the_value(transform: str, values: list[float], expected: float) -> None:
    found = watch({"metric": "x", "transform": transform, "detector": UP}, message="{value} {expected}")
    found.update({"x": values[0]})
    (alert,) = found.update({"x": values[1]})
    assert alert.expected["x"] == pytest.approx(expected)
    assert [float(word) for word in alert.message.split()] == pytest.approx([values[1], expected])


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("it fell", "it fell. Likely: a cause. Look at: a place."),
        ("it fell.", "it fell. Likely: a cause. Look at: a place."),
        ("did it fall?", "did it fall? Likely: a cause. Look at: a place."),
    ],
)
def test_a_sentence_ends_before_the_next_one_begins(message: str, text: str) -> None:
    (alert,) = watch({"metric": "x", "detector": UP}, message=message, likely="a cause", look_at="a place.").update(
        {"x": 1.0}
    )
    assert alert.text == text


def test_layer_of_a_tag() -> None:
    assert [layer_of(tag) for tag in ("probe/accuracy/layer/1.conv", "val_loss", "probe/depth")] == [
        "layer/1.conv", "val_loss", "probe/depth",
    ]  # fmt: skip


def test_the_moment_is_the_callers() -> None:
    found = watch({"metric": "x", "detector": UP})
    found.update({"x": 0.0})
    (alert,) = found.update({"x": 1.0}, epoch=7, step=42)
    assert (alert.epoch, alert.step, alert.check) == (7, 42, 2)
    assert Alert(**json.loads(json.dumps(alert.as_dict()))) == alert


# What is not finite.


def test_a_watched_metric_that_turns_nan_is_an_alert_and_an_unwatched_one_is_not() -> None:
    found = watch({"metric": ["x", "y"], "detector": {"kind": "robust_z"}})
    found.update({"x": 1.0, "y": 1.0, "z": 1.0})
    (alert,) = found.update({"x": math.nan, "y": 1.0, "z": math.nan})
    assert (alert.rule, alert.severity, list(alert.values)) == ("not_finite", "critical", ["x"])
    assert "x is nan" in alert.message
    assert found.update({"x": math.nan, "y": 1.0}) == []


def test_a_rule_of_ones_own_takes_the_place_of_not_finite() -> None:
    own = {"name": "not_finite", "severity": "info", "when": [{"metric": "x", "detector": {"kind": "finite"}}]}
    (alert,) = Watch(convscope.rules.load([own])).update({"x": math.inf})
    assert alert.severity == "info"


def test_no_rules_no_alerts() -> None:
    assert Watch([]).update({"x": math.nan}) == []


# Globs that match nothing.


def test_unmatched_globs_come_with_the_nearest_keys() -> None:
    found = watch({"metric": ["probe/acuracy/*"], "detector": UP})
    keys = {"probe/accuracy/conv1": 0.5, "val_loss": 1.0}
    found.update(keys)
    assert found.inactive() == {"a": ["probe/acuracy/*"]}
    assert found.nearest(["probe/acuracy/*"], keys) == {"probe/acuracy/*": ["probe/accuracy/conv1"]}


def test_a_condition_with_one_glob_that_matches_is_alive() -> None:
    found = watch({"metric": ["train_loss", "loss"], "detector": UP})
    found.update({"loss": 0.0})
    assert found.inactive() == {}


# State.


@pytest.mark.parametrize("cut", [1, 4, 9, 15])
def test_state_survives_json_and_neither_repeats_nor_forgets(cut: int) -> None:
    generator = np.random.default_rng(1)
    rows = [{f"p/{i}": float(generator.normal(4.0 * (check > 11))) for i in range(4)} for check in range(20)]

    def make() -> Watch:
        return watch(
            {"metric": "p/*", "detector": {"kind": "cusum", "warm_up": 6, "persistence": 2}, "quorum": 2},
            {"metric": "p/*", "transform": "change", "detector": {"kind": "threshold", "limit": -9}},
            cool_down=2,
        )

    whole = make()
    expected = [alert for row in rows for alert in whole.update(row)]
    first, second = make(), make()
    found = [alert for row in rows[:cut] for alert in first.update(row)]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += [alert for row in rows[cut:] for alert in second.update(row)]
    assert found == expected
    assert expected


def test_state_of_other_rules_is_let_be() -> None:
    old, new = watch({"metric": "x", "detector": UP}), watch({"metric": "x", "detector": UP}, name="b")
    old.update({"x": 1.0})
    new.load_state_dict(old.state_dict())
    assert [alert.rule for alert in new.update({"x": 1.0})] == ["b"]
