"""The explainer network: one track expresses a model's features in parts, another one the rest.

Source: reconstruction (Zhang et al., Explanatory Networks, arXiv 1805.07468, whose body is not public): the two tracks,
the mixing weight, the template masks and the decoder are named there; sizes and normalisation here are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope._arguments import whole_number
from convscope.explainers.interpretable import InterpretableConv

VERSION = 1
"""Version of the data that :meth:`ExplainerNetwork.save` writes."""


class ExplainerNetwork(nn.Module):
    r"""Reconstructs a model's next features from those of one layer, as far as it can from part-like filters.

    .. math:: x = p \, x_{\text{int}} + (1 - p) \, x_{\text{ord}}, \quad p = \operatorname{sigmoid}(w)

    The interpretable track is two convolutions with template masks
    (:class:`~convscope.InterpretableConv`), the ordinary track one without. Each track is divided by its mean
    activation, so that p says how much of the sum is interpretable. A decoder of two convolutions (for a vector, one
    and a linear layer on the means over positions), with a layer norm between them, gives the next features.

    Args:
        channels: Number of channels C of the explained layer.
        size: Its height and width.
        target: Shape of the next features: ``(C', H', W')``, or ``(K,)`` for a vector.
        filters: Number of filters per track; by default C, at most 128.

    Attributes:
        p: Share of the interpretable track, a scalar in (0, 1).

    Source: reconstruction.

    Example:
        >>> network = ExplainerNetwork(16, (8, 8), (32, 4, 4))
        >>> network(torch.rand(2, 16, 8, 8)).shape, float(network.p)
        (torch.Size([2, 32, 4, 4]), 0.5)
    """

    source_scale: Tensor
    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, channels: int, size: Sequence[int], target: Sequence[int], filters: int | None = None) -> None:
        super().__init__()
        self.channels, self.size, self.target = channels, (int(size[0]), int(size[1])), tuple(map(int, target))
        self.filters = min(channels, 128) if filters is None else whole_number("filters", filters)
        width = self.filters
        self.first = InterpretableConv(_conv(channels, width))
        self.second = InterpretableConv(_conv(width, width))
        self.ordinary = nn.Sequential(_conv(channels, width), nn.ReLU())
        self.norms = nn.ModuleList([_MeanNorm(width), _MeanNorm(width), _MeanNorm(width)])
        self.weight = nn.Parameter(torch.zeros(()))
        is_map = len(self.target) == 3
        strided = _strided(width, self.size, self.target[1:] if is_map else self.size)
        # Without the norm the hidden layer died at learning rates above 0.003, and learned slowly below.
        self.decoder = nn.Sequential(strided, nn.GroupNorm(1, width), nn.ReLU())
        self.last: nn.Module = _conv(width, self.target[0]) if is_map else nn.Linear(width, self.target[0])
        self.register_buffer("source_scale", torch.ones(channels, 1, 1))
        self.register_buffer("target_mean", torch.zeros(self.target[0]))
        self.register_buffer("target_scale", torch.ones(self.target[0]))

    @property
    def p(self) -> Tensor:
        return self.weight.sigmoid()

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of the constructor, plain values."""
        return {"channels": self.channels, "size": self.size, "target": self.target, "filters": self.filters}

    def adapt(self, features: Tensor, target: Tensor) -> None:
        """Take the sizes of activations from features ``(N, C, H, W)`` and next features ``(N, *target)``."""
        with torch.no_grad():
            over = (0, *range(2, target.dim()))
            self.source_scale.copy_(_not_zero(features.square().mean((0, 2, 3)).sqrt())[:, None, None])
            self.target_mean.copy_(target.mean(over))
            self.target_scale.copy_(_not_zero(target.std(over, correction=0)))

    def forward(self, features: Tensor) -> Tensor:
        """Next features ``(N, *target)`` from features ``(N, C, H, W)``."""
        scaled = features / self.source_scale
        parts = self.norms[1](self.second(self.norms[0](self.first(scaled))))
        rest = self.norms[2](self.ordinary(scaled))
        return self._decode(self.p * parts + (1 - self.p) * rest)

    def part_maps(self, features: Tensor) -> Tensor:
        """Maps ``(N, F, H, W)`` of the interpretable track's last convolution, before its masks, without a gradient."""
        with torch.no_grad():
            inner = self.norms[0](self.first(features / self.source_scale))
            maps: Tensor = self.second.relu(self.second.conv(inner))
            return maps

    def _decode(self, mixed: Tensor) -> Tensor:
        hidden = self.decoder(mixed)
        if len(self.target) == 1:
            values: Tensor = self.last(hidden.mean((2, 3)))
            return values * self.target_scale + self.target_mean
        maps: Tensor = self.last(_resized(hidden, self.target[1:]))
        return maps * self.target_scale[:, None, None] + self.target_mean[:, None, None]

    def saved(self, **about: Any) -> dict[str, Any]:
        """Tensors and plain values from which :meth:`restored` makes the network; ``about`` is kept with them."""
        state = {name: tensor.detach().cpu().clone() for name, tensor in self.state_dict().items()}
        return {"version": VERSION, "config": self.config, "state": state, "about": about}

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> ExplainerNetwork:
        """The network, in evaluation mode, from :meth:`saved`.

        Raises:
            ValueError: if it was saved by a later version.
        """
        if saved["version"] > VERSION:
            raise ValueError(
                f"an explainer of version {saved['version']} is of a newer convscope; this reads {VERSION}"
            )
        network = cls(**saved["config"])
        network.load_state_dict(saved["state"])
        return network.eval()

    @classmethod
    def load(cls, path: str | Path) -> ExplainerNetwork:
        """The network from a file that the callback wrote; only tensors and plain values are read.

        Raises:
            ValueError: if it was saved by a later version.
            OSError: if there is no such file.
        """
        return cls.restored(torch.load(path, map_location="cpu", weights_only=True))


class _MeanNorm(nn.Module):
    """Divides each channel by its mean activation: over the batch in training, else over the batches of training."""

    running: Tensor

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("running", torch.ones(channels))

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training:
            return maps / self.running[:, None, None]
        mean = maps.mean((0, 2, 3))
        with torch.no_grad():
            self.running.lerp_(_not_zero(mean), self.momentum)
        return maps / _not_zero(mean)[:, None, None]


def _not_zero(values: Tensor) -> Tensor:
    """The values, with 1 for those near 0: a channel that is always silent would be divided by 0 otherwise."""
    return torch.where(values > 1e-6, values, 1.0)


def _conv(channels: int, filters: int) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, 3, padding=1)


def _strided(width: int, size: Sequence[int], wanted: Sequence[int]) -> nn.Conv2d:
    """A convolution to the wanted size if that divides its own, so that places within a cell are not averaged."""
    rows, columns = (side // goal if side % goal == 0 else 1 for side, goal in zip(size, wanted, strict=True))
    kernel = max(3, 2 * rows - 1), max(3, 2 * columns - 1)
    return nn.Conv2d(width, width, kernel, (rows, columns), padding=((kernel[0] - 1) // 2, (kernel[1] - 1) // 2))


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps averaged over cells, or repeated; as products of matrices, whose backward is deterministic everywhere."""
    for axis, wanted in ((2, size[0]), (3, size[1])):
        if maps.shape[axis] != wanted:
            weights = F.adaptive_avg_pool1d(torch.eye(maps.shape[axis], device=maps.device)[None], wanted)[0]
            maps = (maps.movedim(axis, -1) @ weights.to(maps.dtype)).movedim(-1, axis)
    return maps
