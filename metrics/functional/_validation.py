"""Checks of tensors: each error names what is accepted, what came, and the fix. Options: see ``_arguments``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NoReturn

import torch
from torch import Tensor

_CLASS_INDEX_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_finite(name: str, *tensors: Tensor) -> None:
    """No tensor holds NaN or Inf."""
    least_and_greatest(name, *tensors)


def least_and_greatest(name: str, *tensors: Tensor) -> list[float]:
    """The least and the greatest value of each tensor, one after the other, if none holds NaN or Inf.

    Raises:
        ValueError: if a value is NaN or Inf.
    """
    found = _ends(tensors)
    if not all(map(math.isfinite, found)):
        _refuse_nonfinite(name, tensors)
    return found


def _ends(tensors: Iterable[Tensor]) -> list[float]:
    """Least and greatest values, NaN where there is one; read together: each look at a device waits for its work."""
    filled = [tensor for tensor in tensors if tensor.numel()]
    ends = [end.to(filled[0].device) for tensor in filled for end in torch.aminmax(tensor)]
    found: list[float] = torch.stack(ends).tolist() if ends else []
    return found


def _refuse_nonfinite(name: str, tensors: Iterable[Tensor]) -> NoReturn:
    bad, tensor = next((bad, tensor) for tensor in tensors if (bad := int((~torch.isfinite(tensor)).sum())))
    raise ValueError(
        f"The {name} must be finite, but {bad} of {tensor.numel()} values are NaN or Inf. "
        "Look for an exploding layer, or for NaN in the input."
    )


def checked_mean(name: str, total: Tensor, count: Tensor) -> Tensor:
    """``total / count`` as float32, once there are samples and no sum is NaN or Inf."""
    mean = total / count
    if not all(map(math.isfinite, _ends([mean]))):
        if count == 0:
            raise ValueError(f"The {name} needs samples, got none. Update the metric before computing it.")
        check_finite(f"sums of the {name}", total)
    return mean.float()


def check_channels(name: str, tensor: Tensor, num_channels: int) -> None:
    """``tensor`` is floating point of shape ``(N, num_channels, *)``."""
    if tensor.ndim < 2 or tensor.shape[1] != num_channels:
        raise ValueError(
            f"The {name} must have shape (N, {num_channels}, *), got {tuple(tensor.shape)}. "
            "Construct the metric with the number of channels of the layer."
        )
    if not tensor.is_floating_point():
        raise ValueError(f"The {name} must be floating point, got {tensor.dtype}. Convert it with `.float()`.")


def check_same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Two tensors that belong together have one shape."""
    if a.shape != b.shape:
        raise ValueError(f"{name_a} and {name_b} must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")


def check_target(target: Tensor, num_samples: int) -> None:
    """``target`` holds one class index per sample."""
    if target.ndim != 1:
        raise ValueError(
            f"The target must hold class indices of shape (N,), got shape {tuple(target.shape)}. "
            "Soft labels and multi-label targets cannot be probed as classes: pass `target.argmax(dim=1)` "
            "if its rows are probabilities or one-hot."
        )
    if target.dtype not in _CLASS_INDEX_DTYPES:
        raise ValueError(
            f"The target must hold class indices as integers, got {target.dtype}. "
            "Soft labels cannot be probed as classes; whole numbers can be converted with `target.long()`."
        )
    if target.shape[0] != num_samples:
        raise ValueError(f"Features and target must have one length, got {num_samples} and {target.shape[0]}.")


def check_features(features: Tensor) -> None:
    """``features`` is floating point of shape ``(N, C)``."""
    if features.ndim != 2:
        raise ValueError(
            f"The features must have shape (N, C), got {tuple(features.shape)}. "
            "Pool activations over their positions first, e.g. `activation.mean(dim=(2, 3))`."
        )
    if not features.is_floating_point():
        raise ValueError(f"The features must be floating point, got {features.dtype}. Convert them with `.float()`.")


def check_probe_input(features: Tensor, target: Tensor) -> None:
    """All that a probe requires of the form of its data."""
    check_features(features)
    check_target(target, features.shape[0])
    if features.shape[0] == 0:
        raise ValueError("A probe needs samples, got none. Pass a held-out set that is not empty.")


def check_vector(name: str, values: Tensor) -> None:
    """``values`` is a finite vector with at least one entry."""
    check_vector_shape(name, values)
    check_finite(name, values)


def check_vector_shape(name: str, values: Tensor) -> None:
    """``values`` is a vector with at least one entry."""
    if values.ndim != 1 or values.numel() == 0:
        raise ValueError(f"The {name} must be a vector of shape (C,) with C >= 1, got {tuple(values.shape)}.")


def check_not_negative(name: str, values: Tensor) -> None:
    """No entry of ``values`` is below zero."""
    if values.numel() and (least := float(values.min())) < 0:
        raise ValueError(
            f"The {name} must not be negative, got a minimum of {least:g}. Pass magnitudes, e.g. `values.abs()`."
        )


def check_index(index: Tensor, num_samples: int) -> None:
    """``index`` has the form of one whole number per sample."""
    if index.shape != (num_samples,) or index.is_floating_point():
        raise ValueError(
            f"The index must hold one integer for each of the {num_samples} samples, got {index.dtype} of shape "
            f"{tuple(index.shape)}."
        )


def check_index_values(index: Tensor) -> None:
    """No entry of ``index`` is negative."""
    if len(index) and (least := int(index.min())) < 0:
        raise ValueError(f"The index must not be negative, got {least}. Count samples from 0.")
