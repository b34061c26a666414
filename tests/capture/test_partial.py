"""What a network makes impossible costs that alone: a gradient, one layer, never the pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from convscope.capture import Subject, observe, select_layers, trace_layers
from tests.capture.test_observation import Keeper
from tests.capture.test_rows import prepared

N, K = 6, 3


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(N, 3, 6, 6), torch.arange(N) % K


def total(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, targets, reduction="sum")


def run(model: nn.Module, loss: Any = total, data: Any = None) -> tuple[Keeper, Any, Any]:
    keeper, heldout = Keeper(), prepared(data or batch(), 4)
    subject = Subject(model, model, torch.device("cpu"), loss=loss)
    found, logits = trace_layers(subject, heldout)
    layers = select_layers(found)
    return keeper, observe(subject, heldout, [*layers, found.output(logits)], [keeper]), found


class Parts(nn.Module):
    """Three convolutions and a head; subclasses say how the middle one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4))
        self.head = nn.Linear(4, K)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(x))

    def first(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv1(x))

    def last(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.conv3(x)).mean((2, 3)))

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.middle(self.first(x)))


class NoGrad(Parts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = self.middle(self.first(x))
        return self.last(x)


class InferenceBackbone(Parts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            x = self.middle(self.first(x))
        return self.last(x.clone())


class Reentrant(Parts):
    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(super().middle, x, use_reentrant=True)


class NonReentrant(Parts):
    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(super().middle, x, use_reentrant=False)


class Detached(Parts):
    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return super().middle(x.detach())


class Auxiliary(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        x = self.first(x)
        return {"logits": self.last(x), "aux": self.middle(x)}


class Cached(Parts):
    """Keeps a grid that it made under inference mode, as in a validation before the check."""

    def __init__(self) -> None:
        super().__init__()
        with torch.inference_mode():
            self.grid, self.weight = torch.rand(6, 6) + 1, torch.rand(4, 4, 1, 1)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(super().middle(x * self.grid), self.weight)


@pytest.mark.parametrize(
    ("make", "without"),
    [
        (Parts, set()),
        (NonReentrant, set()),
        (Cached, set()),
        (NoGrad, {"conv1"}),
        (InferenceBackbone, {"conv1"}),
        (Reentrant, {"conv1", "conv2"}),
        (Detached, {"conv1"}),
        (Auxiliary, {"conv2"}),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_layers_that_no_gradient_reaches(make: type[Parts], without: set[str], frozen: bool) -> None:
    torch.manual_seed(0)
    model, data = make(), batch()
    model.requires_grad_(not frozen)
    keeper, report, _ = run(model, data=data)
    assert report.without_gradient == without
    assert report.loss_error is None
    units = {"conv1", "conv2", "conv3"} | ({"conv2d"} if make is Cached else set())
    assert set(keeper.activations) == {*units, "output"}
    assert set(keeper.products) == {*units, "output"} - without
    assert len(keeper.activation("conv1")) == N
    expected = _gradient_at_conv3(model, *data)
    torch.testing.assert_close(keeper.pair("conv3")[1], expected, rtol=1e-4, atol=1e-6)


def _gradient_at_conv3(model: Parts, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """By hand: the gradient of the loss at the ReLU behind the last convolution."""
    found: list[torch.Tensor] = []
    handle = model.conv3.register_forward_hook(lambda m, a, output: found.append(output))
    with torch.no_grad():
        model.eval()(inputs)
    handle.remove()
    unit = torch.relu(found[0]).requires_grad_()
    return torch.autograd.grad(total(model.head(unit.mean((2, 3))), targets), unit)[0]


LOSSES = {"raises": lambda z, y: z[:, 99].sum(), "no graph": lambda z, y: z.detach().sum(), "None": lambda z, y: None}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_a_loss_that_fails_costs_the_gradients_alone(loss: Any) -> None:
    keeper, report, _ = run(Parts(), loss)
    assert report.loss_error is not None
    assert report.samples == N
    assert set(keeper.activations) == {"conv1", "conv2", "conv3", "output"}
    assert len(keeper.activation("conv3")) == N
    assert not keeper.products


class Complex(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(4, 4, 1, dtype=torch.complex64)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(x.to(torch.complex64)).abs()


def test_complex_convolutions_are_left_out() -> None:
    keeper, report, _ = run(Complex())
    assert report.unmatched == {"conv2": "has values of type complex64, for which no metric is defined"}
    assert set(keeper.products) == {"conv1", "conv3", "output"}


class Mapped(Parts):
    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(torch.vmap(self.conv2)(x))


class Differentiated(Parts):
    """A gradient of its own inside the forward pass."""

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return super().middle(x) + torch.func.grad(lambda y: self.conv2(y).square().sum())(x)


class Scripted(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))
        self.idle = torch.jit.script(nn.Conv2d(4, 4, 1))


class Traced(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = torch.jit.trace(nn.Conv2d(4, 4, 1), torch.rand(1, 4, 6, 6))


@pytest.mark.parametrize(
    ("make", "seen"),
    [
        (Mapped, ["conv1", "conv3"]),
        (Differentiated, ["conv1", "conv2", "conv3"]),
        (Scripted, ["conv1", "conv3"]),
        (Traced, ["conv1", "conv3"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_what_cannot_be_looked_into_is_passed_over(make: type[Parts], seen: list[str]) -> None:
    torch.manual_seed(0)
    model, data = make(), batch()
    keeper, report, found = run(model, data=data)
    assert list(keeper.activations) == [*seen, "output"]
    assert report.unmatched == {}
    assert set(keeper.products) == {*seen, "output"}
    torch.testing.assert_close(keeper.pair("conv3")[1], _gradient_at_conv3(model, *data), rtol=1e-4, atol=1e-6)
    said = {
        Scripted: ["conv2, idle run in TorchScript, which hides what is inside; layers there are not observed"],
        Traced: ["conv2 run in TorchScript, which hides what is inside; layers there are not observed"],
        Mapped: ["conv2 run inside torch.vmap or the like, where rows cannot be seen; they are not observed"],
    }
    assert found.notes == said.get(make, [])
