"""What each way to make checks cheaper is worth: ``python -m benchmarks.tuning_cost``.

The network of the recipe ``digits``, twice as wide, is trained for four epochs in one process, bare and with the
standard suite in several settings, in turn; processor seconds of the fit over those of the bare one, medians of rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

import convscope
from convscope.recipes.digits import DigitsCNN, digits_loaders

SETTINGS: dict[str, Callable[[], list[L.Callback]]] = {
    "no callback": list,
    "`suite()`": convscope.suite,
    '`suite("light")`': lambda: convscope.suite("light"),
    "`suite(heldout=HeldOut(size=125))`": lambda: convscope.suite(heldout=convscope.HeldOut(size=125)),
    "`suite(every_n_epochs=2)`": lambda: convscope.suite(every_n_epochs=2),
    '`suite(layers="features.4.*")`': lambda: convscope.suite(layers="features.4.*"),
    "`suite(pictures=False)`": lambda: convscope.suite(pictures=False),
    "`suite(max_overhead=0.2)`": lambda: convscope.suite(max_overhead=0.2),
}


def seconds(callbacks: list[L.Callback], width: int, epochs: int) -> float:
    """Processor seconds of a fit."""
    with tempfile.TemporaryDirectory() as folder:
        L.seed_everything(0, verbose=False)
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=TensorBoardLogger(Path(folder)),
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        began = time.process_time()
        trainer.fit(DigitsCNN(width), *digits_loaders())
        return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--width", type=int, default=32, help="filters of the first layers (default 32)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs to train (default 4)")
    options = parser.parse_args()
    seconds([], options.width, 1)
    rounds = [
        {name: seconds(make(), options.width, options.epochs) for name, make in SETTINGS.items()}
        for _ in range(options.rounds)
    ]
    print("| what | seconds | added, in bare trainings |\n|---|---|---|")
    for name in SETTINGS:
        added = statistics.median(one[name] / one["no callback"] - 1 for one in rounds)
        print(f"| {name} | {statistics.median(one[name] for one in rounds):.1f} | {added:.2f} |")


if __name__ == "__main__":
    main()
