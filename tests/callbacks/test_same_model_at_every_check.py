"""Every check, whatever triggers it, asks the same network in the same state: mode, trainer's stage, and weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from torch import nn

import convscope
from tests.callbacks.conftest import Classifier
from tests.compatibility.cells import assert_same, train
from tests.networks import Plain

PROPERTIES = ("training", "validating", "sanity_checking", "testing", "predicting", "evaluating")


ASKED: list[dict[str, Any]] = []  # here, since a list on the module would be put back after a check


class Asking(Classifier):
    """Computes otherwise in training than in validation, by what the trainer says."""

    def __init__(self) -> None:
        super().__init__(Plain(channels=3), lr=0.0)
        ASKED.clear()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = {name: getattr(self.trainer, name) for name in PROPERTIES if hasattr(self.trainer, name)}
        state |= {"fn": self.trainer.state.fn, "module": self.training, "stage": self.trainer.state.stage}
        ASKED.append(state)
        factor = 1.0 if self.trainer.validating else 3.0 if self.trainer.training else 5.0
        return self.net(x * factor + (2.0 if self.trainer.sanity_checking else 0.0))

    def seen(self) -> list[dict[str, Any]]:
        return [state for state in ASKED if not state["module"] and not state["sanity_checking"]]


@pytest.mark.parametrize("trainer", [{}, {"limit_val_batches": 0}, {"num_sanity_val_steps": 0}], ids=str)
def test_every_check_looks_like_a_validation(trainer: dict[str, Any], fit: Any) -> None:
    module = Asking()
    probe = convscope.FilterCorrelation(every_n_train_steps=3, heldout=convscope.HeldOut(size=24), pictures=False)
    run = fit([probe], module=module, max_epochs=2, **trainer)
    states = module.seen()
    assert len(states) > 4
    assert all(state == states[0] for state in states)
    assert states[0]["validating"]
    values = [value for _, value in run.curve("correlation/mean_abs/net.conv1")]
    assert len(values) >= 4
    assert len(set(values)) == 1  # nothing has been trained, and nothing else differs
    assert run.trainer.state.stage is None or not run.trainer.validating


def test_the_stage_is_put_back_where_a_check_fails(fit: Any) -> None:
    stages: list[Any] = []

    class Look(L.Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            stages.append((trainer.training, trainer.validating))

    class Broken(convscope.LayerProbe):
        def begin(self, *args: Any) -> None:
            raise RuntimeError("on purpose")

    fit([Broken(every_n_train_steps=1), Look()], module=Asking(), max_epochs=1)
    assert stages == [(True, False)] * 4


def weights_at_checks(callbacks: list[Any], folder: Path, **arguments: Any) -> tuple[list[float], Any]:
    """The norm of the weights that each check saw."""
    seen: list[float] = []

    class Look(convscope.FilterCorrelation):
        def begin(self, layers: Any, samples: int) -> None:
            seen.append(float(layers[0].module.weight.norm()))
            super().begin(layers, samples)

    placed = [Look(every_n_train_steps=3, pictures=False) if one is None else one for one in callbacks]
    done = train(placed, folder, make=lambda: Classifier(Plain(channels=3)), **{"max_epochs": 3, **arguments})
    return seen, done


AVERAGING = {
    "average": lambda: WeightAveraging(),
    "ema": lambda: EMAWeightAveraging(decay=0.5),
    "ema without buffers": lambda: EMAWeightAveraging(decay=0.5, use_buffers=False),
}


@pytest.mark.parametrize("kind", AVERAGING)
@pytest.mark.parametrize("trainer", [{}, {"limit_val_batches": 0}, {"val_check_interval": 0.5}], ids=str)
def test_weights_in_training_are_measured_in_either_order(kind: str, trainer: Any, tmp_path: Path) -> None:
    make = AVERAGING[kind]
    before, one = weights_at_checks([None, make()], tmp_path / "a", **trainer)
    after, other = weights_at_checks([make(), None], tmp_path / "b", **trainer)
    plain, _ = weights_at_checks([None], tmp_path / "c", **trainer)
    assert len(before) >= 4
    assert before == after == plain
    without = train([make()], tmp_path / "d", make=lambda: Classifier(Plain(channels=3)), max_epochs=3, **trainer)
    assert_same(without, one)
    assert_same(without, other)


def test_two_averages_are_taken_out_and_put_back(tmp_path: Path) -> None:
    pair = [AVERAGING["average"], AVERAGING["ema"]]  # Lightning's own swaps do not undo one another then
    _, done = weights_at_checks([None, *(make() for make in pair)], tmp_path / "a")
    without = train([make() for make in pair], tmp_path / "b", make=lambda: Classifier(Plain(channels=3)), max_epochs=3)
    assert_same(without, done)


def test_swa_is_measured_as_it_stands_in_the_module(tmp_path: Path) -> None:
    def make() -> Any:
        return StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=1)

    before, one = weights_at_checks([None, make()], tmp_path / "a")
    after, _ = weights_at_checks([make(), None], tmp_path / "b")
    assert before == after
    without = train([make()], tmp_path / "c", make=lambda: Classifier(Plain(channels=3)), max_epochs=3)
    assert_same(without, one)


class OwnAverage(L.Callback):
    """A user's own callback, which puts other weights in place for validation."""

    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.kept = [p.detach().clone() for p in pl_module.parameters()]
            for parameter in pl_module.parameters():
                parameter.data.mul_(0.5)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            for parameter, kept in zip(pl_module.parameters(), self.kept, strict=True):
                parameter.data.copy_(kept)


class ByPointer(OwnAverage):
    """Puts other tensors behind the parameters, and then the old ones."""

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.kept = [p.data for p in pl_module.parameters()]
        for parameter in pl_module.parameters():
            parameter.data = parameter.data * 0.5

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        for parameter, kept in zip(pl_module.parameters(), self.kept, strict=True):
            parameter.data = kept


class ByModule(L.Callback):
    """Puts another network, which asks for no gradient, in the place of the one in training."""

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.kept = pl_module.net
        pl_module.net = copy.deepcopy(self.kept).requires_grad_(False)
        for parameter in pl_module.net.parameters():
            parameter.mul_(0.5)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net = self.kept


@pytest.mark.parametrize("kind", [OwnAverage, ByPointer, ByModule])
@pytest.mark.parametrize("first", [True, False])
def test_weights_that_another_callback_puts_in_place_are_said(
    kind: Any, first: bool, tmp_path: Path, recwarn: Any
) -> None:
    callbacks = [None, kind()] if first else [kind(), None]
    weights_at_checks(callbacks, tmp_path)
    said = [str(warning.message) for warning in recwarn if "other weights than were measured" in str(warning.message)]
    assert len(said) == 1


class Growing(L.Callback):
    """Freezes a layer, and gives another one more classes, between a validation and the next step."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            pl_module.net.conv1.requires_grad_(False)
        if trainer.current_epoch == 2:
            pl_module.net.head = nn.Linear(6, 4)


class Overflowing(L.Callback):
    """All weights become NaN, as after a step too far."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        for parameter in pl_module.parameters():
            parameter.data.fill_(float("nan"))


def test_nothing_is_said_of_weights_where_there_is_nothing_to_say(tmp_path: Path, recwarn: Any) -> None:
    weights_at_checks([None, WeightAveraging()], tmp_path / "a")
    weights_at_checks([None, StochasticWeightAveraging(0.05, swa_epoch_start=1)], tmp_path / "b")
    weights_at_checks([None, Growing()], tmp_path / "c")
    weights_at_checks([None, Overflowing()], tmp_path / "d")
    assert not [warning for warning in recwarn if "other weights" in str(warning.message)]
