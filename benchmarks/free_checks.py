"""Cost of a check that is read in the validation, beside one that makes a pass: ``python -m benchmarks.free_checks``.

A validation and its check are timed together, in fits that take turns, so that whatever observing costs the
validation's own forward is counted too. F is a bare forward of the same images, timed within the same fits.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

import convscope
from benchmarks.data import cifar10
from benchmarks.measure import machine
from benchmarks.networks import ResNet18
from benchmarks.overhead import CHUNK, Classifier, bare_forward

WITHOUT = "no callbacks"
KINDS = ("probe", "light suite", "probe, correlation, drift")


class Clock(L.Callback):
    """Seconds of each validation with its check, and of a bare forward after it."""

    def __init__(self, images: torch.Tensor, clock: Any) -> None:
        self._images, self._clock = images, clock
        self.rows: list[tuple[float, float]] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin."""
        self._began = self._clock()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End, after the checks of all other callbacks."""
        took = self._clock() - self._began
        began = self._clock()
        bare_forward(pl_module.net, self._images)()
        self.rows.append((took, self._clock() - began))


def callbacks(kind: str, during: bool, samples: int) -> list[Any]:
    """The suite or callback of that name."""
    heldout = convscope.HeldOut(size=samples, batch_size=CHUNK, during_validation=during)
    if kind == "probe":
        return [convscope.LayerProbe(heldout=heldout, on_start=False)]
    suite = convscope.suite("light", heldout=heldout, on_start=False, alerts=False)
    if kind == "probe, correlation, drift":
        suite.append(convscope.RepresentationDrift(heldout=heldout, on_start=False, pictures=False))
    return suite


def fit(watching: list[Any], images: torch.Tensor, labels: torch.Tensor, width: int, clock: Any) -> tuple[float, float]:
    """Seconds of the last of three validations, and of a bare forward after it."""
    timer = Clock(images, clock)
    loader = DataLoader(TensorDataset(images, labels), CHUNK)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=3, limit_train_batches=1, accelerator="cpu", callbacks=[*watching, timer],
            logger=TensorBoardLogger(folder), enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(Classifier(ResNet18(width)), loader, loader)
    return timer.rows[-1]


def main() -> None:
    """Print a table: what a check adds to a validation of the same images, in bare forwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help=f"{', '.join(KINDS)}; all by default")
    parser.add_argument("--samples", type=int, default=1024, help="images of validation, all held out (default 1024)")
    parser.add_argument("--width", type=int, default=64, help="filters of the ResNet-18's first stage (default 64)")
    parser.add_argument("--rounds", type=int, default=3, help="fits of each kind (default 3)")
    parser.add_argument("--processor", action="store_true", help="seconds of the processor instead of those that pass")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    images, labels, origin = cifar10(options.samples, "train")
    clock = time.process_time if options.processor else time.perf_counter
    cases = {WITHOUT: lambda: []} | {
        f"{kind}, {'read in validation' if during else 'a pass of its own'}": (
            lambda kind=kind, during=during: callbacks(kind, during, options.samples)
        )
        for kind in options.kinds or KINDS
        for during in (True, False)
    }
    shares: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, make in cases.items():
            took, forward = fit(make(), images, labels, options.width, clock)
            shares[name].append(took / forward)
    network = f"ResNet-18 of width {options.width}"
    print(f"{machine()}\n\n{options.samples} images ({origin}), {network}, {options.rounds} fits\n")
    print("| what | validation and check, F | added, F |\n|---|---|---|")
    base = statistics.median(shares[WITHOUT])
    for name, found in shares.items():
        print(f"| {name} | {statistics.median(found):.2f} | {statistics.median(found) - base:.2f} |")


if __name__ == "__main__":
    main()
