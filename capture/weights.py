"""A layer's own parameters, arranged by filter."""

from __future__ import annotations

import torch
from torch import nn

from convscope.capture.trace import Layer


def filter_weights(layer: Layer) -> torch.Tensor | None:
    """Weights ``(C, fan_in)`` of each filter, detached; None where the layer has no such weight."""
    weight = _whole(getattr(layer.module, "weight", None))
    if weight is None or weight.dim() < 2:
        return None
    if isinstance(layer.module, nn.modules.conv._ConvTransposeNd):  # (C_in, C_out / groups, ...)
        groups = layer.module.groups
        weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1) if len(weight) == layer.channels else None


def norm_scale(layer: Layer) -> torch.Tensor | None:
    """The scale ``γ`` ``(C,)`` of the unit's normalisation, detached; None where it has none."""
    scale = _whole(getattr(layer.norm, "weight", None))
    return scale if scale is not None and scale.shape == (layer.channels,) else None


def _whole(parameter: object) -> torch.Tensor | None:
    if hasattr(parameter, "full_tensor"):  # a DTensor: sharded over processes
        parameter = parameter.full_tensor()
    return parameter.detach() if isinstance(parameter, torch.Tensor) else None
