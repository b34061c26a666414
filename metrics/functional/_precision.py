"""Number formats: where precision is decided, once, for every metric."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope._devices import WITHOUT_DOUBLE
from convscope.metrics.functional._validation import check_finite

# A column counts as constant when its standard deviation is below 1e-6 of its root mean square:
# about 16 units in the last place of float32, so rounding alone never passes for variation.
_CONSTANT_VARIANCE_SHARE = 1e-12
_PRECISE = (torch.float32, torch.float64)


def where_double_exists(tensor: Tensor) -> Tensor:
    """``tensor`` as it is, or on the CPU where its own device has no float64."""
    return tensor.cpu() if tensor.device.type in WITHOUT_DOUBLE else tensor


def without_graph(tensor: Tensor) -> Tensor:
    """``tensor`` detached, which is an operation of its own only where there is a graph."""
    return tensor.detach() if tensor.requires_grad else tensor


def as_double(tensor: Tensor) -> Tensor:
    """``tensor`` in float64, on the CPU where its own device has no float64."""
    return where_double_exists(without_graph(tensor)).double()


def at_least_single(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or in float64 where it already is: never in half precision."""
    return without_graph(tensor if tensor.dtype in _PRECISE else tensor.float())


def is_varying(variance: Tensor, mean_square: Tensor) -> Tensor:
    """Mask of the columns that vary by more than float32 rounding."""
    return variance > _CONSTANT_VARIANCE_SHARE * mean_square


def standardise(features: Tensor) -> Tensor:
    """Columns of ``(N, C)`` to mean 0 and population standard deviation 1, constant columns left out.

    Raises:
        ValueError: if a value is NaN or Inf.
    """
    values = as_double(features)
    count, squares = max(1, len(values)), column_squares(values)
    centred = values - values.mean(dim=0)
    del values
    variance = column_squares(centred) / count
    varying = is_varying(variance, squares / count)
    if bool(varying.all()):
        return centred.div_(variance.sqrt())
    check_finite("features", features)  # one NaN makes a column's variance NaN, and that is no variation
    return centred[:, varying].div_(variance[varying].sqrt())


def column_squares(values: Tensor) -> Tensor:
    """Squared length of each column of ``(N, C)`` in float64, without a copy of them all."""
    squares: Tensor = torch.linalg.vector_norm(where_double_exists(values), dim=0, dtype=torch.float64).square()
    return squares
