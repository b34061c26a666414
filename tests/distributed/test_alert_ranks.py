"""Two processes with different values: one decision, one file, and no deadlock where an action fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convscope.loggers import read_jsonl
from tests.support import forked


def program(folder: Path, mode: str) -> list[dict[str, Any]]:
    forked.run("tests.distributed.alert_program", folder, mode, folder=folder, ranks=2)
    return [json.loads((folder / f"{mode}-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("mode", ["plain", "failing"])
def test_all_processes_decide_as_the_main_one_does(tmp_path: Path, mode: str) -> None:
    main, other = program(tmp_path, mode)
    assert main["alerts"] == other["alerts"]
    assert [(alert["rule"], alert["epoch"]) for alert in main["alerts"]] == [("high", 1)]
    assert (main["epochs"], other["epochs"]) == (2, 2)
    assert (main["called"], other["called"]) == (["high"], [])
    assert len([line for line in read_jsonl(tmp_path / "alerts.jsonl") if "event" not in line]) == 1
    assert len(list(tmp_path.glob("alerts/high-epoch=1-*.ckpt"))) == (mode == "plain")
