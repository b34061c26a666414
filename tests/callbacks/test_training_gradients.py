"""Training gradients: what rules see of them, through a real training."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

import convscope
from convscope.callbacks.parts.training_gradients import TrainingGradients
from tests.callbacks.conftest import Classifier
from tests.networks import Plain


class Spoilt(Classifier):
    """Rounds its gradients to half precision at a tiny scale, or clips them, from the third epoch on."""

    def __init__(self, how: str) -> None:
        torch.manual_seed(0)
        super().__init__(Plain(channels=3))
        self.how = how

    def on_after_backward(self) -> None:
        if self.how == "rounded" and self.current_epoch >= 3:
            for weight in self.parameters():
                if weight.grad is not None:
                    weight.grad = (weight.grad * 2.0**-24).half().float()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.how == "clipped" and self.current_epoch >= 3:
            nn.utils.clip_grad_norm_(self.parameters(), 1e-5)


class Kept(L.Callback):
    """The gradients of each step as they are when the step is over."""

    def __init__(self) -> None:
        self.steps: list[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        weights = [weight.grad for weight in pl_module.parameters() if weight.dim() > 1]
        self.steps.append([gradient.clone() for gradient in weights if gradient is not None])


@pytest.mark.parametrize(("how", "rule"), [("rounded", "gradients_underflow"), ("clipped", "gradients_shrink")])
def test_gradients_that_are_lost_are_named(fit: Any, how: str, rule: str) -> None:
    alert = convscope.DriftAlert()
    fit([convscope.LayerProbe(), alert], Spoilt(how), max_epochs=6)
    (found,) = [incident for incident in alert.incidents if rule in incident.rules]
    assert found.epoch in (3, 4)
    assert found.severity == "warning"


def test_a_sound_run_has_neither(fit: Any) -> None:
    alert = convscope.DriftAlert()
    fit([convscope.LayerProbe(), alert], Spoilt("not at all"), max_epochs=5)
    assert not {"gradients_underflow", "gradients_shrink", "no_gradient", "gradients_gone"} & {
        name for incident in alert.incidents for name in incident.rules
    }


def test_numbers_are_those_of_the_first_second_fourth_and_eighth_step(fit: Any) -> None:
    kept, alert = Kept(), convscope.DriftAlert(series=True)
    run = fit([convscope.LayerProbe(), alert, kept], max_epochs=1)
    looked = [kept.steps[number - 1] for number in (1, 2, 4, 8) if number <= len(kept.steps)]
    flat = [torch.cat([gradient.flatten() for gradient in step]).double() for step in looked]
    expected = torch.stack([step.norm() for step in flat]).square().mean().sqrt()
    zero = torch.cat(flat).eq(0).double().mean()
    (row,) = [line for line in _series(run) if "gradients/norm" in line]
    assert row["gradients/norm"] == pytest.approx(float(expected), rel=1e-5)
    assert row["gradients/zero"] == pytest.approx(float(zero), abs=1e-12)


def _series(run: Any) -> list[dict[str, float]]:
    from convscope.alerts.series import read_series

    return [dict(check) for checks in read_series(run.trainer.log_dir) for check in checks]


def test_nothing_is_read_where_no_gradient_is_left() -> None:
    looks, network = TrainingGradients(), nn.Linear(3, 2)
    looks.note(network)
    assert looks.take() == {}
    network(torch.ones(1, 3)).sum().backward()
    network.weight.grad.zero_()  # type: ignore[union-attr]
    looks.note(network)
    assert looks.peek() == looks.take() == {"gradients/zero": 1.0, "gradients/norm": 0.0}


def test_a_branch_that_is_left_out_does_not_count() -> None:
    looks, network = TrainingGradients(), nn.ModuleList([nn.Linear(3, 2), nn.Linear(5, 4)])
    for layer in network:
        layer.weight.grad = torch.zeros_like(layer.weight)  # type: ignore[union-attr, arg-type]
    network[0].weight.grad[0] = 1.0  # type: ignore[index]
    looks.note(network)
    assert looks.take()["gradients/zero"] == 0.5


def test_looks_get_rarer() -> None:
    looks, network = TrainingGradients(), nn.Linear(3, 2)
    network.weight.grad = torch.ones(2, 3)
    for _ in range(1000):
        looks.note(network)
    assert len(looks._looks) == 10
    looks.take()
    looks.note(network)
    assert len(looks._looks) == 1
