"""Stop bad runs of a sweep early, by what an early layer knows and not by the loss.

Run ``python -m convscope.recipes.sweep`` (``--help`` for options). Learning rates and widths for scikit-learn's digits
are tried by successive halving: after each round the better half of the runs goes on from its checkpoint to twice the
epochs. Runs are ranked by the probe accuracy of the last conv layer. Nothing is downloaded.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

import convscope
from convscope.recipes._program import command_line, where_to_look
from convscope.recipes.digits import DigitsCNN, digits_loaders

LAYER = "features.4.0"


@dataclass
class Candidate:
    """One setting of the sweep, and how far it has come."""

    learning_rate: float
    width: int
    checkpoint: str | None = None
    probe: float = 0.0
    val_loss: float = float("inf")
    val_acc: float = 0.0


def go_on(candidate: Candidate, epochs: int, logdir: Path, folder: Path) -> L.Trainer:
    """Train a candidate up to an epoch, from its checkpoint if it has one."""
    L.seed_everything(0, verbose=False)
    name = f"sweep/lr={candidate.learning_rate:g},width={candidate.width}"
    keep = ModelCheckpoint(folder / name, save_last=True, save_top_k=0, enable_version_counter=False)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(logdir, name=name, version=""),
        log_every_n_steps=5,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[convscope.LayerProbe(layers=LAYER, heldout=convscope.HeldOut(size=500)), keep],
    )
    model = DigitsCNN(candidate.width, candidate.learning_rate)
    trainer.fit(model, *digits_loaders(), ckpt_path=candidate.checkpoint)
    found = trainer.callback_metrics
    candidate.checkpoint, candidate.probe = keep.last_model_path, float(found[f"probe/accuracy/{LAYER}"])
    candidate.val_loss, candidate.val_acc = float(found["val_loss"]), float(found["val_acc"])
    return trainer


def halve(epochs: int, logdir: Path) -> tuple[L.Trainer, list[Candidate]]:
    """Successive halving; the last trainer, and all candidates, the best last."""
    candidates = [Candidate(*setting) for setting in product((3e-4, 3e-3, 3e-2, 3e-1), (8, 16))]
    left, done = candidates, 0
    out: list[Candidate] = []
    print(f"\n| learning rate | width | epochs | probe accuracy of {LAYER} | val_loss | val_acc |\n{'|---' * 6}|")
    with tempfile.TemporaryDirectory() as folder:
        while left:
            done = 2 * done if done else epochs
            for one in left:
                trainer = go_on(one, done, logdir, Path(folder))
                numbers = f"{one.probe:.3f} | {one.val_loss:.3f} | {one.val_acc:.3f}"
                print(f"| {one.learning_rate:g} | {one.width} | {done} | {numbers} |", flush=True)
            left.sort(key=lambda one: one.probe)
            half = len(left) // 2 if len(left) > 1 else 1
            out, left = [*out, *left[:half]], left[half:]
    return trainer, out


def main() -> None:
    options = command_line(__doc__, epochs=1, epochs_help="epochs of the first round").parse_args()
    trainer, candidates = halve(options.epochs, options.logdir)
    best = candidates[-1]
    print(f"\nBest: learning rate {best.learning_rate:g}, width {best.width}, accuracy {best.val_acc:.3f}")
    where_to_look(trainer)


if __name__ == "__main__":
    main()
