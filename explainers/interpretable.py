"""A convolution whose filters are trained to stand for one part each: template masks, and maps for the filter loss.

Source: paper (Zhang, Wu and Zhu 2018, arXiv 1710.00935).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_BETA = 4.0  # the paper's


def template_masks(maps: Tensor) -> Tensor:
    r"""Mask ``(N, C, H, W)`` of each map: 1 at its peak, falling to 0 at half of the map's side from it.

    .. math:: \max(1 - \beta \|[i, j] - \hat\mu\|_1 / n, 0), \quad \hat\mu = \arg\max x, \quad \beta = 4

    The paper's template without its factor τ, which would make a map 400 times smaller at n = 14, and without its
    negative part, which the paper cuts off after masking. In a map that is not square, rows count in shares of its
    height and columns in shares of its width. Of several equal peaks the first is used; no gradient goes through μ̂.
    """
    height, width = maps.shape[2:]
    with torch.no_grad():
        place = maps.flatten(2).argmax(2)
        rows = torch.arange(height, device=maps.device) - place.div(width, rounding_mode="floor")[..., None]
        columns = torch.arange(width, device=maps.device) - (place % width)[..., None]
        distance = (rows.abs() / height)[..., :, None] + (columns.abs() / width)[..., None, :]
        return (1 - _BETA * distance).clamp(min=0).to(maps.dtype)


class InterpretableConv(nn.Module):
    """A convolution, a ReLU and a template mask: each filter gives the place of its one part, or none if it is absent.

    ``forward`` masks values away from each map's peak, in training and in evaluation. The masks alone do not make a
    filter part-like: the filter loss does, which :class:`~convscope.FilterLoss` adds to the training loss. By hand::

        loss = loss + weight * filter_loss(part_maps(layer.maps)).mean()

    Args:
        conv: Module that computes the maps ``(N, C, H, W)``: a convolution, or one with its normalisation.

    Attributes:
        maps: Maps of the last forward pass in training, after the ReLU and before the mask, with their gradient;
            None before that, in evaluation, and in a copy.

    Source: paper (Zhang, Wu and Zhu 2018, arXiv 1710.00935).

    Example:
        >>> layer = InterpretableConv(nn.Conv2d(3, 8, 3, padding=1))
        >>> layer(torch.randn(2, 3, 16, 16)).shape, layer.maps.shape
        (torch.Size([2, 8, 16, 16]), torch.Size([2, 8, 16, 16]))
    """

    maps: Tensor | None

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.relu = nn.ReLU()
        self.maps = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Masked maps ``(N, C, H, W)``.

        Raises:
            ValueError: if the convolution gives no maps with two spatial dimensions.
        """
        maps: Tensor = self.relu(self.conv(inputs))
        if maps.dim() != 4:
            raise ValueError(
                f"InterpretableConv needs maps of shape (N, C, H, W), but its convolution gave {tuple(maps.shape)}; "
                "give a Conv2d and a batch of images"
            )
        self.maps = maps if self.training else None
        return maps * template_masks(maps)

    def __getstate__(self) -> dict[str, Any]:
        # Tensors in the middle of a graph can neither be copied nor saved.
        return self.__dict__ | {"maps": None}
