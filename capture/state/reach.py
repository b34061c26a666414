"""Reach of a snapshot: the objects that belong to a network's state, and those that are not walked into."""

from __future__ import annotations

import contextvars
import functools
import io
import random
import sys
import types
from collections.abc import Callable, Collection
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

ATOMS = frozenset(
    (str, bytes, int, float, complex, bool, type(None), range, slice, types.ModuleType, types.BuiltinFunctionType,
     types.EllipsisType, types.NotImplementedType, torch.dtype, torch.device, torch.Size)
)  # fmt: skip
"""Types whose values cannot change: keeping a reference keeps the value."""

_WRITERS = frozenset(("wandb", "mlflow", "comet_ml", "neptune", "aim", "clearml", "tensorboard", "tensorboardX"))
_LIGHTNING = frozenset(("lightning", "pytorch_lightning", "lightning_fabric"))
_LIBRARIES = _LIGHTNING | _WRITERS | sys.stdlib_module_names | {"torch", "torchmetrics", "numpy", "convscope"}
# Plain Python objects with state in these packages; others there hold locks, files, threads or foreign state.
_STANDARD = frozenset(
    ("builtins", "abc", "typing", "collections", "types", "argparse", "dataclasses", "functools", "queue", "weakref",
     "_weakrefset", "numbers", "contextlib", "_thread", "enum")
)  # fmt: skip
_SHARED = "multiprocessing.sharedctypes"  # a Value: a number that workers see too
_OF_TORCH = ("torch.nn", "torch.ao", "torch.quasirandom", "torch.distributions")


CACHE = functools._lru_cache_wrapper
"""Type of functions wrapped by ``functools.lru_cache`` and ``cache``, whose contents cannot be read."""

T = TypeVar("T")


def _cached(function: Callable[[type], T]) -> Callable[[type], T]:
    """Cache of a function of a type; the answer for a type does not change."""
    return functools.lru_cache(maxsize=4096)(function)


@_cached
def is_state(kind: type) -> bool:
    """Return whether an object of this type may hold a network's state.

    A Trainer, its parts, loggers, data sets, loaders, optimizers, threads, files and torch's own machinery do not; a
    user's own object does, and so does a user's own callback that a hook belongs to.
    """
    if issubclass(kind, nn.Module):
        return _root(kind) != "convscope"
    if issubclass(kind, type) or (_root(kind) in ("builtins", "itertools") and hasattr(kind, "__next__")):
        return False
    return all(map(_is_plain, kind.__mro__)) and _root(kind) not in _LIGHTNING


def _is_plain(kind: type) -> bool:
    root = _root(kind)
    if root == "torch":
        return kind.__module__.startswith(_OF_TORCH)
    if root in _LIGHTNING:
        return kind.__name__ == "Callback"
    return root in _STANDARD or kind.__module__ == _SHARED or root not in _LIBRARIES


def is_users_own(kind: type | types.FunctionType) -> bool:
    """Return whether a class or function comes from the user or a library of networks, not from torch or Python."""
    return _root(kind) not in _LIBRARIES


@_cached
def is_writer(kind: type) -> bool:
    """Return whether objects of this type send values out of the process: a SummaryWriter, an experiment, a logger."""
    return any(
        _root(c) in _WRITERS
        or c.__module__.startswith("torch.utils.tensorboard")
        or (_root(c) in _LIGHTNING and ".loggers" in c.__module__)
        for c in kind.__mro__
    )


def _root(kind: type | types.FunctionType) -> str:
    return str(getattr(kind, "__module__", None) or "").split(".")[0]


def is_generator(item: Any) -> bool:
    """Return whether it is a random generator, or a seed sequence."""
    numpys = np.random.Generator | np.random.BitGenerator | np.random.RandomState | np.random.SeedSequence
    return isinstance(item, torch.Generator | random.Random | numpys)


def is_iterator(item: Any) -> bool:
    """Return whether it is an iterator, not of a user's class: only a copy can keep its position, if at all."""
    return may_need_stand_in(type(item)) and hasattr(type(item), "__next__")


@_cached
def may_need_stand_in(kind: type) -> bool:
    """Return whether some objects of this type cannot be restored in place, or are immutable and hold such objects."""
    iterates = hasattr(kind, "__next__") and not is_state(kind) and not issubclass(kind, io.StringIO | io.BytesIO)
    return iterates or issubclass(kind, torch.Tensor | tuple | CACHE) or is_writer(kind)


def is_managed_elsewhere(model: nn.Module) -> bool:
    """Return whether parameters are managed by another library: FullyShardedDataParallel or DeepSpeed."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", ())
    sharded = any(isinstance(module, kind) for module in model.modules())
    return sharded or any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def can_change(values: Collection[Any], most: int) -> list[Any]:
    """The first ``most`` values that can change. For a list of a million numbers only its types are read."""
    if set(map(type, values)) <= ATOMS:
        return []
    return list(islice((value for value in values if type(value) not in ATOMS), most))


def slots_of(item: Any) -> list[tuple[Callable[..., None], Callable[..., None], Any]]:
    """Each slot's setter, deleter and value; a sentinel if it is empty."""
    members = _members(type(item))
    return [
        (functools.partial(m.__set__, item), functools.partial(m.__delete__, item), _slot(m, item)) for m in members
    ]


@_cached
def _members(kind: type) -> list[types.MemberDescriptorType]:
    return [
        member
        for c in users_classes(kind)
        for member in vars(c).values()
        if isinstance(member, types.MemberDescriptorType)
    ]


EMPTY = object()
"""Content of an empty slot or cell."""


def _slot(member: types.MemberDescriptorType, item: Any) -> Any:
    try:
        return member.__get__(item)
    except AttributeError:
        return EMPTY


def cell_content(cell: types.CellType) -> Any:
    """Content of a closure's variable."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def variable_value(variable: contextvars.ContextVar[Any]) -> Any:
    """Value of a context variable in this context."""
    try:
        return variable.get()
    except LookupError:
        return EMPTY


@_cached
def users_classes(kind: type) -> tuple[type, ...]:
    """The user's classes among an object's classes."""
    return tuple(c for c in kind.__mro__ if is_users_own(c))


def class_values(kind: type) -> dict[str, Any]:
    """Attributes of a class: counters and lists that all its objects share, and its methods."""
    return {name: value for name, value in vars(kind).items() if not name.startswith("__")}


_WRAPPERS: dict[type, tuple[str, ...]] = {
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset", "fdel"),
    functools.cached_property: ("func",),
    functools.partialmethod: ("func",),
    CACHE: ("__wrapped__",),
}


def class_functions(kind: type) -> list[types.FunctionType]:
    """A class's methods and the functions of its properties, as the user wrote them."""
    values = list(vars(kind).values())
    values += [getattr(value, name) for value in values for name in _WRAPPERS.get(type(value), ())]
    return [value for value in values if isinstance(value, types.FunctionType) and is_users_own(value)]
