"""Rectifiers and bounds, found in a traced network, agree with what the functions themselves give far out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.capture import HeldOut, Subject, select_layers, trace_layers
from convscope.capture.network.activation_bounds import bounds_of, is_rectified, off_range

MODULES = [
    nn.ReLU(), nn.ReLU6(), nn.GELU(), nn.SiLU(), nn.Mish(), nn.ELU(2.0), nn.CELU(0.5), nn.SELU(), nn.Hardswish(),
    nn.LeakyReLU(), nn.PReLU(), nn.Sigmoid(), nn.Hardsigmoid(), nn.Tanh(), nn.Softsign(), nn.Hardtanh(-2.0, 3.0),
    nn.Softplus(),
]  # fmt: skip
FUNCTIONS = [torch.relu, F.relu6, F.gelu, F.silu, F.mish, torch.tanh, torch.sigmoid, F.softsign, F.selu, F.leaky_relu]


class Unit(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 1), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.conv(x)).mean((2, 3))


def unit_of(function: Any, raw: bool = False) -> Any:
    model = Unit(function)
    heldout = HeldOut((torch.randn(4, 3, 5, 5),))
    heldout.prepare()
    found, _ = trace_layers(Subject(model, model, torch.device("cpu")), heldout)
    return select_layers(found, raw=raw)[0]


@pytest.mark.parametrize("function", [*MODULES, *FUNCTIONS], ids=lambda f: getattr(f, "__name__", type(f).__name__))
def test_bounds_are_those_of_the_function(function: Any) -> None:
    low, high = function(torch.tensor([[-1e4, 1e4]])).flatten().tolist()
    layer = unit_of(function)
    lower, upper = bounds_of(layer)
    assert upper == (pytest.approx(high, abs=1e-3) if high < 1e3 else None)
    # At its lower end a function that gives zero there is off, or a sigmoid.
    sigmoid = low == 0 and lower is not None
    assert lower == (None if abs(low) > 10 or (abs(low) < 1e-3 and not sigmoid) else pytest.approx(low, abs=1e-3))


@pytest.mark.parametrize("function", [*MODULES, *FUNCTIONS], ids=lambda f: getattr(f, "__name__", type(f).__name__))
def test_rectifiers_are_those_that_give_little_for_negative_and_the_input_for_small_positive_values(
    function: Any,
) -> None:
    negative, positive = function(torch.tensor([[-10.0, 5.5]])).flatten().tolist()
    expected = positive == pytest.approx(5.5, rel=0.06) and -2.1 < negative < 1e-6 and negative != pytest.approx(-0.1)
    assert is_rectified(unit_of(function)) == expected


def test_functions_with_parameters_that_cannot_be_seen_have_no_known_bounds() -> None:
    for function in (F.elu, F.celu, F.hardtanh):
        assert bounds_of(unit_of(function)) == (None, None)
    assert is_rectified(unit_of(F.elu))


def test_a_convolution_observed_itself_ends_in_no_activation() -> None:
    layer = unit_of(nn.ReLU6(), raw=True)
    assert not is_rectified(layer)
    assert bounds_of(layer) == (None, None)


@pytest.mark.parametrize(
    "function", [*MODULES[:9], F.gelu, F.silu, F.mish, F.elu, torch.relu], ids=lambda f: str(f)[:12]
)
def test_a_rectifier_is_off_where_its_slope_is_small_and_nowhere_else_below_zero(function: Any) -> None:
    low, high = off_range(unit_of(function))
    x = torch.linspace(-12, 0, 2401, dtype=torch.float64, requires_grad=True)
    off = torch.tensor([low <= value <= high for value in function(x).tolist()])
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    far = x < -8
    assert bool(off[far].all())
    flat_tail = off & (x < -2)
    assert float(slope[flat_tail].abs().max()) < 0.13
    in_the_dip = (x > -1.0) & (x < -0.3)
    assert not off[in_the_dip].any() or function(torch.tensor([-0.5])).item() == 0.0
