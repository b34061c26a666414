"""The pass hands out the very activations and gradients that plain autograd gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.capture import HeldOut, Subject, observe, select_layers, trace_layers
from convscope.capture.network.trace import output_layer
from tests.networks import Plain, TinyResNet, images
from tests.support import spies


class Keeper:
    """Keeps copies of all that it is given."""

    def __init__(self, gradients: bool = True, nonfinite: bool = False) -> None:
        self.needs_gradient, self.takes_nonfinite = gradients, nonfinite
        self.activations: dict[str, list[torch.Tensor]] = {}
        self.products: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.index: list[int] = []

    def wants(self, layer: str) -> bool:
        return True

    def on_activation(self, record: Any) -> None:
        assert not record.activation.requires_grad
        assert not torch.is_autocast_enabled("cpu")
        self.activations.setdefault(record.layer.name, []).append(record.activation.clone())
        if record.layer.name == "conv1":
            self.index += record.index.tolist()

    def on_gradient(self, record: Any, gradient: torch.Tensor) -> None:
        self.products.setdefault(record.layer.name, []).append((record.activation.clone(), gradient.clone()))

    def activation(self, layer: str) -> torch.Tensor:
        return torch.cat(self.activations[layer])

    def pair(self, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        activations, gradients = zip(*self.products[layer], strict=True)
        return torch.cat(activations), torch.cat(gradients)


def watch(model: nn.Module, keeper: Keeper, *, raw: bool = False, layers: Any = None, **arguments: Any) -> Any:
    samples = arguments.pop("samples", images(11))
    heldout = HeldOut(samples, size=11, batch_size=arguments.pop("batch_size", 4))
    heldout.prepare()
    loss = arguments.pop("loss", lambda z, y: F.cross_entropy(z, y, reduction="sum"))
    subject = Subject(model, model, torch.device("cpu"), loss=loss, **arguments)
    found, logits = trace_layers(subject, heldout)
    chosen = [*select_layers(found, layers, raw=raw), output_layer(logits)]
    return observe(subject, heldout, chosen, [keeper])


def by_hand(model: TinyResNet, x: torch.Tensor, y: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Activations and gradients of two units of TinyResNet, written out without any of our code."""
    model.eval()
    stem = F.relu(model.bn1(model.conv1(x)))
    stem.retain_grad()
    block = model.layer1[0]
    second = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(stem)))))
    second.retain_grad()
    out = model.layer2(F.relu(second + stem))
    F.cross_entropy(model.fc(out.mean((2, 3))), y, reduction="sum").backward()
    return {"conv1": (stem.detach(), stem.grad), "layer1.0.conv2": (second.detach(), second.grad)}


@pytest.mark.parametrize("batch_size", [1, 4, 11])
@pytest.mark.parametrize("frozen", [False, True])
def test_activations_and_gradients_are_those_of_plain_autograd(batch_size: int, frozen: bool) -> None:
    torch.manual_seed(0)
    model = TinyResNet()
    for parameter in model.conv1.parameters():
        parameter.requires_grad_(not frozen)
    for parameter in model.layer1.parameters():
        parameter.requires_grad_(not frozen)
    keeper = Keeper()
    report = watch(model, keeper, batch_size=batch_size)
    assert report.samples == 11
    assert keeper.index == list(range(11))
    assert model.conv1.weight.grad is None
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for layer, (activation, gradient) in by_hand(model, *images(11)).items():
        for found, expected in zip(keeper.pair(layer), (activation, gradient), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(keeper.activation("output"), model.eval()(images(11)[0]))


def test_a_wholly_frozen_network_still_has_activation_gradients() -> None:
    torch.manual_seed(0)
    model = TinyResNet()
    expected = by_hand(model, *images(11))["conv1"][1]
    model.requires_grad_(False)
    keeper = Keeper()
    watch(model, keeper)
    torch.testing.assert_close(keeper.pair("conv1")[1], expected, rtol=1e-4, atol=1e-6)


def test_raw_outputs_are_taken_before_an_in_place_activation() -> None:
    torch.manual_seed(0)
    model = Plain(channels=3)
    keeper = Keeper()
    watch(model, keeper, raw=True)
    expected = model.conv1(images(11)[0])
    assert (expected < 0).any()
    torch.testing.assert_close(keeper.activation("conv1"), expected)
    activation, gradient = keeper.pair("conv1")
    torch.testing.assert_close(activation, expected)  # a copy: the network has written over the original
    assert (gradient[expected < 0] == 0).all()  # the gradient is that before the ReLU


def test_under_inference_mode_as_in_lightnings_validation() -> None:
    model, keeper = TinyResNet(), Keeper()
    with torch.inference_mode():
        watch(model, keeper)
    assert len(keeper.products) == 7  # six units and the output


def test_mixed_precision_hands_out_what_the_network_computed() -> None:
    model, keeper = TinyResNet(), Keeper()
    watch(model, keeper, precision=lambda: torch.autocast("cpu", torch.bfloat16), samples=images(11))
    assert keeper.activation("conv1").dtype == torch.bfloat16
    assert keeper.activation("output").dtype == torch.bfloat16


def test_without_a_consumer_of_gradients_there_is_no_backward() -> None:
    def never(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the loss was computed")

    model, keeper = TinyResNet(), Keeper(gradients=False)
    assert watch(model, keeper, loss=never).samples == 11
    assert not keeper.products


class Explodes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x.clone()
        out[0, 0, 0, 0] = float("inf")
        return out


def test_a_layer_that_gives_nan_is_named_and_the_others_are_measured() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Explodes(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.LazyLinear(3))
    model(images(2)[0])
    keeper = Keeper()
    report = watch(model, keeper)
    assert set(report.nonfinite) == {"3", "output"}
    assert "0" in keeper.activations
    assert "3" not in keeper.activations


def test_who_takes_nonfinite_values_is_given_every_one_of_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Explodes(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.LazyLinear(3))
    model(images(2)[0])
    keeper = Keeper(nonfinite=True)
    watch(model, keeper)
    expected = torch.cat([model[:4](chunk) for chunk in images(11)[0].split(4)])
    assert not torch.isfinite(expected).all()
    torch.testing.assert_close(keeper.activation("3"), expected, equal_nan=True)
    assert not torch.isfinite(keeper.pair("0")[1]).all()


class Forgetful(nn.Module):
    """Runs its second convolution on small batches only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return (self.second(x) if len(x) == 1 else x).mean((2, 3))


def test_a_layer_that_did_not_run_is_reported() -> None:
    report = watch(Forgetful(), Keeper())
    assert report.unmatched == {"second": "runs for some inputs only"}


class Outputs(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.net, self.form = TinyResNet(), form

    def forward(self, x: torch.Tensor) -> Any:
        logits = self.net(x)
        forms: dict[str, Any] = {
            "tensor": logits,
            "tuple": (logits, x),
            "dict": {"aux": x, "logits": logits},
            "object": type("Result", (), {"hidden": x, "logits": logits})(),
            "nested": {"first": [logits]},
        }
        return forms[self.form]


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "object", "nested"])
def test_models_that_return_other_things_than_a_tensor(form: str) -> None:
    keeper = Keeper()
    watch(Outputs(form), keeper)
    assert keeper.activation("output").shape == (11, 10)


def test_a_model_that_returns_no_tensor() -> None:
    with pytest.raises(TypeError, match="the model returned str, in which no logits were found"):
        watch(nn.ModuleDict({"a": Words()})["a"], Keeper())


class Words(nn.Module):
    def forward(self, x: torch.Tensor) -> str:
        return "cat"


class CountsBackward(torch.autograd.Function):
    """Passes on, and counts the backward passes that come through."""

    passes: list[torch.Tensor] = []  # noqa: RUF012

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        CountsBackward.passes.append(gradient)
        return gradient


class Half(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv, self.dtype = nn.Conv2d(3, 4, 1).to(dtype), dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return CountsBackward.apply(self.conv(x.to(self.dtype)).mean((2, 3)))


@pytest.mark.parametrize(
    ("dtype", "size", "passes"),
    [(torch.float16, 1e-4, 1), (torch.float16, 100.0, 2), (torch.float16, 5e4, 3), (torch.float32, 5e4, 1)],
)
def test_one_forward_and_one_backward_a_chunk_but_up_to_three_in_float16(
    dtype: torch.dtype, size: float, passes: int
) -> None:
    model, keeper = Half(dtype), Keeper()
    forwards = spies.watch(model, lambda module, args, output: len(output))
    CountsBackward.passes.clear()
    watch(model, keeper, samples=images(8), batch_size=4, loss=lambda z, y: size * z.float().sum())
    assert forwards[-2:] == [4, 4]  # two chunks, after the few samples that are traced
    assert all(samples < 4 for samples in forwards[:-2])
    assert len(CountsBackward.passes) == 2 * passes
    _, gradient = keeper.pair("conv")
    expected = torch.full_like(gradient, size / gradient[0, 0].numel())
    torch.testing.assert_close(gradient, expected, rtol=2e-3, atol=0)
