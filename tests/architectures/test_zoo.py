"""Networks that nobody here wrote: what is observed of each is what plain hooks see, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch

from benchmarks.architectures import examine
from benchmarks.zoo import ZOO, Entry
from tests.capture.test_axes import hooked, observed


def marked(entry: Entry) -> object:
    return pytest.param(entry, id=entry.name, marks=[pytest.mark.slow] if entry.package else [])


@pytest.mark.parametrize("entry", [marked(entry) for entry in ZOO])
def test_what_is_observed_is_what_hooks_see(entry: Entry) -> None:
    if entry.package:
        pytest.importorskip(entry.package, reason=f"{entry.package} comes with the extra 'architectures'")
    found = examine(entry)
    assert found.layers > 0
    assert found == type(found)(found.layers, found.seconds, True, True, True, True, True)


NAMED = [
    ("torchvision convnext_tiny", "features.1.0", 1),
    ("torchvision convnext_tiny", "features.1.0.block.3", 3),
    ("torchvision swin_t", "features.1.0", 3),
    ("torchvision swin_t", "features.1.0.mlp", 3),
    ("timm swin_tiny_patch4_window7_224", "layers.0.blocks.0", 3),
    ("timm convnextv2_atto", "stages.0.blocks.0", 1),
    ("timm test_vit", "blocks.0", 2),
    ("transformers ConvNext", "convnext.encoder.stages.1.layers.0.pwconv1", 3),
    ("transformers ViT", "vit.layernorm", 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "name", "axis"), NAMED, ids=[f"{name}: {layer}" for name, layer, _ in NAMED])
def test_modules_chosen_by_name_have_the_right_channel_axis(network: str, name: str, axis: int) -> None:
    entry = next(entry for entry in ZOO if entry.name == network)
    pytest.importorskip(entry.package, reason=f"{entry.package} comes with the extra 'architectures'")
    model, inputs = entry.build(), torch.randn(3, *entry.size)
    layers, records, _ = observed(model, inputs, [name])
    expected = hooked(model, inputs, name)
    assert layers[name].channel_dim == axis
    torch.testing.assert_close(records[name], expected.movedim(axis, 1), rtol=1e-3, atol=1e-4)


def test_the_zoo_is_as_large_as_the_docs_say() -> None:
    assert len({entry.name for entry in ZOO}) == len(ZOO) >= 40


class Shifted(torch.nn.Module):
    """A convolution whose values an observer could get wrong: written over at once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x *= 2
        return x.mean((2, 3))


def test_the_examination_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("shifted", "", Shifted, (3, 4, 4))
    assert examine(entry).passed
    monkeypatch.setattr("benchmarks.architectures._rows", lambda tensor: tensor + 1e-3 * tensor.abs().max())
    found = examine(entry)
    assert not found.values
    assert not found.gradients
