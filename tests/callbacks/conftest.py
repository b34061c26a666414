"""Real trainers on small data, and the event files they leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.networks import TinyResNet, images


class Classifier(L.LightningModule):
    """A user's module as it might be: nothing in it knows of convscope."""

    def __init__(self, net: nn.Module | None = None, lr: float = 0.05) -> None:
        super().__init__()
        self.net = net or TinyResNet(4, classes=3)
        self.lr = lr

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def loaders(train: int = 32, val: int = 30, batch_size: int = 8) -> tuple[DataLoader, DataLoader]:
    """Training and validation loaders of random images with learnable labels; 4 training batches an epoch."""
    return (
        DataLoader(TensorDataset(*images(train)), batch_size),
        DataLoader(TensorDataset(*images(val, seed=1)), batch_size),
    )


class Run:
    """A finished fit and what it wrote."""

    def __init__(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.trainer, self.module = trainer, module
        self._read: dict[Any, EventAccumulator] = {}

    @property
    def events(self) -> EventAccumulator:
        """What the run has written; read again only after something was written."""
        folder = self.trainer.logger.log_dir
        written = (folder, *sorted((str(file), file.stat().st_size) for file in Path(folder).glob("*tfevents*")))
        if written not in self._read:
            self._read = {written: EventAccumulator(folder, size_guidance=dict.fromkeys(_KINDS, 0)).Reload()}
        return self._read[written]

    def curve(self, tag: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in self.events.Scalars(tag)]


_KINDS = ("scalars", "images", "histograms", "tensors")


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Run]:
    """``fit(callbacks, module=, data=, ckpt_path=, **trainer arguments)`` with a TensorBoard logger."""

    def run(callbacks: list[Any], module: Any = None, data: Any = None, ckpt_path: Any = None, **arguments: Any) -> Run:
        module = Classifier() if module is None else module  # a compiled one has no truth value
        defaults: dict[str, Any] = {
            "max_epochs": 2,
            "logger": TensorBoardLogger(tmp_path, name="run"),
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
            "enable_checkpointing": any(isinstance(c, L.pytorch.callbacks.ModelCheckpoint) for c in callbacks),
            "log_every_n_steps": 1,
        }
        trainer = L.Trainer(callbacks=callbacks, **{**defaults, **arguments})
        train, val = data or loaders()
        trainer.fit(module, train, val, ckpt_path=ckpt_path)
        return Run(trainer, module)

    return run
