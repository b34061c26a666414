"""Train on several processes; the numbers are those of one.

Run ``python -m convscope.recipes.processes --devices 2``, and again with ``--devices 1`` (``--help`` for options).
A small CNN learns scikit-learn's digits with DistributedDataParallel on the CPU (gloo). Both print the same table
of the check before training: held-out samples are divided among the processes, each goes through the network once,
and the sums are gathered. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

import convscope
from convscope.recipes._program import command_line, leave_the_processes, where_to_look
from convscope.recipes.digits import DigitsCNN, digits_loaders


class FirstCheck(L.Callback):
    """Keeps the values of the check before training."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.found = {name: float(value) for name, value in trainer.callback_metrics.items() if "/" in name}


def train(epochs: int, devices: int, logdir: Path) -> tuple[L.Trainer, dict[str, float]]:
    """Train on some processes; the trainer, and what the check before training found."""
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        logger=TensorBoardLogger(logdir, name=f"processes_{devices}"),
        log_every_n_steps=5,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*convscope.suite("standard"), first := FirstCheck()],
    )
    trainer.fit(DigitsCNN(), *digits_loaders())
    return trainer, first.found


def main() -> None:
    parser = command_line(__doc__, epochs=3)
    parser.add_argument("--devices", type=int, default=2, help="number of processes (default 2)")
    options = parser.parse_args()
    trainer, found = train(options.epochs, options.devices, options.logdir)
    if trainer.is_global_zero:
        report(found, options.devices)
    where_to_look(trainer)
    leave_the_processes()


def report(found: dict[str, float], devices: int) -> None:
    """Print some values of the check before training."""
    print(f"\nbefore training, {devices} process{'es' if devices > 1 else ''}:\n")
    print("| value | |\n|---|---|")
    for name in sorted(name for name in found if name.startswith(("probe/accuracy/", "correlation/mean_abs/"))):
        print(f"| {name} | {found[name]:.6f} |")


if __name__ == "__main__":
    main()
