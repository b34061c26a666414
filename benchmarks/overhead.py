"""Cost of convscope: a check against bare training, probes against scikit-learn, and memory.

Run ``python -m benchmarks.overhead`` from the repository (about twenty minutes on two cores), or one part of it with
``--only check``. Prints Markdown tables; docs/benchmarks.md holds what one run printed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

import convscope
from benchmarks.data import cifar10
from benchmarks.measure import interleaved, machine, median, ratio, synchronised
from benchmarks.networks import ResNet18
from benchmarks.probes import compare_probes
from convscope.callbacks.engine import stopwatch
from convscope.callbacks.engine.bridge import gather_objects
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.planning import make_plan
from convscope.callbacks.engine.shared_pass import run_pass
from convscope.capture import HeldOut, Subject

CHUNK = 128


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check(network: torch.nn.Module, heldout: HeldOut, callbacks: list) -> Callable[[], None]:
    """One full check: the pass and every value, as a session makes it; logging and pictures left out."""
    observers = [callback for callback in callbacks if isinstance(callback, convscope.LayerObserver)]
    plan = make_plan(Subject(network, network, device()), heldout, observers)
    failures = Failures(raising=True)
    seen: set[str] = set()

    def action() -> None:
        usable = run_pass(plan, observers, failures, gather_objects)
        for observer in observers:
            found = [observer.compute(layer) for layer in usable[observer.name]]
            first = observer.name not in seen  # a first check of drift has nothing to compare with
            assert all(result is None or result.scalars or first for result in found)
            seen.add(observer.name)
            observer.end()

    return action


def bare_training(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """A bare training forward and backward over all images, in chunks, weight gradients and all."""

    def action() -> None:
        network.train()
        for start in range(0, len(images), CHUNK):
            network.zero_grad(set_to_none=True)
            part = slice(start, start + CHUNK)
            F.cross_entropy(network(images[part].to(device())), labels[part].to(device())).backward()

    return action


def bare_forward(network: torch.nn.Module, images: torch.Tensor) -> Callable[[], None]:
    """A bare evaluation forward over all images, in chunks, without gradients."""

    def action() -> None:
        network.eval()
        with torch.no_grad():
            for start in range(0, len(images), CHUNK):
                network(images[start : start + CHUNK].to(device()))

    return action


def bare_gradients(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """An evaluation forward over all images, in chunks, and the backward to the convolutions' outputs.

    No check with gradients can take less: nothing is computed from the activations here.
    """

    def action() -> None:
        network.eval()
        outputs: list[torch.Tensor] = []
        convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
        hooks = [module.register_forward_hook(lambda m, i, output: outputs.append(output)) for module in convolutions]
        for start in range(0, len(images), CHUNK):
            part = slice(start, start + CHUNK)
            logits = network(images[part].to(device()))
            torch.autograd.grad(F.cross_entropy(logits, labels[part].to(device()), reduction="sum"), outputs)
            outputs.clear()
        for hook in hooks:
            hook.remove()

    return action


def compare_check(samples: int, repeats: int) -> None:
    """The check of a whole suite against bare training, and its forward-only part against a bare forward."""
    _compare(
        {
            "check: standard suite": lambda: convscope.suite("standard"),
            "check: probe, importance, correlation": lambda: convscope.suite("standard")[:3],
            "check: light suite (probe, correlation)": lambda: convscope.suite("light"),
        },
        samples,
        repeats,
    )


def compare_callbacks(samples: int, repeats: int) -> None:
    """The check of each callback alone."""
    _compare(
        {
            "check: probe": lambda: [convscope.LayerProbe()],
            "check: correlation": lambda: [convscope.FilterCorrelation()],
            "check: importance": lambda: [convscope.FilterImportance()],
            "check: drift": lambda: [convscope.RepresentationDrift()],
            "check: health": lambda: [convscope.FilterHealth()],
        },
        samples,
        repeats,
    )


def _compare(checks: dict[str, Callable[[], list]], samples: int, repeats: int) -> None:
    images, labels, origin = cifar10(samples, "train")
    network = ResNet18().to(device())
    heldout = HeldOut((images, labels), size=samples, batch_size=CHUNK)
    heldout.prepare()
    actions = {
        "training forward + backward": bare_training(network, images, labels),
        "forward": bare_forward(network, images),
    }
    actions |= {name: check(network, heldout, make()) for name, make in checks.items()}
    seconds = interleaved(actions, repeats)
    print(f"\n### One check on {samples} images ({origin}), ResNet-18, 20 conv layers, {repeats} rounds\n")
    print("| what | median s | ÷ training forward + backward | ÷ forward |\n|---|---|---|---|")
    for name in seconds:
        against = [ratio(seconds, name, base) for base in ("training forward + backward", "forward")]
        print(f"| {name} | {median(seconds[name]):.2f} | {against[0]:.2f} | {against[1]:.2f} |", flush=True)


def compare_convolutions(samples: int, repeats: int) -> None:
    """Time inside the forward convolutions alone, by torch's profiler: bare, with a graph, and in checks."""
    images, labels, origin = cifar10(samples, "train")
    network = ResNet18(24).to(device())
    heldout = HeldOut((images, labels), size=samples, batch_size=CHUNK)
    heldout.prepare()
    actions = {
        "forward": bare_forward(network, images),
        "evaluation forward, backward to activations": bare_gradients(network, images, labels),
        "training forward + backward": bare_training(network, images, labels),
        "check: light suite": check(network, heldout, convscope.suite("light")),
        "check: standard suite": check(network, heldout, convscope.suite("standard")),
    }
    found: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
                action()
            events = [event for event in profiler.key_averages() if event.key.endswith("convolution")]
            if turn > 0:
                found[name].append(sum(event.self_cpu_time_total for event in events) / 1e6)
    print(f"\n### Convolutions of a forward, {samples} images ({origin}), ResNet-18 of width 24, {repeats} rounds\n")
    print("| in | s | ÷ bare forward |\n|---|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {median(seconds):.2f} | {ratio(found, name, 'forward'):.2f} |", flush=True)


class Classifier(L.LightningModule):
    """The benchmark's training."""

    def __init__(self, net: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.net = ResNet18() if net is None else net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Bill(L.Callback):
    """Cost of each check, part by part, beside a bare training forward and backward over as many images, in turn."""

    def __init__(self, bare: Callable[[], None], clock: Callable[[], float]) -> None:
        self._bare, self._clock = bare, clock
        self.rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        observer = next(one for one in trainer.callbacks if isinstance(one, convscope.LayerObserver))
        parts = observer.session.seconds if observer.session is not None else {}
        with torch.inference_mode(False), torch.enable_grad():
            began = self._clock()
            self._bare()
            bare = self._clock() - began
        self.rows.append({**parts, "in all": sum(parts.values()), "bare": bare})


PARTS = ("passes", "solving", "drawing", "logging", "in all")


def compare_paid(samples: int, repeats: int) -> None:
    """Checks as the user pays for them, in a fit with TensorBoard: passes, solving, drawing and writing, logging."""
    images, labels, origin = cifar10(samples, "train")
    suites = {
        "standard suite": lambda: convscope.suite("standard"),
        "standard suite, no pictures": lambda: convscope.suite("standard", pictures=False),
        "light suite": lambda: convscope.suite("light"),
        **{
            f"{kind.__name__} alone": lambda kind=kind: [kind()]
            for kind in map(type, convscope.suite("standard", alerts=False)[:-1])
        },
    }
    print(f"\n### A check as it is paid for, {samples} images ({origin}), ResNet-18, 20 conv layers\n")
    print("Medians, as multiples of a bare training forward and backward over the same images.\n")
    print("| what | passes | solving | drawing, writing | logging | in all |\n|---|---|---|---|---|---|")
    for name, make in suites.items():
        bare = bare_training(ResNet18().to(device()), images, labels)
        bare()
        rows = paid(make(), ResNet18(), images, labels, repeats, bare)
        shares = [median([row.get(part, 0.0) / row["bare"] for row in rows]) for part in PARTS]
        print(f"| {name} | {' | '.join(f'{share:.2f}' for share in shares)} |", flush=True)


def paid(
    callbacks: list,
    net: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    checks: int,
    bare: Callable[[], None],
    clock: Callable[[], float] = synchronised,
) -> list[dict[str, float]]:
    """The parts of each of ``checks`` checks after the first two, in which memory and processes are made ready.

    ``clock`` is the session's own too: with that of the processor, other work on the machine counts for nothing.
    """
    bill = Bill(bare, clock)
    own = SimpleNamespace(perf_counter=clock)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(stopwatch, "time", own):
        trainer = L.Trainer(
            max_epochs=checks + 1,
            limit_train_batches=1,
            limit_val_batches=1,
            accelerator="auto",
            callbacks=[*callbacks, bill],
            logger=TensorBoardLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        loader = DataLoader(TensorDataset(images, labels), CHUNK)
        trainer.fit(Classifier(net), loader, loader)
    return bill.rows[1:]


def compare_epoch(train_size: int) -> None:
    """One epoch of training with the standard suite against one without, whole ``Trainer.fit`` calls in turn."""
    train, val = cifar10(train_size, "train"), cifar10(2000, "test")

    def fit(callbacks: list) -> None:
        with tempfile.TemporaryDirectory() as folder:
            trainer = L.Trainer(
                max_epochs=1,
                accelerator="auto",
                callbacks=callbacks,
                logger=TensorBoardLogger(folder),
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            loaders = [DataLoader(TensorDataset(*split[:2]), CHUNK) for split in (train, val)]
            trainer.fit(Classifier(), *loaders)

    seconds = interleaved(
        {
            "without": lambda: fit([]),
            "standard suite, epoch end": lambda: fit(convscope.suite("standard", on_start=False)),
            "light suite, epoch end": lambda: fit(convscope.suite("light", on_start=False)),
        },
        repeats=1,
        warmup=0,
    )
    print(f"\n### One epoch of {train_size} images, validation on 2,000, one check of 1,024 images, pictures drawn\n")
    print("| what | s | ÷ without |\n|---|---|---|")
    for name in seconds:
        print(f"| {name} | {median(seconds[name]):.1f} | {ratio(seconds, name, 'without'):.3f} |", flush=True)


def measure_memory(sizes: list[int]) -> None:
    """Peak memory that a check adds over a bare training step, each size in a process of its own."""
    print("\n### Peak memory (resident set) of one process, ResNet-18\n")
    print("| held-out images | after bare training, MiB | after a check, MiB | added | pooled features of all layers |")
    print("|---|---|---|---|---|")
    for size in sizes:
        command = [sys.executable, "-m", "benchmarks.overhead", "--memory-of", str(size)]
        before, after = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        pooled = size * 4 * (5 * 64 + 5 * 128 + 5 * 256 + 5 * 512 + 10) / 2**20
        print(f"| {size} | {before:.0f} | {after:.0f} | {after - before:.0f} | {pooled:.0f} |", flush=True)


def memory_of(samples: int) -> None:
    """Print the process's peak memory before and after checks, the held-out set included in both."""
    images, labels, _ = cifar10(samples, "train")
    network = ResNet18()
    heldout = HeldOut((images, labels), size=samples, batch_size=CHUNK)
    heldout.prepare()
    train = bare_training(network, images[:1024], labels[:1024])
    train()
    peaks = [_peak()]
    act = check(network, heldout, convscope.suite("standard"))
    act()
    act()
    peaks.append(_peak())
    print(*peaks)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        choices=("aims", "check", "convolutions", "callbacks", "paid", "probes", "memory", "epoch"),
        help="one part of the benchmark",
    )
    parser.add_argument("--samples", type=int, default=1024, help="held-out images of a check (default 1024)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that are counted (default 5)")
    parser.add_argument("--train-size", type=int, default=10000, help="images of the epoch (default 10000)")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        memory_of(options.memory_of)
        return
    began = time.perf_counter()
    print(f"Machine: {machine()}")
    from benchmarks.aims import CASES, compare_aims  # which measures with what is defined here

    parts: dict[str, Callable[[], None]] = {
        "aims": lambda: compare_aims([*CASES, "start"], options.samples, options.repeats),
        "check": lambda: compare_check(options.samples, options.repeats),
        "convolutions": lambda: compare_convolutions(options.samples, options.repeats),
        "callbacks": lambda: compare_callbacks(options.samples, options.repeats),
        "paid": lambda: compare_paid(options.samples, options.repeats),
        "probes": lambda: compare_probes(options.samples),
        "memory": lambda: measure_memory([1024, 4096]),
        "epoch": lambda: compare_epoch(options.train_size),
    }
    for name, part in parts.items():
        if options.only in (None, name):
            part()
    print(f"\n({time.perf_counter() - began:.0f} s in all; {Path(__file__).name})")


if __name__ == "__main__":
    main()
