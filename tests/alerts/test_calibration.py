"""Limits for a chosen rate of false alarms: the promise, its refusals, and the file that comes of it."""

from __future__ import annotations

import doctest
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convscope
from convscope.alerts import (
    Rule,
    calibrate,
    calibrate_files,
    default_rules,
    judge_run,
    load_rules,
    needed_runs,
    read_series,
    scaled_rules,
)
from convscope.alerts import calibration as module
from convscope.alerts.calibration import FACTORS, alarm_factor, has_alarm

HIGH = {"name": "high", "when": [{"metric": "x", "detector": {"kind": "threshold", "limit": 1.0}}]}
DROP = {
    "name": "drop",
    "when": [{"metric": "y/*", "detector": {"kind": "relative_drop", "limit": 0.1, "least": 0.05, "warm_up": 2}}],
}


def healthy(seed: int, checks: int = 15, layers: int = 3) -> list[dict[str, float]]:
    """A run of several series that wander, each with a noise of its own."""
    draw = np.random.default_rng(seed)
    noise = draw.lognormal(0, 0.7)
    return [
        {
            "x": float(noise * abs(draw.normal())),
            **{f"y/a/l{i}": float(1 + 0.1 * noise * draw.normal()) for i in range(layers)},
        }
        for _ in range(checks)
    ]


def test_the_example_runs() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(("alpha", "count"), [(0.05, 20), (0.1, 10), (0.2, 10), (0.2, 50)])
def test_new_healthy_runs_have_an_alarm_at_most_as_often_as_was_asked_for(alpha: float, count: int) -> None:
    rules = load_rules([HIGH, DROP])
    scores = np.array([alarm_factor(healthy(seed), rules) for seed in range(160)])
    place, alarms, draws = math.ceil((count + 1) * (1 - alpha)), 0, 3000
    generator = np.random.default_rng(0)
    for _ in range(draws):
        drawn = generator.permutation(scores)[: count + 1]
        alarms += bool(drawn[-1] > np.sort(drawn[:-1])[place - 1])
    # Never more than the promise (three standard errors), and not far less: scores on a grid have ties.
    assert alarms / draws <= alpha + 3 * math.sqrt(alpha / draws)
    assert alarms / draws >= alpha - 1 / (count + 1) - 0.04


def test_the_factor_is_the_score_of_the_right_place_and_limits_are_moved_by_it() -> None:
    runs = [healthy(seed) for seed in range(20)]
    found = calibrate(runs, 0.1, [HIGH, DROP])
    assert found.runs == 20
    assert found.factor == sorted(found.scores)[math.ceil(21 * 0.9) - 1]
    quiet = [not has_alarm(run, found.rules) for run in runs]
    assert quiet == [score <= found.factor for score in found.scores]
    assert found.rules[0].conditions[0].detector["limit"] == pytest.approx(found.factor, rel=1e-5)
    assert found.rules[1].conditions[0].detector["limit"] == pytest.approx(1 - 0.9**found.factor, rel=1e-5)
    assert found.rules[1].conditions[0].detector["least"] == pytest.approx(0.05 * found.factor, rel=1e-5)


def test_a_score_is_the_least_factor_without_an_alarm() -> None:
    rules = load_rules([HIGH, DROP])
    for seed in range(8):
        run, score = healthy(seed), alarm_factor(healthy(seed), rules)
        alarms = [has_alarm(run, scaled_rules(rules, factor)) for factor in FACTORS]
        assert alarms == sorted(alarms, reverse=True)  # a wider limit never fires where a narrower one does not
        assert alarms == [factor < score for factor in FACTORS]


@pytest.mark.parametrize(("count", "alpha"), [(10, 0.02), (18, 0.05), (8, 0.1), (0, 0.2)])
def test_too_few_runs_are_refused_with_the_number_that_would_do(count: int, alpha: float) -> None:
    with pytest.raises(ValueError, match=f"at least {needed_runs(alpha)}"):
        calibrate([healthy(seed) for seed in range(count)], alpha, [HIGH])
    enough = [healthy(seed) for seed in range(needed_runs(alpha))]
    assert calibrate(enough, alpha, [HIGH]).factor == max(calibrate(enough, alpha, [HIGH]).scores)


def test_alarms_that_no_limit_prevents_are_refused_by_their_places() -> None:
    runs = [healthy(seed) for seed in range(9)]
    runs[4][7]["x"] = math.nan
    with pytest.raises(ValueError, match=r"1 of 9 have an alarm whatever the limits \(5 in the order given\)"):
        calibrate(runs, 0.1, [HIGH])
    assert calibrate(runs, 0.2, [HIGH]).scores[4] == math.inf


def test_rules_of_yes_and_no_and_notes_keep_their_limits() -> None:
    fixed = {**HIGH, "name": "fixed", "calibrated": False}
    note = {**HIGH, "name": "note", "severity": "info"}
    low = [[{"x": 0.1 * seed}] for seed in range(1, 10)]
    found = calibrate(low, 0.1, [HIGH, fixed, note])
    limits = [rule.conditions[0].detector["limit"] for rule in found.rules]
    assert limits[0] == pytest.approx(found.factor, rel=1e-5)
    assert limits[1] == 1.0
    assert max(found.scores) < 1  # the note, which would fire below 1, is no alarm


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_every_default_rule_can_be_scaled_and_saved(factor: float, tmp_path: Path) -> None:
    rules = default_rules()
    moved = scaled_rules(rules, factor)
    changed = {
        rule.name for rule, other in zip(rules, moved, strict=True) if rule.as_dict()["when"] != other.as_dict()["when"]
    }
    assert changed == {rule.name for rule in rules if rule.calibrated}
    path = tmp_path / "rules.yaml"
    module.Calibration(moved, factor, 0.1, [1.0]).save(path)
    again = load_rules(path)
    assert [rule.as_dict() for rule in again] == [rule.as_dict() for rule in moved]
    assert convscope.DriftAlert(rules=str(path)).rules == again


@pytest.mark.parametrize(
    ("detector", "name", "wider"),
    [
        ({"kind": "threshold", "limit": 0.5, "direction": "down"}, "limit", 0.25),
        ({"kind": "threshold", "limit": -0.5, "direction": "down"}, "limit", -1.0),
        ({"kind": "relative_drop", "limit": 0.95}, "limit", 0.9975),
        ({"kind": "relative_drop", "limit": 1.0, "direction": "up"}, "limit", 3.0),
        ({"kind": "relative_drop", "noise": 1.5}, "noise", 3.0),
        ({"kind": "robust_z", "limit": 3.0}, "limit", 6.0),
        ({"kind": "no_progress", "limit": 0.04}, "limit", 0.02),
    ],
)
def test_twice_as_wide_is_further_from_what_is_usual(detector: dict[str, Any], name: str, wider: float) -> None:
    rule = Rule(name="a", when=[{"metric": "x", "detector": detector}])
    assert scaled_rules([rule], 2.0)[0].conditions[0].detector[name] == pytest.approx(wider)


# Files.


def write(folder: Path, run: str, checks: list[dict[str, float]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"run": run, "check": i, "epoch": i, "step": i, "values": row}) for i, row in enumerate(checks, 1)
    ]
    with (folder / "alert_series.jsonl").open("a") as file:
        file.write("\n".join(lines) + "\n")


def test_files_of_runs_become_a_file_of_rules(tmp_path: Path) -> None:
    for seed in range(9):
        write(tmp_path / "runs" / f"version_{seed}", f"r{seed}", healthy(seed))
    (tmp_path / "mine.yaml").write_text(json.dumps([HIGH, DROP]))
    output = tmp_path / "rules.yaml"
    said = calibrate_files([tmp_path / "runs"], 0.1, output, tmp_path / "mine.yaml")
    expected = calibrate([healthy(seed) for seed in range(9)], 0.1, [HIGH, DROP])
    assert [rule.as_dict() for rule in load_rules(output)] == [rule.as_dict() for rule in expected.rules]
    assert "9" in said
    assert output.read_text().startswith("# Calibrated on 9 healthy runs")


def test_series_of_several_runs_in_a_file_and_lines_that_are_cut_off(tmp_path: Path) -> None:
    write(tmp_path, "a", healthy(0))
    write(tmp_path, "b", healthy(1))
    with (tmp_path / "alert_series.jsonl").open("a") as file:
        file.write('{"run": "b", "check": 99, "val')
    assert read_series(tmp_path) == read_series(tmp_path / "alert_series.jsonl") == [healthy(0), healthy(1)]


def test_a_folder_without_series_says_how_to_record_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="series=True"):
        read_series(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_series(tmp_path / "nowhere")


def test_judging_again_finds_what_was_found(tmp_path: Path) -> None:
    run = [{"x": value} for value in (0.1, 5.0, 0.1, math.inf)]
    write(tmp_path, "a", run)
    first, again = judge_run(run, load_rules([HIGH])), judge_run(read_series(tmp_path)[0], load_rules([HIGH]))
    assert [one.as_dict() for one in first] == [one.as_dict() for one in again]
    assert len(first) == 2
