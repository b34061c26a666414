"""Interpretable convolutions: masks by hand, gradients, and what training does to a network."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from convscope.explainers.interpretable import InterpretableConv, template_masks
from convscope.metrics.functional import filter_loss, part_maps
from convscope.metrics.functional.parts import part_templates


def test_masks_are_the_positive_part_of_the_templates() -> None:
    for n in (3, 4, 7):
        maps = torch.zeros(n * n, 1, n, n).double()
        maps.view(n * n, -1).fill_diagonal_(1.0)  # a peak in each place
        expected = (part_templates(n)[:-1] * 2 * n**2).clamp(min=0)
        torch.testing.assert_close(template_masks(maps)[:, 0], expected, rtol=0, atol=1e-6)


def test_masks_of_maps_that_are_not_square_by_hand() -> None:
    maps = torch.zeros(1, 1, 4, 8)
    maps[0, 0, 2, 4] = 1
    found = template_masks(maps)[0, 0]
    for i in range(4):
        for j in range(8):
            expected = max(1 - 4 * (abs(i - 2) / 4 + abs(j - 4) / 8), 0)
            assert float(found[i, j]) == pytest.approx(expected)


def test_forward_masks_what_lies_away_from_the_peak() -> None:
    torch.manual_seed(0)
    layer, pictures = InterpretableConv(nn.Conv2d(3, 4, 3, padding=1)), torch.randn(5, 3, 8, 8)
    maps = torch.relu(layer.conv(pictures))
    torch.testing.assert_close(layer(pictures), maps * template_masks(maps))
    assert layer(pictures).flatten(2).amax(2).equal(maps.flatten(2).amax(2))
    assert layer.maps is not None
    assert layer.maps.requires_grad
    layer.eval()
    torch.testing.assert_close(layer(pictures), maps * template_masks(maps))
    assert layer.maps is None


def test_the_gradient_through_mask_and_loss_is_right() -> None:
    torch.manual_seed(0)
    layer = InterpretableConv(nn.Conv2d(1, 2, 2)).double()
    pictures = torch.randn(4, 1, 5, 5, dtype=torch.float64, requires_grad=True)

    def loss(inputs: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        masked = layer(inputs)
        assert layer.maps is not None
        return torch.cat([masked.flatten(), filter_loss(part_maps(10 * layer.maps))])

    assert torch.autograd.gradcheck(loss, (pictures, *layer.parameters()))


def test_it_can_be_copied_and_saved_in_the_middle_of_training() -> None:
    layer = InterpretableConv(nn.Conv2d(1, 2, 3))
    layer(torch.randn(2, 1, 5, 5))
    assert copy.deepcopy(layer).maps is None
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert torch.load(file, weights_only=False).maps is None
    assert layer.maps is not None


def test_other_maps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs maps of shape \(N, C, H, W\), but its convolution gave \(2, 4, 6\)"):
        InterpretableConv(nn.Conv1d(1, 4, 3))(torch.randn(2, 1, 8))


@pytest.mark.slow
def test_compiled_it_is_what_it_is() -> None:
    torch.manual_seed(0)
    layer, pictures = InterpretableConv(nn.Conv2d(3, 4, 3)), torch.randn(5, 3, 8, 8)
    compiled = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(pictures), layer(pictures))
    losses = [filter_loss(part_maps(each.maps)).mean() for each in (compiled._orig_mod, layer)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(compiled._orig_mod.conv.weight.grad, layer.conv.weight.grad)
