"""One cell of the matrix: the same training with and without observation, and what must be equal in both."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

import convscope
from convscope.callbacks.parts.layer_observer import LayerObserver
from tests.callbacks.conftest import Classifier, loaders
from tests.capture.test_isolation import same, snapshot
from tests.networks import Plain


def observers(**arguments: Any) -> list[Any]:
    """One of every observing callback that convscope exports, each checking at every epoch."""
    exported = [getattr(convscope, name) for name in convscope.__all__]
    classes = [kind for kind in exported if inspect.isclass(kind) and not inspect.isabstract(kind)]
    kinds = [kind for kind in classes if issubclass(kind, LayerObserver)]
    return [kind(**{"every_n_epochs": 1, "on_error": "raise", **arguments}) for kind in kinds]


def few(**arguments: Any) -> list[Any]:
    """A forward-only callback and two with gradients, without pictures: enough where a loop is what is tested."""
    given = {"on_error": "raise", "pictures": False, "layers": ["*.conv1", "*.conv2"], **arguments}
    return [kind(**given) for kind in (convscope.LayerProbe, convscope.FilterImportance, convscope.FilterHealth)]


def small() -> Classifier:
    """Two convolutions: enough where a loop is what is tested."""
    return Classifier(Plain(channels=3))


class Streams(L.Callback):
    """The random streams before every batch, and the gradients before every step."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.seen.append((random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self.seen.append([None if p.grad is None else p.grad.clone() for p in pl_module.parameters()])


@dataclass
class Trained:
    """A finished fit: the trainer, the module, and all that observation must not change."""

    trainer: L.Trainer
    module: L.LightningModule
    outcome: dict[str, Any]

    @property
    def scalars(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.trainer.callback_metrics.items()}


def train(
    callbacks: list[Any],
    folder: Path,
    make: Callable[[], L.LightningModule] = Classifier,
    data: Callable[[], Any] = loaders,
    wrap: Callable[[Any], Any] = lambda module: module,
    ckpt_path: Any = None,
    **arguments: Any,
) -> Trained:
    """Fit a fresh module from one seed. ``data`` gives loaders or a DataModule, ``wrap`` is what a user puts around."""
    L.seed_everything(3, verbose=False)
    module, streams = make(), Streams()
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(c, L.pytorch.callbacks.ModelCheckpoint) for c in callbacks),
        "default_root_dir": folder,
        "deterministic": True,
    }
    trainer = L.Trainer(callbacks=[streams, *callbacks], **{**defaults, **arguments})
    given = data()
    source = (
        {"datamodule": given} if isinstance(given, L.LightningDataModule) else dict(zip(_LOADERS, given, strict=False))
    )
    trainer.fit(wrap(module), ckpt_path=ckpt_path, **source)
    outcome = {
        **{what: value for what, value in snapshot(module).items() if what != "grad_objects"},
        "optimizers": [copy.deepcopy(optimizer.state_dict()) for optimizer in trainer.optimizers],
        "global_step": trainer.global_step,
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "losses": {
            name: value for name, value in trainer.callback_metrics.items() if "loss" in name and "/" not in name
        },
        "streams": streams.seen,
    }
    return Trained(trainer, module, outcome)


_LOADERS = ("train_dataloaders", "val_dataloaders")


def assert_same_training(callbacks: list[Any], folder: Path, **cell: Any) -> Trained:
    """Fit without and with the callbacks: everything is bitwise the same, and the callbacks did observe."""
    without = train([], folder / "without", **cell)
    observed = train(callbacks, folder / "with", **cell)
    assert_same(without, observed)
    assert any(name.startswith("probe/accuracy/") for name in observed.scalars)
    assert observed.scalars.get("zz_convscope/errors", 0.0) == 0.0
    return observed


def assert_same(without: Trained, observed: Trained) -> None:
    """Whatever training made of module, optimizers and random streams is bitwise the same."""
    different = [name for name in without.outcome if not same(without.outcome[name], observed.outcome[name])]
    assert different == [], different
