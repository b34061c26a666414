"""Every precision that a CPU has: what is accumulated, how far values lie from float32, and the grad scaler."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import MixedPrecision
from scipy.stats import spearmanr
from torchmetrics import Metric

import convscope
from convscope.capture.gradients import HALF_SCALES
from tests.callbacks.conftest import Classifier
from tests.compatibility.cells import assert_same, few, train
from tests.networks import Plain, images

# Lightning turns "16-mixed" into bf16-mixed on a CPU; the plugin itself does float16 with a grad scaler there.
PRECISIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "bf16-mixed": lambda: {"precision": "bf16-mixed"},
    "16-mixed": lambda: {"plugins": [MixedPrecision("16-mixed", "cpu")]},
    "bf16-true": lambda: {"precision": "bf16-true"},
    "16-true": lambda: {"precision": "16-true"},
    "64-true": lambda: {"precision": "64-true"},
}
DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
SHARE_OF_LARGEST = {"bf16": 0.03, "16": 0.005, "64": 1e-5}
"""How far a vector may lie from its float32 value, as a share of its largest entry; docs/compatibility.md states it."""


def kind(precision: str) -> str:
    return precision.split("-")[0]


class Frozen(Classifier):
    """Does not move, so that all precisions see one network."""

    def __init__(self) -> None:
        super().__init__(Plain(channels=3), lr=0.0)


class Spy(convscope.FilterImportance):
    """Keeps what it was given, exactly, and what it made of it."""

    def begin(self, layers: Any, samples: int) -> None:
        super().begin(layers, samples)
        self.given: dict[str, list[Any]] = {}
        self.defaults: set[torch.dtype] = set()
        self.states: set[torch.dtype] = set()
        self.result: dict[str, Any] = getattr(self, "result", {})

    def on_activation(self, record: Any) -> None:
        self.defaults.add(torch.get_default_dtype())
        if not self.needs_gradient:
            self.given.setdefault(record.layer.name, []).append((record.activation.clone(), None))
        super().on_activation(record)

    def on_gradient(self, record: Any, gradient: torch.Tensor) -> None:
        self.given.setdefault(record.layer.name, []).append((record.activation.clone(), gradient.clone()))
        super().on_gradient(record, gradient)

    def compute(self, layer: Any) -> Any:
        found = super().compute(layer)
        self.result[layer.name] = found.distribution
        self.states |= dtypes(self._measure._metrics.of(layer))
        return found


def dtypes(metric: Metric) -> set[torch.dtype]:
    states = [getattr(metric, name) for name in metric._defaults]
    tensors = [t for state in states for t in (state if isinstance(state, list) else [state])]
    return {t.dtype for t in tensors if t.is_floating_point()}


def spies() -> list[Any]:
    heldout = convscope.HeldOut(images(30), batch_size=7)
    given = {"heldout": heldout, "on_error": "raise", "pictures": False}
    return [Spy(**given), Spy(criterion="activation", **given)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sums_are_those_of_numpy_in_double_precision(precision: str, tmp_path: Path) -> None:
    taylor, activation = spies()
    train([taylor, activation], tmp_path, make=Frozen, max_epochs=1, **PRECISIONS[precision]())
    for layer in ("net.conv1", "net.conv2"):
        seen = [a for a, _ in activation.given[layer]]
        assert {a.dtype for a in seen} == {DTYPES[kind(precision)]}  # the precision in which the network runs
        expected = np.concatenate([a.double().abs().numpy() for a in seen]).mean((0, 2, 3))
        np.testing.assert_allclose(activation.result[layer], expected, rtol=1e-6)
        products = [(a.double() * g.double()).sum((2, 3)).numpy() ** 2 for a, g in taylor.given[layer]]
        np.testing.assert_allclose(taylor.result[layer], np.concatenate(products).mean(0), rtol=1e-5)
    assert taylor.defaults == {torch.float32}
    assert taylor.states | activation.states <= {torch.float32, torch.float64}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_values_agree_with_float32(precision: str, tmp_path: Path) -> None:
    exact, coarse = spies(), spies()
    train(exact, tmp_path, make=Frozen, max_epochs=1)
    train(coarse, tmp_path, make=Frozen, max_epochs=1, **PRECISIONS[precision]())
    for one, other in zip(exact, coarse, strict=True):
        for layer, expected in one.result.items():
            apart = np.abs(other.result[layer] - expected).max() / np.abs(expected).max()
            assert apart < SHARE_OF_LARGEST[kind(precision)], (other.criterion, layer)
            assert spearmanr(other.result[layer], expected).statistic > 0.75


class Doubled(MixedPrecision):
    """Scales the loss by a given number before the user's own backward."""

    def __init__(self, scale: float) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


def test_importance_is_not_scaled_by_the_grad_scaler(tmp_path: Path) -> None:
    found = []
    for scale in (1.0, 2.0**12):
        spy = spies()[0]
        done = train([spy], tmp_path, make=Frozen, max_epochs=1, plugins=[Doubled(scale)])
        assert done.trainer.precision_plugin.scaler.get_scale() == scale
        found.append(spy.result)
    for layer in found[0]:
        np.testing.assert_array_equal(found[0][layer], found[1][layer])


class Sure(Frozen):
    """So sure of its answers that gradients are below what float16 can hold without scaling."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.net.head.weight.mul_(1e-3)
            self.net.head.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))


def test_small_gradients_do_not_vanish_in_half_precision(tmp_path: Path) -> None:
    all_right = convscope.HeldOut((images(30)[0], torch.zeros(30, dtype=torch.long)))
    found = []
    for precision in ({}, PRECISIONS["16-mixed"]()):
        spy = Spy(loss=F.cross_entropy, heldout=all_right, on_error="raise", pictures=False)
        train([spy], tmp_path, make=Sure, max_epochs=1, **precision)
        found.append(spy.result)
    for layer, expected in found[0].items():
        np.testing.assert_allclose(found[1][layer], expected, atol=0.02 * expected.max())


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true"])
def test_training_is_the_same_bit_for_bit(precision: str, tmp_path: Path) -> None:
    cell = PRECISIONS[precision]
    without = train([], tmp_path, **cell())
    observed = train(few(), tmp_path, **cell())
    assert_same(without, observed)
    if precision == "16-mixed":
        scalers = [done.trainer.precision_plugin.scaler.state_dict() for done in (without, observed)]
        assert scalers[0] == scalers[1]


def test_the_factors_of_the_loss_change_no_digit() -> None:
    assert [math.frexp(scale)[0] for scale in HALF_SCALES] == [0.5] * len(HALF_SCALES)  # powers of two
