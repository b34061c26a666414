"""Facts about devices that every package needs."""

from __future__ import annotations

import torch

WITHOUT_DOUBLE = frozenset({"mps"})
"""Devices that have no float64."""
IN_STEP = frozenset({"cpu"})
"""Devices that have finished an operation once its call returns."""


def free_to_look(tensor: torch.Tensor) -> bool:
    """Return whether a value of the tensor can be read at once, as on the CPU; a GPU would first finish its work.

    >>> free_to_look(torch.zeros(1))
    True
    """
    return tensor.device.type in IN_STEP
