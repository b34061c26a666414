"""Detection of forwards that exchange data between processes, and so need the same number of passes on each."""

from __future__ import annotations

import sys
from typing import Any

import torch.distributed as dist
from torch import nn


def shards(model: nn.Module) -> bool:
    """Return whether parameters are split over processes (FSDP, tensor parallelism) and gathered in the forward."""
    tensor = sys.modules.get("torch.distributed.tensor")  # not imported: then nothing is such a tensor
    if tensor is not None and any(isinstance(parameter, tensor.DTensor) for parameter in model.parameters()):
        return True
    return any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())


def collectives_so_far() -> Any:
    """A value that changes with every collective of this process; never equal to itself if that cannot be counted."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0
    try:
        groups: Any = dist.distributed_c10d._world.pg_map
        return [group._get_sequence_number_for_group() for group in groups]
    except Exception:  # a backend that does not count
        return float("nan")
