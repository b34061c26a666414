"""Values of all processes."""

from __future__ import annotations

from typing import Any

import torch

from convscope.metrics._base import announce_sync


def processes() -> int:
    """Number of processes that train together."""
    started = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if started else 1


def rank() -> int:
    """Number of this process among those that train together."""
    return torch.distributed.get_rank() if processes() > 1 else 0


def gather_objects(value: Any) -> list[Any]:
    """``value`` from every process, in rank order; with one process a list of one."""
    if processes() == 1:
        return [value]
    announce_sync()
    return gather_at_once(value)


def gather_integers(values: list[int]) -> list[list[int]]:
    """Equally many whole numbers from every process, in rank order: a small tensor, far cheaper than an object."""
    here = torch.tensor(values, device=_exchange_device())
    found = [torch.empty_like(here) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(found, here)
    return [row.tolist() for row in found]


def largest(value: int) -> int:
    """The largest of a whole number over all processes."""
    return value if processes() == 1 else max(row[0] for row in gather_integers([value]))


def _exchange_device() -> torch.device:
    if "nccl" in torch.distributed.get_backend() and "gloo" not in torch.distributed.get_backend():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def gather_at_once(value: Any) -> list[Any]:
    """As :func:`gather_objects`, where all processes are known to be here."""
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found
