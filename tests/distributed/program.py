"""One training program, run by several processes: ``python -m tests.distributed.program FOLDER DEVICES MODE``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler

import convscope
from benchmarks.ranks import Traffic
from convscope.callbacks.engine import measuring
from convscope.recipes._program import leave_the_processes
from tests.callbacks.conftest import Classifier, loaders
from tests.callbacks.test_tasks import MASKS, Segmenter, Task, X, both
from tests.networks import TinyResNet, images
from tests.support.trainers import quiet_trainer

MEANS = X.mean((2, 3))


class FailsOnRankOne(convscope.FilterCorrelation):
    """Its check fails on one process only."""

    def on_activation(self, record: Any) -> None:
        if torch.distributed.get_rank() == 1 and record.layer.name == "net.conv1":
            raise RuntimeError("only here")
        super().on_activation(record)

    def begin(self, layers: Any, samples: int) -> None:
        self.begun = getattr(self, "begun", 0) + 1
        if torch.distributed.get_rank() == 1 and self.begun == 3:
            raise RuntimeError("a whole check, only here")
        super().begin(layers, samples)


class Augmented(Dataset):
    """Random transforms from a global and from a private stream. Training samples have labels of their own, 3 to 5."""

    def __init__(self) -> None:
        self.pictures, self.labels = images(80)
        self.labels[:40] += 3
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Any:
        return self.pictures[i] + 0.1 * torch.randn(3, 8, 8) + 0.1 * float(self.rng.random()), self.labels[i]


def sampled() -> tuple[DataLoader, DataLoader]:
    """One data set, divided by two samplers."""
    data = Augmented()
    return (
        DataLoader(data, 8, sampler=SubsetRandomSampler(range(40))),  # type: ignore[arg-type]
        DataLoader(data, 8, sampler=SubsetRandomSampler(range(40, 80)), num_workers=1),  # type: ignore[arg-type]
    )


def task(mode: str) -> tuple[Classifier, tuple[Any, Any]]:
    """A module and its loaders: a classifier unless the mode names another task."""
    other_tasks: dict[str, Any] = {
        "segmentation": lambda: (Segmenter(), F.cross_entropy, MASKS),
        "regression": lambda: (TinyResNet(4, classes=2), F.mse_loss, MEANS[:, :2]),
        "multilabel": lambda: (
            TinyResNet(4, classes=3),
            F.binary_cross_entropy_with_logits,
            X.mean((2, 3)).gt(0).float(),
        ),
    }
    if mode == "sampled":
        return Classifier(TinyResNet(4, classes=6), lr=0.0), sampled()
    if mode == "validated":
        return Classifier(lr=0.0), loaders(val=31)  # Lightning gives one of them to two processes
    if mode not in other_tasks:
        return Classifier(lr=0.0), loaders()
    network, loss, targets = other_tasks[mode]()
    return Task(network, loss, lr=0.0), both(X, targets)


def counted_passes() -> list[Any]:
    """A list that grows with every pass of a check's own, which runs as always."""
    original, calls = measuring.run_pass, list[Any]()

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return original(*args, **kwargs)

    measuring.run_pass = counted  # type: ignore[assignment]
    return calls


def main(folder: Path, devices: int, mode: str) -> None:
    """Train without moving weights or statistics, so that all see one network; write what was logged."""
    L.seed_everything(0, workers=True, verbose=False)
    module, data = task(mode)
    for norm in module.net.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.0  # each process sees other training batches
    heldout = convscope.HeldOut(size=29, batch_size=7)  # uneven shares, and uneven numbers of chunks: 3 and 2
    callbacks: list[Any] = list(convscope.suite("full", heldout=heldout, on_error="warn", on_start=True))
    few: dict[str, Any] = {"heldout": heldout, "images": 5, "samples": 30, "every_n_epochs": 1}  # in the suite's place
    callbacks.append(convscope.MultiScaleInterpretation(**few))
    if mode == "plain":
        callbacks.append(
            convscope.RepresentationDrift(heldout=heldout, reference=TinyResNet(4, classes=3), name="reference")
        )
        often: dict[str, Any] = {"heldout": heldout, "layers": "*.layer2.0.conv1", "every_n_epochs": 1, "samples": 20}
        callbacks.append(convscope.AblationOracle(name="ablation_often", **often))
        callbacks.append(convscope.ForwardFromLayer(name="forward_often", criterion="weight_l1", **often))
    if mode == "sampled":
        callbacks = list(convscope.suite("standard", heldout=heldout, on_error="raise"))
    if mode == "copies":
        callbacks = [convscope.InputResampling(heldout=heldout, images=5, perturbations=6, top=2, on_error="raise")]
    if mode == "validated":
        heldout = convscope.HeldOut(size=31, batch_size=4, during_validation=True)
        kinds = (convscope.LayerProbe, convscope.FilterCorrelation, convscope.RepresentationDrift)
        callbacks = [kind(heldout=heldout, on_error="raise") for kind in kinds]
    if mode == "failing":
        callbacks = [FailsOnRankOne(heldout=heldout), convscope.LayerProbe(heldout=heldout)]
    if mode == "stopping":
        callbacks.append(EarlyStopping("probe/accuracy/output", mode="max", patience=0, min_delta=2.0))
    trainer = quiet_trainer(
        folder,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=3 if mode == "failing" else 2,
        logger=TensorBoardLogger(folder, name="run"),
        callbacks=callbacks,
    )
    passes, traffic = counted_passes(), Traffic()
    trainer.fit(module, *data)
    result = {
        "metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
        "epochs": trainer.current_epoch,
        "fingerprint": heldout.fingerprint,
        "local": len(heldout.index),
        "passes": len(passes),
        "exchanges": traffic.calls.total(),
        "targets": heldout.targets.unique().tolist() if heldout.targets is not None else [],
    }
    (folder / f"{mode}-{devices}-{trainer.global_rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    leave_the_processes()
