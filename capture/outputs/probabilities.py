"""Tests that distinguish probabilities from logits."""

from __future__ import annotations

from typing import Any

import torch

_HALF = (torch.float16, torch.bfloat16)
_CARRIED = (
    "View", "Reshape", "Alias", "Squeeze", "Unsqueeze", "Select", "Slice", "Index", "Permute", "Transpose", "TBackward",
    "Expand", "Clone", "ToCopy", "Cat", "Stack", "Mean", "AvgPool", "AdaptiveAvgPool", "Split", "Unbind", "Unsafe",
    "AsStrided", "Contiguous", "Detach", "Upsample",
)  # fmt: skip
"""Operations that leave values between 0 and 1 where they are, so that the operation before them decides."""
_SIGMOIDS = ("Sigmoid", "Hardsigmoid", "Clamp", "Reciprocal", "Softmax", "ExpBackward")


def rows_are_probabilities(rows: torch.Tensor) -> bool:
    """Return whether ``(n, K, *S)`` are not negative and sum to one over K, within their precision."""
    full = rows.detach().float()
    return bool((full >= 0).all()) and bool(((full.sum(1) - 1).abs() <= tolerance(rows)).all())


def tolerance(rows: torch.Tensor) -> float:
    """Tolerance for a sum of many such numbers, which should be one."""
    return 2e-2 if rows.dtype in _HALF else 1e-3


def ends_in_sigmoid(outputs: torch.Tensor) -> bool | None:
    """Return whether the operation that made ``outputs`` gives values in [0, 1]; None if there is no graph."""
    waiting: list[Any] = [outputs.grad_fn]
    if outputs.grad_fn is None:
        return None
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        name = node.name().removesuffix("0")
        if any(name.startswith(kind) for kind in _SIGMOIDS):
            return True
        if any(kind in name for kind in _CARRIED):
            waiting += [before for before, _ in node.next_functions]
    return False
