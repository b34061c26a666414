"""A layer's own parameters, by filter, read without a trace."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from convscope.capture import HeldOut, Subject, select_layers, trace_layers
from convscope.capture.network.trace import Layer
from convscope.capture.network.weights import filter_weights, learning_weights, norm_scale
from tests.capture.test_isolation import same, snapshot


def first_layer(model: nn.Module, channels: int = 4) -> Layer:
    heldout = HeldOut((torch.randn(2, channels, 6, 6),), size=2)
    heldout.prepare()
    return select_layers(trace_layers(Subject(model, model, torch.device("cpu")), heldout)[0])[0]


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_are_the_filters_that_make_each_channel(groups: int) -> None:
    for conv in (nn.Conv2d(4, 6, 3, groups=groups), nn.ConvTranspose2d(4, 6, 3, groups=groups)):
        weights = filter_weights(first_layer(nn.Sequential(conv)))
        assert weights is not None
        assert len(weights) == 6
        for channel in range(6):  # silencing a row silences its channel, and no other
            silent = nn.Sequential(conv)
            kept = conv.weight.detach().clone()
            with torch.no_grad():
                rows = filter_weights(first_layer(silent))
                assert rows is not None
                rows[channel] = 0  # a view of the weight for a plain convolution; a copy for a transposed one
                if isinstance(conv, nn.Conv2d):
                    out = conv(torch.ones(1, 4, 6, 6)) - conv.bias[:, None, None]
                    assert out[0, channel].abs().max() == 0
                    assert (out[0].abs().amax((1, 2)) > 0).sum() == 5
                conv.weight.copy_(kept)
    transposed = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    weights = filter_weights(first_layer(nn.Sequential(transposed)))
    assert weights is not None
    # The response of each channel to a unit impulse on all inputs is the sum of its filters over the inputs.
    impulse = torch.zeros(1, 4, 1, 1) + 1
    response = F.conv_transpose2d(impulse, transposed.weight, groups=groups)[0].flatten(1)
    torch.testing.assert_close(weights.unflatten(1, (4 // groups, 9)).sum(1), response)


def test_norm_scale_is_gamma() -> None:
    model = nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
    with torch.no_grad():
        model[1].weight.copy_(torch.arange(5.0))
    assert torch.equal(norm_scale(first_layer(model)), torch.arange(5.0))
    assert norm_scale(first_layer(nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU()))) is None


def test_reading_a_spectral_norm_does_not_move_it() -> None:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(4, 5, 3)), nn.ReLU())
    layer = first_layer(model)
    before = snapshot(model)
    weights = filter_weights(layer)
    assert weights is not None
    assert same(before, snapshot(model))
    assert model.training


class Shared(nn.Module):
    """Two parameters, one buffer, and a bias inside a part."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((2,), 3.0, dtype=torch.float64), requires_grad=False)
        self.inner = nn.Conv2d(1, 1, 2)
        self.biased = nn.Parameter(torch.ones(1))  # a name that only begins like a bias
        self.register_buffer("mean", torch.ones(5))


def test_learning_weights_are_all_parameters_but_biases_copied_flat_in_float32() -> None:
    module = Shared()
    found = learning_weights(module)
    assert found is not None
    weights, learns = found
    expected = [3.0, 3.0, 1.0, *module.inner.weight.flatten().tolist()]
    assert sorted(weights.tolist()) == pytest.approx(sorted(expected))
    assert (weights.dtype, weights.dim(), learns) == (torch.float32, 1, True)
    weights.zero_()
    assert float(module.biased) == 1.0  # a copy
    for parameter in module.parameters():
        parameter.requires_grad_(parameter is module.inner.bias)
    assert learning_weights(module) is not None
    assert not learning_weights(module)[1]  # type: ignore[index]


def test_one_weight_is_enough_and_none_is_none() -> None:
    assert len(learning_weights(nn.Conv2d(1, 1, 1))[0]) == 1  # type: ignore[index]
    only_bias = nn.Module()
    only_bias.bias = nn.Parameter(torch.ones(3))
    for module in (None, nn.ReLU(), only_bias):
        assert learning_weights(module) is None


def test_parametrised_weights_are_those_that_the_optimizer_sees() -> None:
    module = parametrizations.weight_norm(nn.Conv2d(1, 2, 1, bias=False))
    kept = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    found = learning_weights(module)
    assert found is not None
    assert torch.equal(found[0], torch.cat([value.flatten() for value in kept.values()]))


def test_what_is_no_filter_has_no_filter_weights() -> None:
    layer = first_layer(nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU()))
    assert filter_weights(dataclasses.replace(layer, module=None)) is None
    assert filter_weights(dataclasses.replace(layer, module=nn.BatchNorm2d(5))) is None  # a vector
    assert filter_weights(dataclasses.replace(layer, module=nn.Conv2d(4, 6, 3))) is None  # of another layer
    assert filter_weights(dataclasses.replace(layer, module=nn.Linear(7, 5))).shape == (5, 7)  # type: ignore[union-attr]
    assert not filter_weights(layer).requires_grad  # type: ignore[union-attr]
    assert norm_scale(dataclasses.replace(layer, norm=nn.BatchNorm2d(6))) is None
    assert norm_scale(dataclasses.replace(layer, norm=nn.BatchNorm2d(5, affine=False))) is None
