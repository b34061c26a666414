"""Default rules in real fits: faults that are put into a run are named by the rule that is for them, at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope import DriftAlert, FilterCorrelation, FilterHealth, LayerProbe
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import TinyResNet

BEGINS = 6  # epochs before the fault


class Strikes(L.Callback):
    """Does something to the module at the start of each epoch from ``BEGINS`` on."""

    def __init__(self, action: Callable[[Any], None]) -> None:
        self.action = action

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch >= BEGINS:
            with torch.no_grad():
                self.action(pl_module)


class Clipped(L.Callback):
    """Clips gradients to nearly nothing from ``BEGINS`` on."""

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.current_epoch >= BEGINS:
            nn.utils.clip_grad_norm_(pl_module.parameters(), 1e-3)


class Averaged(Classifier):
    """Logs the mean training loss of an epoch, and accuracy, as most programs do."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean())


def decay(module: Any) -> None:
    for group in module.optimizers().param_groups:
        group["weight_decay"] = 1.0


def stop_statistics(module: Any) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0


def extrapolate_statistics(module: Any) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.98


def trained(fit: Any, fault: L.Callback | None, samples: int = 32) -> DriftAlert:
    torch.manual_seed(0)
    alert = DriftAlert()
    faults = [] if fault is None else [fault]
    module = Averaged(TinyResNet(4, classes=3), lr=0.005)
    fit([*faults, FilterHealth(), alert], module, data=loaders(samples), max_epochs=12)
    return alert


@pytest.mark.parametrize(
    ("rule", "fault", "late"),
    [
        ("weights_shrink", Strikes(decay), 1),
        ("statistics_stopped", Strikes(stop_statistics), 0),
        ("statistics_surge", Strikes(extrapolate_statistics), 2),
        ("updates_fade", Clipped(), 5),
    ],
)
def test_a_fault_is_named_by_the_rule_that_is_for_it(fit: Any, rule: str, fault: L.Callback, late: int) -> None:
    # Momentum goes on for about ten steps after gradients have been clipped: an epoch must be longer than that.
    samples = 128 if isinstance(fault, Clipped) else 32
    found = [alert.epoch for alert in trained(fit, fault, samples).alerts if alert.rule == rule]
    assert found
    assert BEGINS <= found[0] <= BEGINS + late


def test_the_same_run_without_a_fault_has_no_warning(fit: Any) -> None:
    assert [one.text for one in trained(fit, None).incidents if one.severity != "info"] == []


def test_a_run_that_diverges_at_once_is_said_to_learn_nothing_by_the_fifth_check(fit: Any) -> None:
    torch.manual_seed(0)
    module, alert = Averaged(TinyResNet(4, classes=3), lr=3e3), DriftAlert()
    run = fit([LayerProbe(), FilterHealth(), alert], module, data=loaders(), max_epochs=6)
    assert run.trainer.callback_metrics["probe/guess_loss"] == pytest.approx(torch.log(torch.tensor(3.0)))
    words = {"nothing_yet", "at_chance_yet", "not_finite"}
    heads = [one for one in alert.incidents if one.rule in words]
    assert heads
    assert heads[0].check <= 5


class Masks(L.LightningModule):
    """Two outputs per position that answer one question: object or not."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), (batch[0][:, 0] > 0).long())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), (batch[0][:, 0] > 0).long()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_two_outputs_that_answer_one_question_are_no_redundancy(fit: Any) -> None:
    found = fit([FilterCorrelation()], Masks(), max_epochs=1).trainer.callback_metrics
    assert "correlation/redundant_share/net.0" in found
    assert "correlation/redundant_share/net.2" not in found
    assert "correlation/mean_abs/net.2" in found


def test_the_bias_of_answers_is_that_of_the_networks_own_outputs(fit: Any) -> None:
    run = fit([LayerProbe()])
    inputs, labels = (run.trainer.callbacks[0].heldout or run.trainer.val_dataloaders.dataset).tensors
    with torch.no_grad():
        likely = run.module.eval()(inputs).double().softmax(1).mean(0)
    shares = torch.bincount(labels, minlength=3).double() / len(labels)
    expected = float((likely - shares).abs().sum() / 2)
    assert run.trainer.callback_metrics["probe/answer_bias"] == pytest.approx(expected, abs=1e-6)


class Gated(nn.Module):
    """A convolution whose channels are weighted by what the whole image holds, as in squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv(x).relu()
        gates = self.excite(self.squeeze(out.mean((2, 3), keepdim=True)).relu()).sigmoid()
        answers: torch.Tensor = self.head((out * gates).mean((2, 3)))
        return answers


def test_filters_that_die_in_a_gate_are_no_alert_and_in_a_convolution_are_one(fit: Any) -> None:
    def found(name: str) -> set[str]:
        def kill(module: Any) -> None:
            layer = module.net.get_submodule(name)
            layer.weight.zero_()
            layer.bias.fill_(-1.0)

        torch.manual_seed(0)
        alert = DriftAlert()
        fit([Strikes(kill), FilterHealth(), FilterCorrelation(), alert], Averaged(Gated(), lr=0.01), max_epochs=9)
        return {one.rule for one in alert.alerts} & {"dead_filter_surge", "rank_collapse", "vanishing_signal"}

    assert "dead_filter_surge" in found("conv")
    assert found("squeeze") == set()
