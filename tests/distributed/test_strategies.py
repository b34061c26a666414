"""Spawned processes and sharded parameters (FSDP2): the values of one process, and the training without observation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
FAMILIES = ("probe/", "importance", "correlation/", "health/", "drift/")


def run(folder: Path, strategy: str, devices: int, mode: str) -> subprocess.CompletedProcess[str]:
    """Run the program with its own time-out."""
    command = [sys.executable, "-m", "tests.distributed.strategies_program", str(folder), strategy, str(devices), mode]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)


def program(folder: Path, strategy: str, devices: int, mode: str) -> list[dict[str, Any]]:
    """What each process found."""
    done = run(folder, strategy, devices, mode)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{strategy}-{devices}-{mode}-{rank}.json").read_text()) for rank in range(devices)]


def ours(result: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in result["metrics"].items() if name.startswith(FAMILIES)}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "model_parallel"])
def test_the_values_are_those_of_one_process(tmp_path: Path, strategy: str) -> None:
    (one,) = program(tmp_path, "auto", 1, "still")
    two = program(tmp_path, strategy, 2, "still")
    assert len(ours(one)) > 200
    for result in two:
        assert ours(result) == pytest.approx(ours(one), rel=1e-6, abs=1e-9)
        assert result["metrics"]["zz_convscope/errors"] == 0.0
        assert result["gradients"] == 0
    assert [result["local"] for result in two] == [15, 14]  # the work is divided
    assert two[0]["kinds"] == (["DTensor"] if strategy == "model_parallel" else ["Parameter"])
    (run,) = (tmp_path / f"{strategy}-still").iterdir()
    assert len(list(run.glob("events.*"))) == 1  # the main process alone writes


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "model_parallel"])
def test_training_is_the_same_bit_for_bit(tmp_path: Path, strategy: str) -> None:
    alone = program(tmp_path, strategy, 2, "alone")
    observed = program(tmp_path, strategy, 2, "moving")
    for one, other in zip(alone, observed, strict=True):
        assert one["weights"] == other["weights"]
        assert (one["gradients"], one["hooks"]) == (other["gradients"], other["hooks"])
        assert other["metrics"]["zz_convscope/errors"] == 0.0


@pytest.mark.slow
def test_tensor_parallelism_is_refused_before_training(tmp_path: Path) -> None:
    done = run(tmp_path, "tensor_parallel", 2, "still")
    assert done.returncode != 0
    assert "convscope cannot observe tensor parallelism yet: 2 processes run 1 networks" in done.stderr
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_give_the_values_of_one_process_on_the_cpu(tmp_path: Path) -> None:
    (one,) = program(tmp_path, "auto", 1, "still")
    for result in program(tmp_path, "gpu:ddp", 2, "still"):
        assert ours(result) == pytest.approx(ours(one), rel=1e-3, abs=1e-5)
