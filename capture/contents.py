"""Put back what reading changes in a data set besides its generators: counters, caches, lists of what was read.

Where a loader has workers, these are changed in the workers' own copies. Without, the data set that is read is the one
that training reads.
"""

from __future__ import annotations

import ctypes
import io
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch

from convscope.capture.reachable import is_library, named_globals, package_of, reachable, slot_names

_MOST_BYTES = 1 << 20
"""Of an array or tensor that is copied: what is larger is data, not a counter."""

_PASSIVE = {"collections", "types", "functools", "argparse", "builtins", "io", "_io", "array", "random"}
"""Modules of the standard library whose objects no other thread or process changes; queues, locks and pools are not."""


@contextmanager
def preserved_contents(*roots: Any) -> Iterator[None]:
    """Put back what is reachable from ``roots``: attributes, containers, small arrays, closures, file positions.

    Only what has changed is written to. Networks that Lightning trains, trainers and their callbacks are not touched.
    """
    restore = [put_back for item in reachable(*roots, arrays=True, skip=_is_foreign) for put_back in _restorers(item)]
    try:
        yield
    finally:
        for put_back in reversed(restore):
            with suppress(Exception):  # what cannot be written to has hardly been changed
                put_back()


def iterators(*roots: Any) -> list[str]:
    """Names of attributes that hold an iterator: a read moves it on, and nothing can move it back."""
    found = []
    for item in reachable(*roots, skip=_is_foreign):
        for name, value in (vars(item) if hasattr(item, "__dict__") and not isinstance(item, type) else {}).items():
            if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
                found.append(f"{type(item).__name__}.{name}")
    return found


def _is_foreign(item: Any) -> bool:
    """Whether an object is no part of a data set, or has a life of its own."""
    packages = set(map(package_of, type(item).__mro__))
    if packages & {"lightning", "pytorch_lightning", "convscope"}:
        return not any(kind.__name__ == "LightningDataModule" for kind in type(item).__mro__)
    if type(item).__name__.endswith("DataLoaderIter"):
        return True
    own = package_of(type(item))
    return own in sys.stdlib_module_names and own not in _PASSIVE and not _is_shared_value(item)


def _is_shared_value(item: Any) -> bool:
    """``multiprocessing.Value`` and ``Array``, and the ctypes objects inside them."""
    return type(item).__module__ in ("multiprocessing.sharedctypes", "ctypes") or isinstance(item, ctypes._SimpleCData)


def _restorers(item: Any) -> Iterator[Callable[[], None]]:
    """What puts one object back; nothing for what holds nothing."""
    if isinstance(item, list | deque | bytearray):
        yield partial(_restore_sequence, item, item.copy())
    elif isinstance(item, dict):
        yield partial(_restore_dict, item, dict(item))
    elif isinstance(item, set):
        yield partial(_restore_set, item, set(item))
    elif isinstance(item, np.ndarray) and item.dtype != object and item.nbytes <= _MOST_BYTES:
        yield partial(_restore_array, item, item.copy())
    elif isinstance(item, torch.Tensor):
        yield from _of_tensor(item)
    elif isinstance(item, types.CellType):
        with suppress(ValueError):  # empty
            yield partial(setattr, item, "cell_contents", item.cell_contents)
    elif isinstance(item, io.IOBase):
        with suppress(Exception):
            yield partial(item.seek, item.tell())
    elif isinstance(item, ctypes._SimpleCData | ctypes.Array | ctypes.Structure):
        yield partial(ctypes.memmove, ctypes.addressof(item), bytes(item), ctypes.sizeof(item))
    yield from _of_names(item)


def _of_names(item: Any) -> Iterator[Callable[[], None]]:
    """Attributes of an object, of the user's classes and functions, and global variables that the latter name."""
    if isinstance(item, type):
        for name, value in vars(item).items():
            if _is_plain(value) and not name.startswith("__"):
                yield partial(_restore_attribute, item, name, value)
    elif isinstance(item, types.FunctionType) and not is_library(item):
        yield partial(_restore_dict, vars(item), dict(vars(item)))
        yield partial(item.__globals__.update, {k: v for k, v in named_globals(item).items() if _is_plain(v)})
    elif hasattr(item, "__dict__") and not isinstance(
        item, types.FunctionType | types.MethodType | types.BuiltinFunctionType
    ):
        yield partial(_restore_dict, vars(item), dict(vars(item)))
    for name in slot_names(item):
        with suppress(AttributeError):
            yield partial(_restore_attribute, item, name, getattr(item, name))


def _restore_attribute(owner: Any, name: str, value: Any) -> None:
    if getattr(owner, name, None) is not value:
        setattr(owner, name, value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, int | float | complex | str | bytes | tuple | frozenset)


def _of_tensor(tensor: torch.Tensor) -> Iterator[Callable[[], None]]:
    if tensor.is_inference() or tensor.layout != torch.strided or tensor.is_meta:
        return
    if tensor.numel() * tensor.element_size() <= _MOST_BYTES:
        yield partial(_restore_tensor, tensor, tensor.detach().clone(), tensor._version)


def _restore_sequence(now: Any, before: Any) -> None:
    if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
        now.clear()
        now.extend(before)


def _restore_dict(now: dict[Any, Any], before: dict[Any, Any]) -> None:
    if list(now) != list(before) or any(now[key] is not value for key, value in before.items()):
        now.clear()
        now.update(before)


def _restore_set(now: set[Any], before: set[Any]) -> None:
    if now != before:
        now.clear()
        now.update(before)


def _restore_array(now: np.ndarray, before: np.ndarray) -> None:
    if now.tobytes() != before.tobytes():
        now[...] = before


def _restore_tensor(now: torch.Tensor, before: torch.Tensor, version: int) -> None:
    if now._version != version or not torch.equal(now, before):
        now.detach().copy_(before)
