"""Filter sets, at every chunk size and in any number, are what single passes with a plain hook give."""

from __future__ import annotations

import copy

import pytest
import torch

from convscope import HeldOut, forward_from_layer
from convscope.capture import Subject, select_layers, trace_layers
from convscope.capture.intervention import Intervention
from convscope.capture.network.trace import Layer
from convscope.capture.outputs.parts import logits_of
from tests.networks import images
from tests.support.ablation import by_hand, mean_by_hand
from tests.support.awkward import DETERMINISTIC, Base, Drops, OwnGenerator

X = images(16)[0]


def built(network: type[Base]) -> Base:
    torch.manual_seed(0)
    return network().eval()


def layer_of(model: Base, x: torch.Tensor = X) -> tuple[Subject, Layer]:
    heldout = HeldOut((x,), size=len(x), batch_size=4, stratify=False)
    heldout.prepare()
    subject = Subject(model, model, torch.device("cpu"))
    return subject, select_layers(trace_layers(subject, heldout)[0], [model.layer], raw=True)[0]


def sets(count: int, channels: int) -> torch.Tensor:
    return torch.rand(count, channels, generator=torch.Generator().manual_seed(count)) < 0.6


def assert_close(found: torch.Tensor, expected: torch.Tensor, share: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= share * float(expected.abs().max())


@pytest.mark.parametrize("network", DETERMINISTIC)
def test_every_chunk_size_and_number_of_sets(network: type[Base]) -> None:
    model = built(network)
    subject, layer = layer_of(model)
    fill = torch.linspace(-1, 1, layer.channels)
    reference = copy.deepcopy(model.state_dict())
    for count in (1, 5, 9):
        keep = sets(count, layer.channels)
        expected = []
        for row in keep:
            expected.append(logits_of(by_hand(model, X, model.layer, row, fill)))
            model.load_state_dict(reference)
        assert count == 1 or (expected[0] - expected[1]).abs().max() > 1e-3  # the sets do differ
        for size in (1, 3, 4, 7, 16):
            intervention = Intervention(subject, layer, fill)
            found = [intervention.logits(part, keep) for part in X.split(size)]
            assert_close(torch.cat(found, 1), torch.stack(expected))


@pytest.mark.parametrize("network", [Drops, OwnGenerator])
def test_every_set_sees_the_same_draws(network: type[Base]) -> None:
    model = built(network)
    subject, layer = layer_of(model)
    keep, fill = sets(5, layer.channels), torch.zeros(layer.channels)
    state = model.source.get_state() if isinstance(model, OwnGenerator) else None
    expected = []
    for row in keep:
        torch.manual_seed(11)
        if state is not None:
            model.source.set_state(state)
        expected.append(by_hand(model, X, "conv", row, fill))
    if state is not None:
        model.source.set_state(state)
    assert_close(Intervention(subject, layer, fill, seed=11).logits(X, keep), torch.stack(expected))


@pytest.mark.parametrize("network", DETERMINISTIC)
@pytest.mark.parametrize("precision", ["bfloat16", "float64", "channels_last"])
def test_precision_and_memory_format(network: type[Base], precision: str) -> None:
    if precision == "bfloat16" and network.__name__ in ("ThroughNumpy", "Constants", "Loops"):
        pytest.skip("does not run in bfloat16")
    if precision == "float64" and network.__name__ in ("Constants", "Loops"):
        pytest.skip("does not run in float64")
    model = built(network)
    if precision == "channels_last":
        model, x = model.to(memory_format=torch.channels_last), X.to(memory_format=torch.channels_last)
    else:
        dtype = getattr(torch, precision)
        model, x = model.to(dtype), X.to(dtype)
    subject, layer = layer_of(model, x)
    keep, fill = sets(4, layer.channels), torch.full((layer.channels,), 0.5)
    reference = copy.deepcopy(model.state_dict())
    found = Intervention(subject, layer, fill).logits(x, keep)
    for row, got in zip(keep, found, strict=True):
        assert_close(
            got, logits_of(by_hand(model, x, model.layer, row, fill)), 1e-5 if precision != "bfloat16" else 0.02
        )
        model.load_state_dict(reference)


def test_the_mean_is_the_exact_mean() -> None:
    """Large values with a small spread, where a float32 sum would lose the digits."""
    model, x = built(Base), images(400)[0]
    with torch.no_grad():
        model.conv.bias += 1000
    fill = mean_by_hand(model, x, "conv")
    expected = by_hand(model, x, "conv", torch.zeros(4, dtype=torch.bool), fill.float())
    found = forward_from_layer(model, x, "conv", torch.zeros(4, dtype=torch.bool))
    assert_close(found, expected, 1e-6)
