"""A layer's own parameters, by filter, read without a trace."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from convscope.capture import HeldOut, Subject, select_layers, trace_layers
from convscope.capture.trace import Layer
from convscope.capture.weights import filter_weights, norm_scale
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
