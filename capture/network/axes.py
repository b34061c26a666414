"""Channel axis of every tensor, followed through a forward pass from where it is known.

A shape does not tell it: ConvNeXt's blocks return (N, C, H, W) and compute in (N, H, W, C), Swin's return the latter.
Convolutions put channels first and linear maps last; views are followed by strides; other operations keep the axis.
"""

from __future__ import annotations

import torch
from torch import nn

from convscope.capture.network.follower import Event

_FIRST = {"batch_norm", "group_norm", "instance_norm", "local_response_norm"}
_LAST = {"linear", "layer_norm", "rms_norm", "embedding"}


class ChannelAxes:
    """Axes of the tensors of one traced pass. Tensors are kept alive, so that identities stay unique."""

    def __init__(self) -> None:
        self._axes: dict[int, tuple[torch.Tensor, int]] = {}

    def of(self, tensor: torch.Tensor) -> int | None:
        """The channel axis, None where it is not known."""
        known = self._axes.get(id(tensor))
        return None if known is None else known[1]

    def follow(self, event: Event, output: torch.Tensor) -> None:
        """Learn the axis of an operation's output."""
        axis = _fixed(event, output)
        if axis is None:
            axis = self._carried(event, output)
        if axis is not None:
            self._axes[id(output)] = output, axis

    def _carried(self, event: Event, output: torch.Tensor) -> int | None:
        sources = [(tensor, axis) for tensor in event.inputs if (axis := self.of(tensor)) is not None]
        if not sources:
            return _of_norm(event, output)
        # The input whose shape is most like the output's: a skip connection, not a scale of size (N, C, 1, 1).
        source, axis = max(sources, key=lambda pair: (pair[0].shape == output.shape, pair[0].dim() == output.dim()))
        return _carry(source, axis, output)


def _fixed(event: Event, output: torch.Tensor) -> int | None:
    """The channel axis, if the operation alone determines it."""
    if event.kind == "conv" or output.dim() == 2:
        return 1
    if event.module is None and event.key.operation in _FIRST:
        return 1
    return output.dim() - 1 if event.module is None and event.key.operation in _LAST and output.dim() > 1 else None


def _of_norm(event: Event, output: torch.Tensor) -> int | None:
    """The channel axis of a norm, if it is not known yet; a subclass of LayerNorm may move the axis and back."""
    if isinstance(event.module, nn.LayerNorm):
        return output.dim() - 1 if len(event.module.normalized_shape) == 1 else None
    return 1 if event.kind == "norm" and isinstance(event.module, nn.modules.batchnorm._NormBase) else None


def _carry(source: torch.Tensor, axis: int, output: torch.Tensor) -> int | None:
    if output is source:
        return axis
    same_dims = source.dim() == output.dim()
    if _shares_memory(source, output):
        size, stride = source.shape[axis], source.stride(axis)
        found = [i for i in range(1, output.dim()) if (output.shape[i], output.stride(i)) == (size, stride)]
        if len(found) == 1 and size > 1:
            return found[0]
        if same_dims and axis in (found or [axis]):
            return axis
    elif same_dims:
        return axis
    return _by_size(source, axis, output)


def _by_size(source: torch.Tensor, axis: int, output: torch.Tensor) -> int | None:
    """The axis of a reshaped copy: the same end of the shape, or the only axis of that size."""
    size, last = source.shape[axis], output.dim() - 1
    if axis == source.dim() - 1 and output.dim() > 1 and output.shape[last] == size:
        return last
    found = [i for i in range(1, output.dim()) if output.shape[i] == size]
    if axis == 1 and 1 in found:
        return 1
    return found[0] if len(found) == 1 else None


def _shares_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.layout != torch.strided or b.layout != torch.strided:
        return False  # a sparse tensor has no storage of its own
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
