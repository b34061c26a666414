"""Numbers of a device, read together: each time one is read, the host waits until the device has finished."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def read(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars of one device as plain numbers, in one exchange with it.

    >>> read({"a": torch.tensor(1.5), "b": torch.tensor(True)})
    {'a': 1.5, 'b': 1.0}
    """
    return dict(zip(scalars, torch.stack(list(scalars.values())).tolist(), strict=True)) if scalars else {}
