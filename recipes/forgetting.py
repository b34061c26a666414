"""Fine-tuning that forgets what the network knew, and the alerts that follow.

Run ``python -m convscope.recipes.forgetting`` (``--help`` for options). A small CNN learns the digits 0 to 4, and is
then fine-tuned on 5 to 9 alone. The held-out set is the old task's, and drift is measured against the network as it was
before fine-tuning. Nothing is downloaded.
"""

from __future__ import annotations

import copy
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.recipes._program import command_line, report, watched_trainer, where_to_look
from convscope.recipes.digits import DigitsCNN, digits_loaders


def task(loader: DataLoader, classes: range, shuffle: bool) -> DataLoader:
    """The samples of some classes."""
    images, labels = loader.dataset.tensors  # type: ignore[attr-defined]
    chosen = torch.isin(labels, torch.tensor(list(classes)))
    return DataLoader(TensorDataset(images[chosen], labels[chosen]), batch_size=64, shuffle=shuffle)


def train(epochs: int, learning_rate: float, logdir: Path) -> tuple[L.Trainer, convscope.DriftAlert]:
    """Train on the old task, fine-tune on the new one, and return that trainer and the callback with its alerts."""
    L.seed_everything(0)
    everything = digits_loaders()
    old, new = range(5), range(5, 10)
    model = DigitsCNN(learning_rate=learning_rate)
    before = L.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False)
    before.fit(model, task(everything[0], old, True), task(everything[1], old, False))

    # Only the old task's samples say what was forgotten of it; that the network has ten classes they cannot say.
    heldout = convscope.HeldOut(task(everything[1], old, False).dataset, size=200, classes=10)
    drift = convscope.RepresentationDrift(heldout=heldout, reference=copy.deepcopy(model))
    trainer, alert = watched_trainer("forgetting", epochs, heldout, logdir, drift)
    trainer.fit(model, task(everything[0], new, True), task(everything[1], new, False))
    return trainer, alert


def main() -> None:
    parser = command_line(__doc__, epochs=8, epochs_help="epochs of each of the two tasks")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="of both tasks (default 0.003)")
    options = parser.parse_args()
    trainer, alert = train(options.epochs, options.learning_rate, options.logdir)
    report("Fine-tuning on other digits began at epoch 0.", alert)
    where_to_look(trainer)


if __name__ == "__main__":
    main()
