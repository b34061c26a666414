"""convscope beside other tools and beside code by hand, in one process, in turn: time and memory.

``python -m benchmarks.side_by_side`` prints two tables, of a check and of an epoch of training; ``--write`` puts them
into docs/benchmarks-side-by-side.md. captum and delve are measured where they are installed, and named where not.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import DeviceStatsMonitor, LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from benchmarks.data import cifar10
from benchmarks.measure import machine, ratio
from benchmarks.memory import resident, trim, watched
from benchmarks.networks import ResNet18
from benchmarks.overhead import CHUNK, Classifier, bare_forward, bare_training, check
from benchmarks.pages import DOCS, write_tables
from convscope.capture import HeldOut

PAGE = DOCS / "benchmarks-side-by-side.md"
TRAINING, FORWARD, BARE = "bare training forward + backward", "bare forward", "no callback"

Actions = dict[str, Callable[[], object]]


def convolutions(network: nn.Module) -> list[nn.Module]:
    """The layers that all tools are given."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def by_captum(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """captum's gradient times activation of all layers, summed over positions and samples."""
    from captum.attr import LayerGradientXActivation

    def action() -> list[torch.Tensor]:
        network.eval()
        method, sums = LayerGradientXActivation(network, convolutions(network)), list[torch.Tensor]()
        for part, label in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
            found = [each.detach().sum((2, 3)).abs().sum(0) for each in method.attribute(part, target=label)]
            sums = found if not sums else [a + b for a, b in zip(sums, found, strict=True)]
        return sums

    return action


def kept(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """By hand: hooks that keep all activations of all samples."""
    network.eval()
    found: list[list[torch.Tensor]] = [[] for _ in convolutions(network)]
    handles = [
        layer.register_forward_hook(lambda module, args, output, place=place: found[place].append(output.detach()))
        for place, layer in enumerate(convolutions(network))
    ]
    try:
        with torch.no_grad():
            for part in images.split(CHUNK):
                network(part)
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(parts) for parts in found]


def by_hand(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, probe: Any) -> Callable[[], object]:
    """By hand: all activations kept, a scikit-learn probe of each layer's pooled ones."""

    def action() -> list[float]:
        truth, scores = labels.numpy(), []
        for activation in kept(network, images):
            features = activation.mean((2, 3)).numpy()
            model = make_pipeline(StandardScaler(), probe())
            scores.append(float((cross_val_predict(model, features, truth, cv=5) == truth).mean()))
        return scores

    return action


def correlations_by_hand(network: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    """By hand: all activations kept, NumPy's correlation of the filters over all positions."""

    def action() -> list[Any]:
        return [np.corrcoef(activation.movedim(1, 0).flatten(1).numpy()) for activation in kept(network, images)]

    return action


def checks(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Actions:
    """What is measured on the held-out samples, everything of the same network and layers."""
    heldout = HeldOut((images, labels), size=len(images), batch_size=CHUNK)
    heldout.prepare()
    found: Actions = {
        TRAINING: bare_training(network, images, labels),
        FORWARD: bare_forward(network, images),
    }
    if importlib.util.find_spec("captum"):
        found["captum, LayerGradientXActivation"] = by_captum(network, images, labels)
    return found | {
        "convscope, FilterImportance": check(network, heldout, [convscope.FilterImportance()]),
        "by hand: hooks, scikit-learn RidgeClassifierCV, 5 folds": by_hand(network, images, labels, RidgeClassifierCV),
        "by hand: hooks, scikit-learn LogisticRegression, 5 folds": by_hand(
            network, images, labels, lambda: LogisticRegression(max_iter=1000)
        ),
        "convscope, LayerProbe": check(network, heldout, [convscope.LayerProbe()]),
        "convscope, LayerProbe(probe='logistic')": check(network, heldout, [convscope.LayerProbe(probe="logistic")]),
        "by hand: hooks, NumPy correlations": correlations_by_hand(network, images),
        "convscope, FilterCorrelation": check(network, heldout, [convscope.FilterCorrelation()]),
        "convscope, standard suite": check(network, heldout, convscope.suite("standard", alerts=False)),
    }


class Saturation(L.Callback):
    """delve's SaturationTracker as a user of Lightning would call it: every step, its statistics at the epoch's end."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Attach it."""
        from delve import SaturationTracker

        self._tracker = SaturationTracker(
            f"{trainer.default_root_dir}/delve", ["csv"], modules=pl_module.net, stats=["lsat"], device="cpu"
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compute."""
        self._tracker.add_saturations()
        self._tracker.close()


def fits(images: torch.Tensor, labels: torch.Tensor, width: int) -> Actions:
    """Whole ``Trainer.fit`` calls of one epoch, with each tool as a callback."""
    loader = DataLoader(TensorDataset(images, labels), 64)

    def fit(make: Callable[[], list[Any]]) -> Callable[[], object]:
        def action() -> None:
            with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
                trainer = L.Trainer(
                    max_epochs=1, accelerator="cpu", callbacks=make(), logger=TensorBoardLogger(folder),
                    default_root_dir=folder, enable_checkpointing=False, enable_progress_bar=False,
                    enable_model_summary=False, limit_val_batches=0, log_every_n_steps=1,
                )  # fmt: skip
                trainer.fit(Classifier(ResNet18(width)), loader)

        return action

    heldout = (images[:CHUNK], labels[:CHUNK])
    found: Actions = {BARE: fit(list), "Lightning, LearningRateMonitor": fit(lambda: [LearningRateMonitor()])}
    if importlib.util.find_spec("psutil"):
        found["Lightning, DeviceStatsMonitor(cpu_stats=True)"] = fit(lambda: [DeviceStatsMonitor(cpu_stats=True)])
    if importlib.util.find_spec("delve"):
        found["delve, saturation of every step"] = fit(lambda: [Saturation()])
    for name in ("light", "standard"):
        suite = lambda name=name: convscope.suite(name, heldout=heldout, on_start=False)  # noqa: E731
        found[f"convscope, {name} suite, a check of {CHUNK} images at the end"] = fit(suite)
    return found


def measured(
    actions: Actions, rounds: int, clock: Callable[[], float]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each action, in turn, and the most memory in MiB that it added; the first round is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    memory: dict[str, float] = {}
    for turn in range(1 + rounds):
        for name, action in actions.items():
            trim()
            before = resident()
            with watched() as peak:
                began = clock()
                action()
                took = clock() - began
            memory[name] = max(memory.get(name, 0.0), peak.most - before)
            if turn:
                seconds[name].append(took)
    return seconds, memory


def table(actions: Actions, rounds: int, bases: tuple[str, ...], clock: Callable[[], float]) -> str:
    """Measure, and lay out: medians of seconds, ratios of the same round, memory."""
    seconds, memory = measured(actions, rounds, clock)
    lines = [f"| what | median s | {' | '.join(f'÷ {base}' for base in bases)} | memory added, MiB |"]
    lines.append("|---" * (3 + len(bases)) + "|")
    for name, times in seconds.items():
        ratios = " | ".join(f"{ratio(seconds, name, base):.2f}" for base in bases)
        lines.append(f"| {name} | {statistics.median(times):.2f} | {ratios} | {memory[name]:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Print both tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=512, help="held-out images (default 512)")
    parser.add_argument("--train", type=int, default=1024, help="images of the epoch (default 1024)")
    parser.add_argument("--width", type=int, default=24, help="filters of the first stage (default 24)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that are counted (default 3)")
    parser.add_argument("--processor", action="store_true", help="seconds of the processor instead of those that pass")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    clock = time.process_time if options.processor else time.perf_counter
    images, labels, origin = cifar10(max(options.samples, options.train), "train")
    part, network = slice(0, options.samples), ResNet18(options.width)
    first = table(checks(network, images[part], labels[part]), options.rounds, (FORWARD, TRAINING), clock)
    part = slice(0, options.train)
    second = table(fits(images[part], labels[part], options.width), options.rounds, (BARE,), clock)
    missing = [name for name in ("captum", "delve", "psutil") if importlib.util.find_spec(name) is None]
    tables = "\n\n".join(
        [
            f"Machine: {machine()}. {options.rounds} rounds, seconds "
            + ("of the processor, all threads." if options.processor else "that passed.")
            + (f" Not installed, so not measured: {', '.join(missing)}." if missing else ""),
            f"## A check of {options.samples} images ({origin}), ResNet-18-like of width {options.width}\n\n{first}",
            f"## An epoch of {options.train} images in batches of 64, one check at its end\n\n{second}",
        ]
    )
    print(tables)
    if options.write:
        write_tables(PAGE, tables)


if __name__ == "__main__":
    main()
