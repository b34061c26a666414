"""Restoring of containers and objects in place, by kind; unchanged ones are not written."""

from __future__ import annotations

import contextvars
import ctypes
import types
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from convscope.capture.state.reach import EMPTY, cell_content, variable_value


def same(one: Any, other: Any) -> bool:
    """Return whether two names are of one object."""
    return one is other


def put_back_dict(base: Any, item: Any, saved: dict[Any, Any]) -> None:
    """Restore keys, values and their order."""
    if len(item) == len(saved) and all(map(same, base.values(item), saved.values())) and all(map(same, item, saved)):
        return
    for key in [key for key in base.keys(item) if key not in saved]:
        base.__delitem__(item, key)
    for key, value in saved.items():
        base.__setitem__(item, key, value)
    if not all(map(same, base.keys(item), saved)):  # the order is that of state_dict() and parameters()
        base.clear(item)
        for key, value in saved.items():
            base.__setitem__(item, key, value)


def put_back_deque(item: deque[Any], saved: list[Any]) -> None:
    """Restore items, and keep the maximum length."""
    if len(item) != len(saved) or not all(map(same, item, saved)):
        deque.clear(item)
        deque.extend(item, saved)


def put_back_set(item: set[Any], saved: set[Any]) -> None:
    """Members."""
    if len(item) != len(saved) or not all(value in saved for value in item):
        set.clear(item)
        set.update(item, saved)


def put_back_bytes(item: Any, saved: Any) -> None:
    """Restore contents of a bytearray or array."""
    if bytes(item) != bytes(saved):
        item[:] = saved


def put_back_shared(item: Any, saved: bytes) -> None:
    """Restore a ctypes value's memory."""
    if bytes(item) != saved:
        ctypes.memmove(ctypes.addressof(item), saved, len(saved))


def put_back_memory_file(item: Any, saved: Any, place: int) -> None:
    """Restore contents and position of a ``StringIO`` or ``BytesIO``."""
    if item.getvalue() != saved:
        item.seek(0)
        item.truncate()
        item.write(saved)
    item.seek(place)


def put_back_array(item: Any, saved: Any) -> None:
    """Restore a NumPy array's shape and bits."""
    if item.shape != saved.shape:
        item.resize(saved.shape, refcheck=False)
    if item.dtype.hasobject or item.tobytes() != saved.tobytes():
        item[...] = saved


def put_back_cell(cell: types.CellType, content: Any) -> None:
    """Restore a closure's variable, or leave it empty if it was."""
    if content is not EMPTY and cell_content(cell) is not content:
        cell.cell_contents = content
    elif content is EMPTY and cell_content(cell) is not EMPTY:
        del cell.cell_contents


def put_back_variable(variable: contextvars.ContextVar[Any], value: Any) -> None:
    """Restore a context variable in this context, where it cannot be made empty again."""
    if variable_value(variable) is value:
        return
    if value is EMPTY:
        raise RuntimeError(f"{variable.name} had no value; give it a default")
    variable.set(value)


def put_back_slot(write: Callable[[Any], None], delete: Callable[[], None], value: Any) -> None:
    """Restore a slot, or leave it empty if it was."""
    if value is not EMPTY:
        write(value)
        return
    with suppress(AttributeError):  # still empty
        delete()


def put_back_script(script: Any, name: str, value: Any) -> None:
    """Restore an attribute of a TorchScript module."""
    now = script.getattr(name)
    if now is not value and (isinstance(value, torch.Tensor) or now != value):
        script.setattr(name, value)


def put_back_class(item: Any, kind: type) -> None:
    """Restore an object's own class: a lazy module becomes a plain one in its first forward."""
    if type(item) is not kind:
        item.__class__ = kind


def put_back_class_values(owner: type, saved: dict[str, Any]) -> None:
    """Restore attributes of a class itself."""
    now = dict(vars(owner))
    for name in now:
        if name not in saved and not name.startswith("__"):
            type.__delattr__(owner, name)
    for name, value in saved.items():
        if now.get(name, EMPTY) is not value:
            type.__setattr__(owner, name, value)
