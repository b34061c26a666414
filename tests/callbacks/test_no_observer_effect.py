"""Training with convscope is, bit for bit, the training without it."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import convscope
from tests.callbacks.conftest import Classifier
from tests.capture.test_isolation import same, snapshot
from tests.networks import TinyResNet, images


class Augmented(Dataset):
    """Random augmentation from each of the three random streams."""

    def __init__(self, seed: int) -> None:
        self.images, self.labels = images(40, seed=seed)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        picture = self.images[i] + 0.1 * torch.randn(3, 8, 8) + random.gauss(0, 0.1)
        return (picture.flip(-1) if np.random.rand() < 0.5 else picture), self.labels[i]


class PartlyFrozen(Classifier):
    """Dropout and BatchNorm, and a frozen block whose BatchNorm is kept in evaluation mode."""

    def __init__(self) -> None:
        super().__init__(TinyResNet(4, classes=3), lr=0.02)
        self.net.layer1.requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.net.layer1.eval()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)]


class StreamsAtEachStep(L.Callback):
    """The random streams before every batch, and the gradients before every step."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.seen.append((random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self.seen.append([None if p.grad is None else p.grad.clone() for p in pl_module.parameters()])


def train(callbacks: list[L.Callback], folder: Path, workers: int = 2, **arguments: Any) -> dict[str, Any]:
    L.seed_everything(3, workers=True, verbose=False)
    module, streams = PartlyFrozen(), StreamsAtEachStep()
    trainer = L.Trainer(
        accelerator="cpu",
        callbacks=[streams, *callbacks],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        deterministic=True,
        **{"max_epochs": 3, **arguments},
    )
    train_loader = DataLoader(Augmented(0), 8, shuffle=True, num_workers=workers)
    trainer.fit(module, train_loader, DataLoader(Augmented(1), 8, num_workers=workers))
    return {
        **snapshot(module),
        "optimizer": copy.deepcopy(trainer.optimizers[0].state_dict()),
        "global_step": trainer.global_step,
        "scheduler": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "val_loss": trainer.callback_metrics["val_loss"],
        "streams": streams.seen,
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_the_full_suite_changes_nothing(tmp_path: Path, workers: int) -> None:
    without = train([], tmp_path / "without", workers, max_epochs=2)
    callbacks = convscope.suite("full", every_n_epochs=1)
    callbacks += [convscope.FilterImportance(every_n_train_steps=2, every_n_epochs=0, name="stepwise")]
    callbacks += [convscope.MultiScaleInterpretation(images=3, samples=20, every_n_epochs=1)]  # in the suite's place
    observed = train(callbacks, tmp_path / "with", workers, max_epochs=2)
    assert "multi_scale/rank_correlation" in callbacks[-1].logged
    assert len(callbacks[0].history.rows) == 3  # it did observe: before training and after each epoch
    different = [key for key in without if not same(without[key], observed[key])]
    assert different == []


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    class Draws(L.Callback):
        def on_validation_epoch_end(self, *args: Any) -> None:
            torch.rand(1)

    without, drawn = train([], tmp_path / "a", 0), train([Draws()], tmp_path / "b", 0)
    assert not same(without["streams"], drawn["streams"])
    assert not same(without["state"], drawn["state"])
