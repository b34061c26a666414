"""Which layers have converged? Freeze them from then on, and measure what that saves and costs.

Run ``python -m convscope.recipes.freeze_guide`` (``--help`` for options). A small CNN learns scikit-learn's digits
twice from the same start. The second time layers are frozen as soon as their similarity to the previous check
(linear CKA) has been above a limit for a few checks in a row, from the input on, since only then is a part of the
backward pass saved. Nothing is downloaded.
"""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

import convscope
from convscope.recipes._program import command_line, where_to_look
from convscope.recipes.digits import DigitsCNN, digits_loaders


class Freeze(L.Callback):
    """Freezes the units of ``features`` that have converged, from the input on."""

    def __init__(self, limit: float, checks: int) -> None:
        self.limit, self.checks = limit, checks
        self.quiet: dict[str, int] = {}
        self.frozen: dict[str, int] = {}
        """Epoch at the end of which each unit was frozen."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, unit in pl_module.features.named_children():  # type: ignore[union-attr]
            if name in self.frozen or not isinstance(unit, nn.Sequential):
                continue
            similarity = trainer.callback_metrics.get(f"drift/cka_previous/features.{name}.0")
            still = similarity is not None and float(similarity) >= self.limit
            self.quiet[name] = self.quiet.get(name, 0) + 1 if still else 0
            if self.quiet[name] < self.checks:
                return  # a later layer is not frozen before an earlier one
            unit.requires_grad_(False)
            self.frozen[name] = trainer.current_epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name in self.frozen:
            pl_module.features.get_submodule(name).eval()  # type: ignore[union-attr]  # its batch statistics too


class Seconds(L.Callback):
    """CPU time in training steps alone, without validation and checks; other programs do not change it much."""

    spent = 0.0

    def on_train_batch_start(self, *arguments: object) -> None:
        self.began = time.process_time()

    def on_train_batch_end(self, *arguments: object) -> None:
        self.spent += time.process_time() - self.began


def train(epochs: int, limit: float, checks: int, logdir: Path, seed: int = 0) -> tuple[L.Trainer, Freeze, float]:
    """Train once; the trainer, what was frozen and when, and the seconds of its training steps."""
    L.seed_everything(seed, verbose=False)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(logdir, name="freeze_guide"),
        log_every_n_steps=5,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[
            convscope.RepresentationDrift(heldout=convscope.HeldOut(size=500)),
            freeze := Freeze(limit, checks),
            seconds := Seconds(),
        ],
    )
    trainer.fit(DigitsCNN(), *digits_loaders())
    return trainer, freeze, seconds.spent


def main() -> None:
    parser = command_line(__doc__, epochs=20)
    parser.add_argument("--limit", type=float, default=0.995, help="similarity of a converged layer (default 0.995)")
    parser.add_argument("--checks", type=int, default=3, help="checks in a row above it (default 3)")
    parser.add_argument("--seeds", type=int, default=3, help="pairs of runs (default 3)")
    options = parser.parse_args()
    print("\n| seed | frozen | val_acc | val_loss | CPU seconds in training steps |\n|---|---|---|---|---|")
    for seed, limit in product(range(options.seeds), (2.0, options.limit)):  # nothing is as similar as 2
        trainer, freeze, seconds = train(options.epochs, limit, options.checks, options.logdir, seed)
        told = ", ".join(f"features.{name} after epoch {epoch}" for name, epoch in freeze.frozen.items()) or "nothing"
        found = trainer.callback_metrics
        numbers = f"{float(found['val_acc']):.3f} | {float(found['val_loss']):.3f} | {seconds:.1f}"
        print(f"| {seed} | {told} | {numbers} |", flush=True)
    where_to_look(trainer)


if __name__ == "__main__":
    main()
