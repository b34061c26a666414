"""Lightning under both of its import names, each with a module, a DataModule, a Trainer and loggers of its own."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from torch import nn

from tests.callbacks.conftest import loaders
from tests.networks import Plain

NAMES = ("lightning.pytorch", "pytorch_lightning")


class _Body:
    """What a user writes, whichever name the base class comes from."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def train_dataloader(self: Any) -> Any:
        return loaders()[0]

    def val_dataloader(self: Any) -> Any:
        return loaders()[1]


class NewModel(_Body, lightning.pytorch.LightningModule):
    """Of ``lightning.pytorch``; without ``forward``, so that the network in it has to be found."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or Plain(channels=3)


class OldModel(_Body, pytorch_lightning.LightningModule):
    """Of ``pytorch_lightning``."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or Plain(channels=3)


MODELS: dict[str, Any] = {"lightning.pytorch": NewModel, "pytorch_lightning": OldModel}


def submodule(name: str, path: str) -> ModuleType:
    """``submodule("pytorch_lightning", "loggers")``."""
    return importlib.import_module(f"{name}.{path}")


def fit(name: str, folder: Path, callbacks: Any, ckpt_path: Any = None, module: Any = None, **arguments: Any) -> Any:
    """A seeded fit of two epochs under one name, with its TensorBoard logger; returns the trainer."""
    namespace = importlib.import_module(name)
    namespace.seed_everything(3, verbose=False)
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": submodule(name, "loggers").TensorBoardLogger(folder, name="run"),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
        "log_every_n_steps": 1,
    }
    trainer = namespace.Trainer(callbacks=callbacks, **{**defaults, **arguments})
    trainer.fit(MODELS[name]() if module is None else module, ckpt_path=ckpt_path)
    return trainer


both_names = pytest.mark.parametrize("name", NAMES)
