"""What one watched run says, read from its record; the convergence of layers from its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

import convscope
from benchmarks.data import cifar10
from benchmarks.learning_process import Learner, heldout
from convscope.dashboard.record import Run

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """Held-out samples over the epochs: ``(epochs, N)`` each, ``probability`` of the truth at the end ``(N,)``."""

    depth: Array
    right: Array
    probability: Array
    layers: int


@dataclass(frozen=True)
class Watched:
    """One seed: its record, its scalars by epoch, its samples, and CKA with the last network ``(epochs, layers)``."""

    seed: int
    run: Run
    scalars: dict[str, Array]
    samples: Samples
    to_last: Array
    minutes: float

    @property
    def main_path(self) -> list[int]:
        """Columns of the convolutions that are not shortcuts, in depth order."""
        return [n for n, name in enumerate(self.run.layers) if "downsample" not in name and name != "output"]

    def values(self, family: str, quantity: str) -> Array:
        """``(checks, layers)`` of the main path."""
        return self.run.values(family, quantity)[:, self.main_path]

    def over_depth(self, family: str, name: str) -> tuple[Array, Array]:
        """Epochs trained, and a number of the whole network, at the checks that have it."""
        found = np.asarray(self.run.summary(family)[name], dtype=float)
        known = np.isfinite(found)
        return self.run.epochs[known], found[known]


def read(folder: Path) -> Watched:
    """Read ``seed_<n>``, a run that went to its end."""
    run = convscope.read_run(folder)
    events = EventAccumulator(str(folder), {"scalars": 0, "images": 1, "tensors": 1, "histograms": 1})
    events.Reload()
    names = ("val_accuracy", "val_loss", "train_accuracy", "train_loss")
    scalars = {name: np.array([event.value for event in events.Scalars(name)]) for name in names}
    times = [event.wall_time for event in events.Scalars("val_loss")]
    seed = int(folder.name.removeprefix("seed_"))
    minutes = (times[-1] - times[0]) / 60 * len(times) / (len(times) - 1)
    return Watched(seed, run, scalars, _samples(folder), _to_last(folder), minutes)


def _samples(folder: Path) -> Samples:
    depth, right, probability, layers = [], [], None, 0
    samples = heldout()
    samples.prepare()
    truth: Array = samples.targets.numpy()  # in the order of the samples' numbers
    for path in sorted(folder.glob("depths_*.npz")):
        with np.load(path) as found:
            depth.append(found["depth"])
            right.append(found["final"] == truth[found["numbers"]])
            probability, layers = found["truth_probability"][-1], len(found["layers"])
    assert probability is not None, f"{folder} has no depths_*.npz"
    assert (right[-1] >= (probability > 0.5)).all(), "the labels are not those of the samples"
    return Samples(np.array(depth), np.array(right), probability.astype(float), layers)


def _to_last(folder: Path) -> Array:
    """CKA of each layer after each epoch with the same layer at the end of training."""
    kept = folder / "to_last.npy"
    if not kept.exists():
        saved = sorted((folder / "checkpoints").glob("epoch=*.ckpt"))
        drift = convscope.RepresentationDrift(reference=saved[-1], heldout=heldout(), pictures=False)
        images = DataLoader(TensorDataset(*cifar10(2000, "test")[:2]), 250)
        network = Learner.load_from_checkpoint(saved[-1], weights_only=False)
        # last.ckpt has the step of the last epoch and is passed over by itself
        done = convscope.replay(folder / "checkpoints", network, images, callbacks=[drift], folder=folder / "to_last")
        np.save(kept, done.values("drift", "cka_reference"))
    found: Array = np.load(kept)
    return found


def rank(a: Array, b: Array) -> float:
    """Spearman's correlation of what both have."""
    both = np.isfinite(a) & np.isfinite(b)
    return float(spearmanr(a[both], b[both]).statistic)


def settled(similarity: Array, least: float = 0.9) -> Array:
    """``(layers,)`` the epoch from which on each layer's CKA with its end stays at or above ``least``."""
    below = similarity < least
    return np.array([np.flatnonzero(column)[-1] + 2 if column.any() else 1 for column in below.T])


def learned(right: Array) -> Array:
    """``(N,)`` the epoch from which on each sample is always right; one more than there are where it never is."""
    return np.array([np.flatnonzero(~column)[-1] + 2 if not column.all() else 1 for column in right.T])
