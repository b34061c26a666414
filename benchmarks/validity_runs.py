"""Training runs that are watched from start to end, each to one plain record."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import lightning as L
import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.data import cifar10
from benchmarks.validity_models import MODELS, Classifier
from convscope import AblationOracle, HeldOut, LayerPrediction, LayerProbe
from convscope.callbacks.engine.findings import Findings, LayerResult, Moment
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.metrics import PooledFeatures
from convscope.metrics.functional import linear_cka

Record_ = dict[str, Any]
EPOCHS = 6


class _Keeps:
    """Mixed into an observer: every check's findings stay."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.found: list[tuple[int, Findings]] = []

    def remember(self, findings: Findings, when: Moment) -> None:
        super().remember(findings, when)  # type: ignore[misc]
        self.found.append((-1 if when.trigger == "start" else when.epoch, findings))

    def tables(self) -> list[Record_]:
        """``{"epoch", "values", "summary"}`` of each check."""
        return [{"epoch": epoch, "values": f.values, "summary": f.summary} for epoch, f in self.found]


class _Probe(_Keeps, LayerProbe): ...


class _Oracle(_Keeps, AblationOracle): ...


class _Prediction(_Keeps, LayerPrediction):
    def end(self) -> None:
        self.last = self._path or getattr(self, "last", None)
        super().end()


class _Features(LayerObserver):
    """Keeps every check's pooled features, to compare each with the last."""

    family = "features"

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.checks: list[dict[str, torch.Tensor]] = []

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._metrics = {layer.name: PooledFeatures(layer.channels) for layer in layers}
        self.checks.append({})

    def on_activation(self, record: Record) -> None:
        self._metrics[record.layer.name].update(record.pooled, record.index)

    def compute(self, layer: Layer) -> LayerResult | None:
        self.checks[-1][layer.name] = self._metrics[layer.name].compute()
        return None

    def to_the_last(self) -> dict[str, list[float]]:
        """Linear CKA (debiased) of each check with the last one, by layer."""
        last = self.checks[-1]
        return {n: [float(linear_cka(check[n], last[n], debiased=True)) for check in self.checks] for n in last}


def train(net: nn.Module, data: tuple[Any, Any], epochs: int, callbacks: list[Any], batch_size: int = 64) -> Classifier:
    """A quiet fit."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    module = Classifier(net)
    trainer = L.Trainer(
        max_epochs=epochs, callbacks=callbacks, logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    held_in, held_out = data
    trainer.fit(
        module, DataLoader(TensorDataset(*held_in), batch_size, shuffle=True), DataLoader(TensorDataset(*held_out), 256)
    )
    return module


def watched_run(model: str, seed: int, images: int, held: int) -> Record_:
    """One model on CIFAR-10 images: probe, ablation and CKA with the last check, from the untrained network on."""
    began = time.perf_counter()
    x, y, source = cifar10(images)
    held_x, held_y, _ = cifar10(2000, "test")
    L.seed_everything(seed, verbose=False)
    heldout = HeldOut((held_x, held_y), size=held, batch_size=128, seed=seed)
    pictures = {"pictures": False, "on_error": "raise", "heldout": heldout}
    probe, features = _Probe(**pictures), _Features(**pictures)
    oracle = _Oracle(every_n_epochs=2, ends=4, random=16, max_forwards=400, **pictures)
    train(MODELS[model](3, 10), ((x, y), (held_x, held_y)), EPOCHS, [probe, oracle, features])
    return {
        "kind": "watched", "model": model, "seed": seed, "source": source, "probe": probe.tables(),
        "ablation": oracle.tables(), "cka_last": features.to_the_last(), "seconds": time.perf_counter() - began,
    }  # fmt: skip


def digits(seed: int) -> tuple[Any, Any]:
    """scikit-learn's digits, 8 × 8, split 1297 / 500."""
    data = load_digits()
    images, labels = torch.tensor(data.images / 16, dtype=torch.float32)[:, None], torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return (images[order[500:]], labels[order[500:]]), (images[order[:500]], labels[order[:500]])


def difficulty_run(model: str, seed: int, epochs: int = 30, share: float = 0.1) -> Record_:
    """Decision depth of easy and hard, of rightly and wrongly labelled samples, on digits.

    Easy and hard are judged by a logistic regression on pixels that knows nothing of the network. Ten percent of the
    training labels are wrong; the samples looked at are training samples, half of them mislabelled.
    """
    (x, y), (held_x, held_y) = digits(seed)
    L.seed_everything(seed, verbose=False)
    wrong = torch.rand(len(y)) < share
    given = torch.where(wrong, (y + torch.randint(1, 10, y.shape)) % 10, y)
    pixels = held_x.flatten(1).numpy()
    ease = cross_val_predict(
        LogisticRegression(C=0.1, max_iter=200), pixels, held_y.numpy(), cv=5, method="predict_proba"
    )
    ease = ease[np.arange(len(held_y)), held_y.numpy()]
    net = MODELS[model](1, 10)
    looked = torch.cat([wrong.nonzero().flatten(), (~wrong).nonzero().flatten()[: int(wrong.sum())]])
    common = {"pictures": False, "on_error": "raise", "every_n_epochs": epochs, "on_start": False}
    held = _Prediction(heldout=HeldOut((held_x, held_y), size=500, stratify=False), name="held", **common)
    train_ = _Prediction(
        heldout=HeldOut((x[looked], given[looked]), size=len(looked), stratify=False), name="t", **common
    )
    train(net, ((x, given), (held_x, held_y)), epochs, [held, train_])
    is_wrong = wrong[looked][train_.last.numbers].numpy()
    depth, held_depth = train_.last.depth.numpy(), held.last.depth.numpy()
    easy = ease > np.median(ease)
    learned = (train_.last.predicted[-1] == train_.last.truth).numpy()
    return {
        "kind": "difficulty", "model": model, "seed": seed, "layers": len(held.last.layers),
        "spearman_ease": float(spearmanr(held_depth, ease[held.last.numbers.numpy()]).statistic),
        "depth_easy_hard": [float(held_depth[easy].mean()), float(held_depth[~easy].mean())],
        "depth_right_wrong": [float(depth[~is_wrong].mean()), float(depth[is_wrong].mean())],
        "auc_wrong": float(roc_auc_score(is_wrong, depth)), "memorised": float(learned[is_wrong].mean()),
        "calibration_error": list(held.found[-1][1].values["calibration_error"].values()),
    }  # fmt: skip


def random_label_run(seed: int) -> Record_:
    """Probes of a network trained on labels that have nothing to do with the images, and of one never trained."""
    (x, y), (held_x, held_y) = digits(seed)
    L.seed_everything(seed, verbose=False)
    shuffled, held_shuffled = y[torch.randperm(len(y))], held_y[torch.randperm(len(held_y))]
    random = _Probe(heldout=HeldOut((held_x, held_shuffled), size=500), on_start=False, every_n_epochs=10, name="r")
    train(MODELS["VGG-BN"](1, 10), ((x, shuffled), (held_x, held_shuffled)), 10, [random])
    real = _Probe(heldout=HeldOut((held_x, held_y), size=500), every_n_epochs=10, name="real")
    train(MODELS["VGG-BN"](1, 10), ((x, y), (held_x, held_y)), 10, [real])
    return {"kind": "random_labels", "seed": seed, "random": random.tables(), "real": real.tables()}
