"""Closed-form and logistic probes against scikit-learn's logistic regression, on the same features of 20 layers."""

from __future__ import annotations

import time
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.data import cifar10
from benchmarks.networks import ResNet18
from convscope.capture import HeldOut, Subject, observe, select_layers, trace_layers
from convscope.capture.observation import Record
from convscope.metrics import LogisticProbe, RidgeProbe
from convscope.metrics.functional.logistic import equal_folds

Features = dict[str, torch.Tensor]
FOLDS = 5


class _Pooler:
    """Keeps each layer's features, pooled over a p × p grid."""

    needs_gradient = False
    takes_nonfinite = False

    def __init__(self, grid: int) -> None:
        self.grid = grid
        self.parts: dict[str, list[torch.Tensor]] = {}

    def wants(self, layer: str) -> bool:
        return True

    def on_activation(self, record: Record) -> None:
        pooled = F.adaptive_avg_pool2d(record.activation, self.grid).flatten(1).cpu()
        self.parts.setdefault(record.layer.name, []).append(pooled)

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        raise AssertionError("no gradient was asked for")


def trained_network(steps: int = 150) -> ResNet18:
    """A quarter-width ResNet-18 after a few hundred steps, so that its layers differ in what they know."""
    torch.manual_seed(0)
    images, labels, _ = cifar10(10000, "train")
    network = ResNet18(width=16)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        batch = torch.randint(0, len(images), (128,))
        optimizer.zero_grad()
        F.cross_entropy(network(images[batch]), labels[batch]).backward()
        optimizer.step()
    return network


def layer_features(network: ResNet18, samples: int, grid: int) -> tuple[Features, torch.Tensor]:
    """Pooled features ``(N, C·p²)`` of every conv unit on test images, and the labels."""
    heldout = HeldOut(cifar10(samples, "test")[:2], size=samples)
    heldout.prepare()
    subject, pooler = Subject(network, network, torch.device("cpu")), _Pooler(grid)
    observe(subject, heldout, select_layers(trace_layers(subject, heldout)[0]), [pooler])
    assert heldout.targets is not None
    return {name: torch.cat(parts) for name, parts in pooler.parts.items()}, heldout.targets


def compare_probes(samples: int) -> None:
    """Print time and accuracy of each probe against scikit-learn, by pooling."""
    network = trained_network()
    print(f"\n### Probes of 20 layers, {samples} images, quarter-width ResNet-18 after 150 steps\n")
    print("| pooling | probe | s | ÷ sklearn | mean Δ accuracy | worst Δ | at layer | rank correlation over layers |")
    print("|---|---|---|---|---|---|---|---|")
    for grid in (1, 2):
        features, labels = layer_features(network, samples, grid)
        began = time.perf_counter()
        reference = {name: _sklearn_accuracy(x, labels) for name, x in features.items()}
        theirs = time.perf_counter() - began
        print(f"| {grid}×{grid} | sklearn LogisticRegression, {FOLDS} folds | {theirs:.1f} | 1 | – | – | – | – |")
        for title, probe in (("ridge, leave-one-out", RidgeProbe), ("logistic, 5 folds", LogisticProbe)):
            _report(f"{grid}×{grid}", title, probe, features, labels, reference, theirs)


def _report(
    pooling: str,
    title: str,
    probe: type[RidgeProbe] | type[LogisticProbe],
    features: Features,
    labels: torch.Tensor,
    reference: dict[str, float],
    theirs: float,
) -> None:
    began = time.perf_counter()
    ours = {}
    for name, x in features.items():
        metric = probe()
        metric.update(x, labels)
        ours[name] = float(metric.compute().accuracy)
    seconds = time.perf_counter() - began
    difference = {name: ours[name] - reference[name] for name in ours}
    worst = max(difference, key=lambda name: abs(difference[name]))
    ranks = spearmanr(list(ours.values()), list(reference.values())).statistic
    print(
        f"| {pooling} | {title}, control labels included | {seconds:.2f} | {seconds / theirs:.4f} | "
        f"{np.mean(list(difference.values())):+.3f} | {difference[worst]:+.3f} | {worst} | {ranks:.2f} |",
        flush=True,
    )


def _sklearn_accuracy(features: torch.Tensor, labels: torch.Tensor) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fold, trains = equal_folds(labels, FOLDS)  # the very folds of the logistic probe
        splits = [(trains[:, n].nonzero()[:, 0].numpy(), (fold == n).nonzero()[:, 0].numpy()) for n in range(FOLDS)]
        predicted = cross_val_predict(model, features.numpy(), labels.numpy(), cv=splits)
    return float((predicted == labels.numpy()).mean())
