"""DriftAlert on two processes that log different values: ``python -m tests.distributed.alert_program FOLDER MODE``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from convscope.callbacks.alerts import DriftAlert
from convscope.recipes._program import leave_the_processes
from tests.callbacks.conftest import Classifier, loaders
from tests.support.trainers import quiet_trainer

RULE = {"name": "high", "when": [{"metric": "mine", "detector": {"kind": "threshold", "limit": 0.5}}]}


class Disagreeing(Classifier):
    """The main process sees trouble in epoch 1, the other process in epoch 0 (which must not count)."""

    def on_validation_epoch_end(self) -> None:
        self.log("mine", float(self.current_epoch == (1 if self.global_rank == 0 else 0)))


def main(folder: Path, mode: str) -> None:
    """Train; write what each process has seen and done."""
    called: list[str] = []
    actions: list[Any] = ["jsonl", lambda alert: called.append(alert.rule), "checkpoint", "stop"]
    if mode == "failing":
        (folder / "alerts").write_text("a file where the checkpoint's folder should be")
    alert = DriftAlert([RULE], actions)
    trainer = quiet_trainer(folder, devices=2, strategy="ddp", max_epochs=4, callbacks=[alert])
    trainer.fit(Disagreeing(), *loaders())
    result = {"alerts": [a.as_dict() for a in alert.alerts], "called": called, "epochs": trainer.current_epoch}
    (folder / f"{mode}-{trainer.global_rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
    leave_the_processes()
