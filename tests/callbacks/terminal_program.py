"""A fit as a user sees it, for a pseudo-terminal: ``python -m tests.callbacks.terminal_program tqdm|rich|none``."""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

import convscope
from convscope.callbacks.engine import progress
from tests.callbacks.conftest import Classifier, loaders

RULE = {
    "name": "always", "message": "{metric} is {value:.2f}", "cool_down": 0,
    "when": [{"metric": "val_loss", "detector": {"kind": "threshold", "limit": -1.0}}],
}  # fmt: skip


class Slow(Classifier):
    """Long enough in a check for its progress to be drawn more than once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            time.sleep(0.05)
        return super().forward(x)


def main(kind: str) -> None:
    progress.PATIENCE = 0.0
    bars: dict[str, list[Any]] = {"tqdm": [TQDMProgressBar()], "none": []}
    callbacks = [
        *convscope.suite("light", max_layers=3, heldout=convscope.HeldOut(size=30, batch_size=8), alerts=[RULE]),
        convscope.LayerTable(),
        *(bars[kind] if kind in bars else [RichProgressBar()]),
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=2, accelerator="cpu", default_root_dir=folder, callbacks=callbacks, logger=False,
            enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=kind != "none",
        )  # fmt: skip
        trainer.fit(Slow(), *loaders())
        assert trainer.current_epoch == 2
    print("the end")


if __name__ == "__main__":
    main(sys.argv[1])
