"""What does a network know that never saw a label? Probes of every layer while it learns a pretext task.

Run ``python -m convscope.recipes.self_supervised`` (``--help`` for options). A small CNN learns to say by which of four
right angles a digit was turned (Gidaris et al. 2018). The digits' classes are given to the held-out set alone, and the
probes say how much of them each layer has found by itself. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.recipes._program import command_line, where_to_look
from convscope.recipes.digits import DigitsCNN, digits_loaders


def turned(loader: DataLoader, shuffle: bool) -> DataLoader:
    """Every image at all four angles, with the angle as its label."""
    images = loader.dataset.tensors[0]  # type: ignore[attr-defined]
    copies = torch.cat([images.rot90(times, (2, 3)) for times in range(4)])
    angles = torch.arange(4).repeat_interleave(len(images))
    return DataLoader(TensorDataset(copies, angles), batch_size=64, shuffle=shuffle)


def train(epochs: int, logdir: Path) -> L.Trainer:
    """Train on angles, probe digits."""
    L.seed_everything(0)
    train_set, val = digits_loaders()
    heldout = convscope.HeldOut(val.dataset, size=500, logits=False)  # the model's output is an angle, not a digit
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(logdir, name="self_supervised"),
        log_every_n_steps=5,
        callbacks=[convscope.LayerProbe(heldout=heldout), convscope.FilterCorrelation(heldout=heldout)],
    )
    trainer.fit(DigitsCNN(classes=4), turned(train_set, True), turned(val, False))
    return trainer


def report(run: convscope.dashboard.Run) -> None:
    """Print each layer's probe accuracy before training, at best and at the end."""
    accuracy = run.values("probe", "accuracy")
    print("\nprobe accuracy of the ten digits (chance 0.1), on angles alone:\n")
    print("| layer | before training | best | at epoch | at the end |\n|---|---|---|---|---|")
    for column, layer in enumerate(run.layers):
        found = accuracy[:, column]
        best = int(found.argmax())
        when = "before training" if run.epochs[best] == 0 else int(run.epochs[best]) - 1
        print(f"| {layer} | {found[0]:.3f} | {found[best]:.3f} | {when} | {found[-1]:.3f} |")


def main() -> None:
    options = command_line(__doc__, epochs=8).parse_args()
    trainer = train(options.epochs, options.logdir)
    report(convscope.read_run(str(trainer.log_dir)))
    where_to_look(trainer)


if __name__ == "__main__":
    main()
