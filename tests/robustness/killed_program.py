"""A training that tells when a check begins: ``python -m tests.robustness.killed_program FOLDER``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

import convscope
from tests.callbacks.conftest import loaders
from tests.compatibility.cells import small


class Slow(convscope.FilterCorrelation):
    """Takes three seconds in its second check, and says when they begin."""

    checks = 0

    def summarise(self, values: Any) -> Any:
        self.checks += 1
        if self.checks == 2:
            (folder / "checking").touch()
            time.sleep(3)
        return super().summarise(values)


def main() -> None:
    """Train until somebody stops it."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=10_000,
        logger=TensorBoardLogger(folder, name="run"),
        default_root_dir=folder,
        callbacks=[Slow(), *convscope.suite("light")[:1], convscope.DriftAlert(), *saving()],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(small(), *loaders())


def saving() -> list[Any]:
    return [L.pytorch.callbacks.ModelCheckpoint(folder, save_last=True)]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    main()
