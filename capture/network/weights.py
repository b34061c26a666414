"""A layer's own parameters, arranged by filter."""

from __future__ import annotations

import torch
from torch import nn

from convscope.capture.network.trace import Layer
from convscope.capture.state.isolation import isolated


def filter_weights(layer: Layer) -> torch.Tensor | None:
    """Weights ``(C, fan_in)`` of each filter, detached; None where the layer has no such weight."""
    weight = _read(layer.module)
    if weight is None or weight.dim() < 2:
        return None
    if isinstance(layer.module, nn.modules.conv._ConvTransposeNd):  # (C_in, C_out / groups, ...)
        groups = layer.module.groups
        weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1) if len(weight) == layer.channels else None


def norm_scale(layer: Layer) -> torch.Tensor | None:
    """The scale ``γ`` ``(C,)`` of the unit's normalisation, detached; None where it has none."""
    scale = _read(layer.norm)
    return scale if scale is not None and scale.shape == (layer.channels,) else None


def learning_weights(module: nn.Module | None) -> tuple[torch.Tensor, bool] | None:
    """A flat float32 copy on the CPU of a module's parameters except biases, and True if one of them requires grad.

    Parametrised weights are taken as the optimizer sees them: computing the weight itself would change the state of
    a spectral norm. None if there are none, or this process holds none of them.
    """
    if module is None:
        return None
    parameters = [parameter for name, parameter in module.named_parameters() if "bias" not in name.split(".")]
    whole = [found.flatten() for parameter in parameters if (found := _whole(parameter)) is not None]
    if sum(part.numel() for part in whole) == 0:
        return None
    copy = torch.cat([part.to("cpu", torch.float32, copy=True) for part in whole])
    return copy, any(parameter.requires_grad for parameter in parameters)


def running_statistics(norm: nn.Module | None) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Copies on the CPU of the running mean and variance ``(C,)`` of a BatchNorm; None for anything else."""
    found = [getattr(norm, name, None) for name in ("running_mean", "running_var")]
    if not all(isinstance(buffer, torch.Tensor) and buffer.numel() > 0 for buffer in found):
        return None
    mean, variance = (buffer.detach().to("cpu", torch.float64, copy=True) for buffer in found)  # type: ignore[union-attr]
    return mean, variance


def _read(module: nn.Module | None) -> torch.Tensor | None:
    if module is None:
        return None
    with isolated(module, seed=0, gradients=False):  # reading a spectral norm in training mode would move its state
        return _whole(getattr(module, "weight", None))


def _whole(parameter: object) -> torch.Tensor | None:
    if hasattr(parameter, "full_tensor"):  # a DTensor: sharded over processes
        parameter = parameter.full_tensor()
    return parameter.detach() if isinstance(parameter, torch.Tensor) else None
