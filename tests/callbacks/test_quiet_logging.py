"""What a forward logs reaches the user's metrics and loggers from training and validation alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torchmetrics import MeanMetric

import convscope
from tests.callbacks.conftest import Classifier, Run
from tests.compatibility.cells import assert_same, train


class Part(L.LightningModule):
    """A LightningModule inside another: it logs through the trainer of the whole."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._trainer is not None:
            self.log("part_loss", x.mean(), on_step=False, on_epoch=True)
        return x


class LogsInForward(Classifier):
    """Logs a loss, a dict, a metric object and a point of its logger's from every forward, and asks to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.means = Part(), nn.ModuleDict({"train_": MeanMetric(), "val_": MeanMetric()})
        self.logged_names: list[str] = []

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.logged_names.append(name)
        super().log(name, *args, **kwargs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.part._trainer = self.trainer
        self.part._current_fx_name = self._current_fx_name
        out = self.net(self.part(x))
        stage = "train" if self.training else "val"
        self.log(f"{stage}_inner_loss", out.square().mean(), on_step=False, on_epoch=True)
        self.log_dict({f"{stage}_mean_loss": out.mean()}, on_step=False, on_epoch=True)
        self.means[f"{stage}_"].update(out.detach().mean())
        self.log(f"{stage}_metric_loss", self.means[f"{stage}_"], on_step=False, on_epoch=True)
        if self.logger is not None:
            self.logger.log_metrics({f"{stage}_raw": float(out.detach().mean())}, step=self.global_step)
            if isinstance(self.logger, TensorBoardLogger):
                self.logger.experiment.add_scalar(f"{stage}_written", float(out.detach().mean()), self.global_step)
            assert Path(self.logger.save_dir).is_absolute()
        if not self.training and torch.is_grad_enabled():  # in a check with gradients only
            self.trainer.should_stop = True
            self.trainer.callback_metrics["made_up_loss"] = out.mean()
        return out

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


def observers() -> list[Any]:
    given: dict[str, Any] = {"on_error": "raise", "pictures": False}
    return [convscope.LayerProbe(**given), convscope.FilterImportance(every_n_train_steps=2, **given)]


@pytest.mark.parametrize("validation", [1.0, 0])
def test_the_users_metrics_are_those_of_training_alone(tmp_path: Path, validation: float) -> None:
    cell: dict[str, Any] = {"make": LogsInForward, "limit_val_batches": validation}
    without = train([], tmp_path / "a", **cell)
    observed = train(observers(), tmp_path / "b", **cell)
    assert without.outcome["losses"] == observed.outcome["losses"]
    assert_same(without, observed)
    assert "train_inner_loss" in without.outcome["losses"]
    assert "part_loss" in without.outcome["losses"]
    own = [name for name in observed.module.logged_names if name.endswith("_loss") and "/" not in name]
    assert without.module.logged_names == own
    assert observed.trainer.current_epoch == 2


def test_loggers_get_no_point_from_a_check(tmp_path: Path) -> None:
    events = []
    for callbacks in ([], observers()):
        logger = TensorBoardLogger(tmp_path, name=f"run{len(callbacks)}")
        trained = train(callbacks, tmp_path, make=LogsInForward, logger=logger, log_every_n_steps=1)
        assert trained.trainer.logger is logger
        run = Run(trained.trainer, trained.module)
        events.append({tag: run.curve(tag) for tag in ("train_raw", "val_raw", "train_written", "val_written")})
    assert events[0] == events[1]
    assert len(events[0]["train_raw"]) == 8


def test_a_writer_of_the_modules_own_is_silent_in_a_check(tmp_path: Path) -> None:
    class OwnWriter(Classifier):
        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.own = CSVLogger(folder)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.own.log_metrics({"x": float(x.mean())})
            return self.net(x)

    found = []
    for callbacks in ([], observers()):
        module = train(callbacks, tmp_path, make=lambda: OwnWriter(tmp_path / "csv")).module
        found.append(len(module.own.experiment.metrics))
    assert found[0] == found[1] > 0


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.LazyConv2d(4, 3), nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("sanity", [0, 1])
def test_lazy_modules_are_left_for_training_to_initialise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sanity: int
) -> None:
    def make() -> Classifier:
        return Classifier(Lazy())

    with caplog.at_level(logging.INFO):
        without = train([], tmp_path / "a", make=make, num_sanity_val_steps=sanity)
        observed = train(observers(), tmp_path / "b", make=make, num_sanity_val_steps=sanity)
    assert_same(without, observed)
    said = [m for m in caplog.messages if "net.conv.weight" in m and "first forward pass" in m]
    assert len(said) == 1 - sanity
    first = observed.trainer.callbacks[1].history.rows[0]
    assert len(observed.trainer.callbacks[1].history.rows) == 2 + sanity, first
