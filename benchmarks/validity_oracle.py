"""Every criterion against the oracle of Molchanov et al. 2019: squared changes of loss, all filters of a network."""

from __future__ import annotations

from statistics import mean
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from scipy.stats import pearsonr, spearmanr
from torch import nn

from benchmarks.data import cifar10
from benchmarks.validity_models import MODELS
from benchmarks.validity_runs import EPOCHS, train
from benchmarks.validity_tables import Records, by_model, spread, table
from convscope import AblationOracle, HeldOut, forward_from_layer
from convscope.capture.network.trace import Layer

AT_ONCE = 8  # filter sets in one batch


class _Importances(AblationOracle):
    """Keeps what every criterion says of every filter."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.all: dict[str, dict[str, torch.Tensor]] = {}

    def choose(self, layer: Layer, importance: dict[str, torch.Tensor], most: int) -> torch.Tensor:
        self.all[layer.name] = importance
        return super().choose(layer, importance, most)


def oracle_run(model: str, seed: int, images: int, held: int) -> dict[str, Any]:
    """One model trained on CIFAR-10 images; then each filter alone is set to zero, and each sample's loss taken."""
    x, y, source = cifar10(images)
    held_x, held_y, _ = cifar10(held, "test")
    L.seed_everything(seed, verbose=False)
    observer = _Importances(
        heldout=HeldOut((held_x, held_y), size=held, batch_size=128, stratify=False), ends=1, random=4,
        every_n_epochs=EPOCHS, on_start=False, on_error="raise", pictures=False,
    )  # fmt: skip
    module = train(MODELS[model](3, 10), ((x, y), (held_x, held_y)), EPOCHS, [observer]).eval()
    layers = {
        name: {"signed": rises.mean(1).tolist(), "squared": rises.square().mean(1).tolist(), "criteria": _plain(found)}
        for name, found in observer.all.items()
        for rises in [changes_of_loss(module, name, held_x, held_y)]
    }
    return {"kind": "oracle", "model": model, "seed": seed, "source": source, "layers": layers}


def _plain(found: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in found.items()}


@torch.no_grad()
def changes_of_loss(model: nn.Module, layer: str, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``(C, N)``: what setting each filter to zero adds to each sample's cross-entropy."""
    whole = F.cross_entropy(model(images), labels, reduction="none")
    channels = dict(model.named_modules())[layer].out_channels
    keep = ~torch.eye(int(channels), dtype=torch.bool)
    rows = []
    for part in keep.split(AT_ONCE):
        logits = forward_from_layer(model, images, layer, part, baseline="zero")
        repeated = labels.repeat(len(part))
        rows.append(F.cross_entropy(logits.flatten(0, 1), repeated, reduction="none").view(len(part), -1) - whole)
    return torch.cat(rows)


# The report.


INTRODUCTION = """\
## Molchanov's own measure: all filters of a network against the squared change of loss

Each filter alone is set to zero after training; the oracle is the mean over held-out samples of the squared change of
the sample's loss, which is what Taylor importance approximates to first order. *Signed* is the mean change, where what
helps one sample and hurts another cancels. Molchanov et al. (2019) report more than 0.93 for Taylor on a ResNet-101 and
ImageNet."""


def section(runs: Records) -> str:
    """Tables over the records of :func:`oracle_run`."""
    names = list(dict.fromkeys(n for run in runs for layer in run["layers"].values() for n in layer["criteria"]))
    kinds = (("squared", "Spearman", spearmanr), ("squared", "Pearson", pearsonr), ("signed", "Spearman", spearmanr))
    rows = [
        [f"whole network, {oracle} change, {word}", *[spread(_whole(r, n, oracle, found) for r in runs) for n in names]]
        for oracle, word, found in kinds
    ]
    rows += [
        [f"within layers, {oracle} change, Spearman", *[spread(_within(run, n, oracle) for run in runs) for n in names]]
        for oracle in ("squared", "signed")
    ]
    by_name = {n: (lambda run, n=n: _whole(run, n, "squared", spearmanr)) for n in names}  # type: ignore[misc]
    return (
        f"{INTRODUCTION}\n\n{table(['measure', *names], rows)}\n\nBy model, whole network, squared change, "
        f"Spearman:\n\n{by_model(runs, by_name)}"
    )


def _whole(run: dict[str, Any], criterion: str, oracle: str, correlation: Any) -> float:
    """Over all filters of the layers of which the criterion can be had."""
    layers = [layer for layer in run["layers"].values() if criterion in layer["criteria"]]
    if not layers:
        return float("nan")
    importance = [value for layer in layers for value in layer["criteria"][criterion]]
    return float(correlation(importance, [value for layer in layers for value in layer[oracle]]).statistic)


def _within(run: dict[str, Any], criterion: str, oracle: str) -> float:
    """Mean over layers of the rank correlation within one."""
    layers = [layer for layer in run["layers"].values() if criterion in layer["criteria"]]
    found = [float(spearmanr(layer["criteria"][criterion], layer[oracle]).statistic) for layer in layers]
    return mean(found) if found else float("nan")
