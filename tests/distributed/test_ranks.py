"""One process, two or three: the same values, no deadlock, files written by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support import forked


def program(folder: Path, devices: int, mode: str = "plain") -> list[dict[str, Any]]:
    """Run the program with its own time-out; what each process found."""
    forked.run("tests.distributed.program", folder, devices, mode, folder=folder, ranks=devices)
    return [json.loads((folder / f"{mode}-{devices}-{rank}.json").read_text()) for rank in range(devices)]


def comparable(result: dict[str, Any]) -> dict[str, float]:
    prefixes = (
        "probe", "importance", "correlation", "drift", "health",
        "prediction", "similarity", "class_filters", "ablation", "forward", "resampling", "parts", "multi_scale",
    )  # fmt: skip
    return {key: value for key, value in result["metrics"].items() if key.startswith(prefixes)}


def test_two_processes_give_the_values_of_one(tmp_path: Path) -> None:
    (one,) = program(tmp_path, 1)
    two = program(tmp_path, 2)
    assert [result["local"] for result in two] == [15, 14]  # the work is divided
    assert {result["fingerprint"] for result in two} == {one["fingerprint"]}
    expected = comparable(one)
    assert len(expected) > 100
    assert "multi_scale/rank_correlation" in expected
    for result in two:
        assert comparable(result) == pytest.approx(expected, rel=1e-6, abs=1e-7)
        assert result["exchanges"] < 2200  # 1,882 when this was written
    runs = sorted((tmp_path / "run").iterdir())
    assert len(list(runs[1].glob("events.*"))) == 1  # the main process alone writes
    assert "probe/map/accuracy" in EventAccumulator(str(runs[1])).Reload().Tags()["images"]


def test_copies_of_images_that_are_divided_give_the_values_of_one_process(tmp_path: Path) -> None:
    (one,) = program(tmp_path, 1, "copies")
    expected = comparable(one)
    assert {"resampling/overlap", "resampling/above_chance", "resampling/precision_median/net.conv1"} <= expected.keys()
    for result in program(tmp_path, 2, "copies"):  # of five images one process has three
        assert comparable(result) == pytest.approx(expected, rel=1e-6, abs=1e-7)
        assert result["metrics"]["zz_convscope/errors"] == 0


def test_held_out_samples_read_in_validation_give_the_values_of_one_process(tmp_path: Path) -> None:
    (one,) = program(tmp_path, 1, "validated")
    assert one["passes"] == 1  # at the start
    for result in program(tmp_path, 2, "validated"):
        assert comparable(result) == pytest.approx(comparable(one), rel=1e-5, abs=1e-6)
        assert result["passes"] == 2  # and where one sample was found to run on both
        assert result["exchanges"] < 450  # 387 for three checks of six layers, and their preparation


@pytest.mark.slow
def test_three_processes_give_the_values_of_one(tmp_path: Path) -> None:
    (one,) = program(tmp_path, 1)
    for result in program(tmp_path, 3):
        assert comparable(result) == pytest.approx(comparable(one), rel=1e-6, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "regression", "multilabel"])
def test_two_processes_give_the_values_of_one_in_other_tasks(tmp_path: Path, task: str) -> None:
    (one,) = program(tmp_path, 1, task)
    expected = comparable(one)
    assert any(key.startswith("importance/gini") for key in expected)
    assert any(key.startswith(("probe/miou", "probe/r2", "probe/mean_average_precision")) for key in expected)
    for result in program(tmp_path, 2, task):
        assert comparable(result) == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 3])
def test_sampled_and_augmented_samples_are_the_same_for_any_number_of_processes(tmp_path: Path, devices: int) -> None:
    (one,) = program(tmp_path, 1, "sampled")
    expected = comparable(one)
    assert any(key.startswith("probe/accuracy/net") for key in expected)
    several = program(tmp_path, devices, "sampled")
    assert {result["fingerprint"] for result in several} == {one["fingerprint"]}
    for result in several:
        assert set(result["targets"]) <= {0, 1, 2}  # no training sample
        assert comparable(result) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_a_failure_on_one_process_neither_hangs_nor_stops_the_others(tmp_path: Path) -> None:
    results = program(tmp_path, 2, "failing")
    for result in results:
        assert result["epochs"] == 3
        assert "correlation/mean_abs/net.conv1" not in result["metrics"]
        assert "correlation/mean_abs/net.layer1.0.conv1" in result["metrics"]
        assert "probe/accuracy/net.conv1" in result["metrics"]
    assert results[0]["metrics"].keys() == results[1]["metrics"].keys()


@pytest.mark.slow
def test_all_processes_stop_together(tmp_path: Path) -> None:
    assert [result["epochs"] for result in program(tmp_path, 2, "stopping")] == [2, 2]
