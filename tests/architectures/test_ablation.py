"""Filter sets in networks that nobody here wrote are what single passes with a plain hook give, at any chunk size."""

from __future__ import annotations

import pytest
import torch

from benchmarks.zoo import ZOO, Entry
from convscope.capture import HeldOut, Subject, select_layers, trace_layers
from convscope.capture.intervention import Intervention
from convscope.capture.network.follower import MODULE
from convscope.capture.network.layers import spread_over_depth
from convscope.capture.network.trace import Layer, Trace
from convscope.capture.outputs.parts import logits_of
from tests.architectures.test_zoo import marked
from tests.support.ablation import by_hand

SAMPLES = 7


def ends_in_a_module(found: Trace) -> list[Layer]:
    """Convolutions as they are and units that end in a module: what a plain hook can get at."""
    layers = [*spread_over_depth(select_layers(found, raw=True), 3), *spread_over_depth(select_layers(found), 4)]
    return [layer for layer in layers if layer.key.operation == MODULE and layer.channels > 1]


@pytest.mark.parametrize("entry", [marked(entry) for entry in ZOO])
def test_filter_sets_are_passes_with_a_hook(entry: Entry) -> None:
    if entry.package:
        pytest.importorskip(entry.package, reason=f"{entry.package} comes with the extra 'architectures'")
    torch.manual_seed(0)
    model, x = entry.build().eval(), torch.randn(SAMPLES, *entry.size)
    heldout = HeldOut((x,), size=SAMPLES, stratify=False)
    heldout.prepare()
    subject = Subject(model, model, torch.device("cpu"))
    layers = ends_in_a_module(trace_layers(subject, heldout)[0])
    assert layers
    for layer in layers:
        keep = torch.rand(3, layer.channels, generator=torch.Generator().manual_seed(layer.order)) < 0.5
        fill = torch.linspace(-1, 1, layer.channels)
        arguments = (layer.key.owner, layer.key.call, layer.channel_dim)
        expected = torch.stack([_expected(model, x, row, fill, *arguments) for row in keep])
        for size in (3, SAMPLES):
            intervention = Intervention(subject, layer, fill)
            found = torch.cat([intervention.logits(part, keep) for part in x.split(size)], 1)
            assert found.shape == expected.shape
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), (layer.name, size)


def _expected(
    model: torch.nn.Module, x: torch.Tensor, keep: torch.Tensor, fill: torch.Tensor, name: str, call: int, axis: int
) -> torch.Tensor:
    return logits_of(by_hand(model, x, name, keep, fill, call, axis))
