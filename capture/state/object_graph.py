"""Walk through the objects that an object holds: attributes, containers, closures, names in the user's own code."""

from __future__ import annotations

import sys
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

MOST = 10_000
"""Most objects visited: deeper ones are data."""

_BREADTH = 100

_LIBRARIES = {"torch", "torchvision", "torchaudio", "numpy", "lightning", "pytorch_lightning", "lightning_utilities"}
_LIBRARIES |= {"convscope", "torchmetrics", "scipy", "pandas", "sklearn", "PIL", "cv2", "pytest", "_pytest"}
# A module knows its trainer, and that its loggers: without these the walk would end among their clients' classes.
_LIBRARIES |= {"wandb", "mlflow", "comet_ml", "neptune", "pydantic", "pydantic_core", "sqlalchemy", "tensorboard"}

_SCALARS = (str, bytes, int, float, complex, bool, type(None), np.generic, torch.dtype, torch.device, types.ModuleType)
_EXACTLY = frozenset(_SCALARS)  # most parts are of these types: found without a look at what they inherit from

ARRAYS = (torch.Tensor, np.ndarray)


def reachable(*roots: Any, arrays: bool = False, skip: Callable[[Any], bool] = lambda item: False) -> Iterator[Any]:
    """Every object that is reachable from ``roots``, nearest first, each once.

    Args:
        arrays: Include tensors and arrays.
        skip: Predicate of objects to leave out, together with everything that they hold.
    """
    queue, seen, kept = deque(roots), set[int](), list[Any]()
    left_out = _SCALARS if arrays else (*_SCALARS, *ARRAYS)
    while queue and len(seen) < MOST:
        item = queue.popleft()
        if type(item) in _EXACTLY or id(item) in seen or isinstance(item, left_out):
            continue
        if (isinstance(item, type) and is_library(item)) or skip(item):
            continue
        seen.add(id(item))
        kept.append(item)  # kept alive, so that no identity is used twice
        yield item
        with suppress(Exception):  # stand-ins of libraries raise whatever is asked of them; parts before that count
            queue.extend(_parts(item))


def is_library(item: Any) -> bool:
    """Return whether a class or function belongs to Python or a known library, so it keeps no state of the user's."""
    package = package_of(item)
    return package in _LIBRARIES or (package in sys.stdlib_module_names and package != "__main__")


def package_of(item: Any) -> str:
    """The top-level package in which a class or function is defined."""
    module = getattr(item, "__module__", None)  # in some compiled classes it is a descriptor
    return module.partition(".")[0] if isinstance(module, str) else ""


def named_globals(function: types.FunctionType) -> dict[str, Any]:
    """Global variables that a function's code names, except modules."""
    names = _names(function.__code__)
    found = {name: function.__globals__[name] for name in names if name in function.__globals__}
    return {name: value for name, value in found.items() if not isinstance(value, types.ModuleType)}


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _parts(item: Any) -> Iterator[Any]:
    """Objects that an object holds, up to a limit: the rest of a list of a million paths does not matter here."""
    if isinstance(item, Mapping):
        yield from list(item.values())[:_BREADTH]
    elif isinstance(item, list | tuple | set | frozenset | deque):
        yield from list(item)[:_BREADTH]
    elif isinstance(item, types.MethodType):
        yield from (item.__self__, item.__func__)
    elif isinstance(item, types.BuiltinFunctionType):
        yield item.__self__  # a method of a generator, or else a module
    elif isinstance(item, types.CellType):
        yield from _filling(item)
    elif isinstance(item, types.FunctionType):
        yield from item.__closure__ or ()
        yield from item.__defaults__ or ()
        yield from (item.__kwdefaults__ or {}).values()
        yield from () if is_library(item) else named_globals(item).values()
    elif isinstance(item, type):
        yield from (_function(value) for value in vars(item).values())
    elif not isinstance(item, ARRAYS):
        yield from _attributes(item)
        yield from type(item).__mro__


def _attributes(item: Any) -> Iterator[Any]:
    yield from list(vars(item).values()) if hasattr(item, "__dict__") else ()
    for name in slot_names(item):
        with suppress(AttributeError):  # not filled
            yield getattr(item, name)
    if isinstance(item, partial):
        yield from (item.func, item.args, item.keywords)


def slot_names(item: Any) -> tuple[str, ...]:
    """Names of attributes in ``__slots__`` of the user's objects."""
    return () if isinstance(item, type) else _slots_of(type(item))


def _find_slots(kind: type) -> tuple[str, ...]:
    slots = [c.__dict__.get("__slots__", ()) for c in kind.__mro__ if not is_library(c)]
    names = [name for found in slots for name in ((found,) if isinstance(found, str) else found)]
    return tuple(name for name in names if not name.startswith("__"))


_slots_of: Callable[[type], tuple[str, ...]] = lru_cache(maxsize=4096)(_find_slots)


def _function(value: Any) -> Any:
    """The function of a static method, class method, property or anything else that wraps one."""
    for name in ("__func__", "fget", "__wrapped__"):
        value = getattr(value, name, value)
    return value


def _filling(cell: types.CellType) -> Iterator[Any]:
    try:
        yield cell.cell_contents
    except ValueError:  # empty
        return
