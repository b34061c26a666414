"""Features of one's own in the place of an activation: the true ones change nothing, others what they should."""

from __future__ import annotations

import pytest
import torch

from convscope.capture import HeldOut, Subject, observe, select_layers, trace_layers
from convscope.capture.replacement import Replacement
from tests.networks import TINY_RESNET_UNITS, Plain, TinyResNet, images


class Keeps:
    needs_gradient = takes_nonfinite = False

    def __init__(self) -> None:
        self.seen: dict[str, torch.Tensor] = {}

    def wants(self, layer: object) -> bool:
        return True

    def on_activation(self, record) -> None:  # type: ignore[no-untyped-def]
        self.seen[record.layer.name] = record.activation.clone()

    def on_gradient(self, record, gradient) -> None:  # type: ignore[no-untyped-def]
        raise AssertionError


@pytest.mark.parametrize("channels", [3, 1])
def test_the_true_features_give_the_true_outputs(channels: int) -> None:
    torch.manual_seed(0)
    model = (TinyResNet(4, classes=3) if channels == 3 else Plain()).eval()
    pictures = images(6, channels=channels)[0]
    subject, heldout = Subject(model, model, torch.device("cpu")), HeldOut((pictures,), batch_size=6)
    heldout.prepare()
    layers = select_layers(trace_layers(subject, heldout)[0])
    assert [layer.name for layer in layers] == (TINY_RESNET_UNITS if channels == 3 else ["conv1", "conv2"])
    kept = Keeps()
    observe(subject, heldout, layers, [kept])
    expected = model(pictures).detach()
    for layer in layers:
        run, features = Replacement(subject, layer), kept.seen[layer.name]
        torch.testing.assert_close(run.outputs(pictures, features), expected)
        others = run.outputs(pictures, features.flip(0))
        assert (others - expected).abs().max() > 1e-6
    last = kept.seen[layers[-1].name]
    if channels == 1:  # nothing but the head follows
        torch.testing.assert_close(run.outputs(pictures, last.flip(0)), expected.flip(0))
