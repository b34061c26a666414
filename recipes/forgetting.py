"""Fine-tuning that forgets what the network knew, and the alerts that follow.

Run ``python -m convscope.recipes.forgetting`` (``--help`` for options). A small CNN learns the digits 0 to 4, and is
then
fine-tuned on 5 to 9 alone. The held-out set is the old task's, and drift is measured against the network as it was
before fine-tuning. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.recipes.digits import DigitsCNN, digits_loaders


def task(loader: DataLoader, classes: range, shuffle: bool) -> DataLoader:
    """The samples of some classes."""
    images, labels = loader.dataset.tensors  # type: ignore[attr-defined]
    chosen = torch.isin(labels, torch.tensor(list(classes)))
    return DataLoader(TensorDataset(images[chosen], labels[chosen]), batch_size=64, shuffle=shuffle)


def train(epochs: int, learning_rate: float, logdir: Path) -> convscope.DriftAlert:
    """Train on the old task, fine-tune on the new one, and return the callback with what it has said."""
    L.seed_everything(0)
    everything = digits_loaders()
    old, new = range(5), range(5, 10)
    model = DigitsCNN(learning_rate=learning_rate)
    before = L.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False)
    before.fit(model, task(everything[0], old, True), task(everything[1], old, False))

    # Only the old task's samples say what was forgotten of it.
    heldout = convscope.HeldOut(task(everything[1], old, False).dataset, size=200)
    alert = convscope.DriftAlert()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(logdir, name="forgetting"),
        log_every_n_steps=5,
        callbacks=[
            *convscope.suite("standard", heldout=heldout),
            convscope.RepresentationDrift(heldout=heldout, reference=copy.deepcopy(model)),
            convscope.FilterHealth(heldout=heldout),
            alert,
        ],
    )
    trainer.fit(model, task(everything[0], new, True), task(everything[1], new, False))
    return alert


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="epochs of each of the two tasks (default 8)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="of both tasks (default 0.003)")
    parser.add_argument("--logdir", type=Path, default=Path("runs"), help="where the TensorBoard run is written")
    options = parser.parse_args()
    alert = train(options.epochs, options.learning_rate, options.logdir)
    print("\nFine-tuning on other digits began at epoch 0. What was said, and when:")
    for found in alert.alerts:
        print(f"  epoch {found.epoch}: [{found.severity}] {found.rule}: {found.text}")


if __name__ == "__main__":
    main()
