"""A process that is told to stop, or is killed, while a check is being made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.compatibility.cells import few, small, train
from tests.robustness.test_faults import records

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc, which Linux has")
ROOT = Path(__file__).parents[2]


def stopped_in_a_check(folder: Path, number: signal.Signals) -> tuple[int, list[int]]:
    """Send a signal in the second check; the exit code, and what has outlived the process."""
    command = [sys.executable, "-m", "tests.robustness.killed_program", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 90
        while not (folder / "checking").exists():
            assert process.poll() is None, "ended before its second check"
            assert time.monotonic() < until, "no second check in 90 s"
            time.sleep(0.05)
        children = children_of(process.pid)
        process.send_signal(number)
        code = process.wait(60)
    finally:
        process.kill()
    return code, [child for child in children if Path(f"/proc/{child}").exists()]


def children_of(process: int) -> list[int]:
    return [
        int(c) for tasks in Path(f"/proc/{process}/task").iterdir() for c in (tasks / "children").read_text().split()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_in_a_check_ends_the_process_and_spoils_nothing(number: signal.Signals, tmp_path: Path) -> None:
    code, left = stopped_in_a_check(tmp_path, number)
    assert (code == -signal.SIGKILL) == (number == signal.SIGKILL)  # else Lightning ends the run in order
    assert left == []
    assert records(tmp_path) >= 1  # whole records up to where it stopped
    resumed = train(few(), tmp_path, make=small, ckpt_path=_last(tmp_path), max_epochs=3)
    assert resumed.scalars["zz_convscope/errors"] == 0.0


def _last(folder: Path) -> Path | None:
    """The newest checkpoint, which must be readable; none where the process ended before its first."""
    path = folder / "last.ckpt"
    if not path.exists():
        return None
    torch.load(path, weights_only=True)
    return path
