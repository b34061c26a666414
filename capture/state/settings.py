"""Settings of the whole process that a forward may flip: default dtype, autocast, determinism, backends, threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

Get = Callable[[], Any]
Set = Callable[[Any], Any]


def _attribute(owner: Any, name: str) -> tuple[Get, Set]:
    return partial(getattr, owner, name), partial(setattr, owner, name)


def _autocast(device: str) -> list[tuple[Get, Set]]:
    return [
        (partial(torch.is_autocast_enabled, device), partial(torch.set_autocast_enabled, device)),
        (partial(torch.get_autocast_dtype, device), partial(torch.set_autocast_dtype, device)),
    ]


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _default_device() -> torch.device | None:
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


_BACKENDS = [
    (torch.backends.cudnn, ("enabled", "benchmark", "deterministic", "allow_tf32", "benchmark_limit")),
    (torch.backends.cuda.matmul, ("allow_tf32", "allow_fp16_reduced_precision_reduction")),
    (torch.backends.mkldnn, ("enabled",)),
    (torch.utils.deterministic, ("fill_uninitialized_memory",)),
]

SETTINGS: list[tuple[Get, Set]] = [
    (torch.get_default_dtype, torch.set_default_dtype),
    (_default_device, torch.set_default_device),
    (torch.get_num_threads, torch.set_num_threads),
    (_deterministic, lambda found: torch.use_deterministic_algorithms(found[0], warn_only=found[1])),
    (_anomaly, lambda found: torch.set_anomaly_enabled(*found)),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    (torch.is_warn_always_enabled, torch.set_warn_always),
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    (np.geterr, lambda found: np.seterr(**found)),
    *_autocast("cpu"),
    *_autocast("cuda"),
    *_autocast("mps"),
    *(_attribute(owner, name) for owner, names in _BACKENDS for name in names),
]
"""Getter and setter of each setting."""


@contextmanager
def preserved_settings() -> Iterator[None]:
    """Restore, at the end of the block, every setting in :data:`SETTINGS` that has changed in it."""
    saved = [(read, write, value) for read, write in SETTINGS if (value := _read(read)) is not _UNREADABLE]
    try:
        yield
    finally:
        for read, write, value in saved:
            if _read(read) != value:
                write(value)


_UNREADABLE = object()


def _read(read: Get) -> Any:
    try:
        return read()
    except Exception:  # not in this build or version of torch, or set through a newer interface: left alone
        return _UNREADABLE
