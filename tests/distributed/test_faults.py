"""One of two processes fails, in any hook: none waits for ever, all log the same, the others' numbers stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import forked

# As many fits as a test's time allows go to one pair of processes.
USUAL = ("compute", "begin", "between", "input", "conclude", "data value", "adapter", "needs_gradient")
SLOW = (
    ("suits", "skips", "ready", "on_activation", "on_gradient", "intervene", "summarise", "remember"),
    ("end", "drop_gradients", "restart", "data os", "choice", "loss", "forward", "intervenes"),
)
Results = dict[str, list[dict[str, Any]]]


def program(folder: Path, modes: tuple[str, ...]) -> Results:
    """What both processes found, by mode."""
    forked.run("tests.distributed.faults_program", folder, ",".join(modes), folder=folder, ranks=2, timeout=240)
    return {mode: [json.loads((folder / f"{mode}-{rank}.json").read_text()) for rank in range(2)] for mode in modes}


def families(result: dict[str, Any]) -> set[str]:
    return {key.split("/")[0] for key in result["metrics"]}


def check(results: Results) -> None:
    for mode, (one, other) in results.items():
        assert one == other, mode  # the same numbers, the same count of errors, the same message
        if mode in ("adapter", "choice"):
            assert one["error"].startswith("MisconfigurationException"), mode
            assert one["step"] == 0
            continue
        assert one["error"] is None, mode
        assert one["step"] == 4
        others = {"probe", "importance"} if mode == "forward" else {"probe", "correlation", "health"}
        assert others <= families(one), mode
        assert one["metrics"]["zz_convscope/errors"] > 0 or mode in ("input", "drop_gradients"), mode
    at_once = ("compute", "begin", "data value", "suits", "ready", "intervene", "on_gradient", "data os")
    for mode in (*at_once, "needs_gradient", "intervenes"):
        if mode in results:
            assert "failing" not in families(results[mode][0]), mode


def test_a_failure_on_one_process(tmp_path: Path) -> None:
    results = program(tmp_path, USUAL)
    check(results)
    between = results["between"][0]["metrics"]
    assert "failing/dead_filters/net.conv2" in between
    assert "failing/dead_filters/net.conv1" not in between
    message = "HeldOut(adapter=adapter_of_one) failed on a batch (KeyError: 'no such field here')"
    assert message in results["adapter"][0]["error"]
    seen = results["input"][0]["metrics"]
    assert "probe/accuracy/net.conv1" in seen
    assert "correlation/mean_abs/net.conv1" in seen  # whose a row of the output is depends on the order: no importance


@pytest.mark.slow
@pytest.mark.parametrize("modes", SLOW, ids=["first", "second"])
def test_a_failure_on_one_process_in_other_places(modes: tuple[str, ...], tmp_path: Path) -> None:
    check(program(tmp_path, modes))
