"""Snapshot of everything that a forward can change in a network, restored in place afterwards.

The walk starts at every module and goes through attributes, containers, users' own objects, hooks and their closures.
Each object is restored itself, never replaced by a copy, so that shared objects stay shared. Objects that cannot be
restored (tensors of inference mode, of training's own graph, iterators, caches, writers) have a stand-in during the
block.

Out of reach: globals of a Python module, closures of methods, and everything outside the process.
"""

from __future__ import annotations

import array
import contextlib
import contextvars
import ctypes
import gc
import io
import logging
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from convscope.capture.looks import Looks
from convscope.capture.state import put_back
from convscope.capture.state.generators import restorer
from convscope.capture.state.reach import (
    ATOMS,
    can_change,
    cell_content,
    class_functions,
    class_values,
    is_generator,
    is_managed_elsewhere,
    is_state,
    is_users_own,
    may_need_stand_in,
    slots_of,
    users_classes,
    variable_value,
)
from convscope.capture.state.stand_ins import StandIns, named, say_once
from convscope.capture.state.tensor_state import Bits, TensorState, dense_parts

log = logging.getLogger("convscope")

MOST_OBJECTS = 50_000
"""Most containers and objects in one snapshot, modules not counted."""


@contextmanager
def preserved_state(model: nn.Module) -> Iterator[None]:
    """Restore, at the end of the block, everything that a forward of ``model`` can change in it, however it ends.

    Costs one copy of the model's parameters, buffers, gradients and other tensors while the block runs.
    """
    sharded = _reshard(model)
    with torch.no_grad(), torch._C.DisableTorchFunctionSubclass(), _without_collections():
        snapshot = NetworkSnapshot(model)
    try:
        snapshot.install()
        yield
    finally:
        for module in sharded:
            _attempt(module.reshard, "resharding the parameters")
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            snapshot.restore()


@contextmanager
def _without_collections() -> Iterator[None]:
    """A block that makes many objects that stay: to look for garbage among them takes longer than the block itself."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _reshard(model: nn.Module) -> list[Any]:
    """FSDP2's modules, their parameters split again: the whole ones exist only during a forward and own no bits."""
    modules: list[Any] = [module for module in model.modules() if hasattr(module, "_get_fsdp_state")]
    for module in modules:
        module.reshard()
    return modules


class NetworkSnapshot:
    """The state of a model, with the way to restore it."""

    def __init__(self, model: nn.Module) -> None:
        self._undo: list[tuple[Callable[[], Any], Any]] = []
        self._stand_ins: list[Callable[[], Any]] = []
        self._substitutes = StandIns()
        self._tensors: list[TensorState] = []
        self._bits: dict[tuple[Any, ...], Bits] = {}
        self._seen: set[int] = set()
        self._keep: list[Any] = []  # an id is unique only while its object lives
        self._queue: deque[Any] = deque()
        self._walk(model)

    def install(self) -> None:
        """Put the stand-ins in their places."""
        for place in self._stand_ins:
            place()

    def restore(self) -> None:
        """Restore everything; a failure is logged, and everything else is still restored."""
        # Restored in reverse order. Versions come last, since each write before them raises one.
        for action, item in reversed(self._undo):
            _attempt(action, item)
        for state in self._tensors:
            _attempt(state.restore, state.tensor)
        looks = Looks()
        for bits in self._bits.values():
            _attempt(partial(_restore_bits, bits, looks), "a tensor")
        _attempt(looks.answer, "a tensor")
        for state in self._tensors:
            _attempt(state.restore_version, state.tensor)

    def _walk(self, model: nn.Module) -> None:
        modules: list[Any] = list(model.modules())
        if is_managed_elsewhere(model):
            modules = [module._buffers for module in modules]
            say_once(
                f"the parameters of {type(model).__name__} are split and gathered by FullyShardedDataParallel or "
                "DeepSpeed, so only buffers are put back after a check if its forward changes its state; with "
                "fully_shard (FSDP2) everything is"
            )
        hooks = [value for name, value in vars(nn.modules.module).items() if name.startswith("_global_")]
        own = [vars(module) for module in modules if isinstance(module, nn.Module)]
        registered = [values.get(name) for values in own for name in ("_parameters", "_buffers", "_modules")]
        tensors = [tensor for values in registered for tensor in (values or {}).values()]
        for item in [*modules, *own, *registered, *tensors, *hooks]:  # before objects that could use up the bound
            self._visit(item)
        most = len(self._seen) + MOST_OBJECTS
        while self._queue:
            if len(self._seen) >= most:
                say_once(
                    f"{type(model).__name__} holds more than {MOST_OBJECTS} objects in its attributes: those beyond "
                    "are not put back after a check, which is harmless if the forward changes none of them"
                )
                return
            self._visit(self._queue.popleft())

    def _visit(self, item: Any) -> None:
        if type(item) in ATOMS or id(item) in self._seen:
            return
        self._seen.add(id(item))
        self._keep.append(item)
        try:
            self._look_at(item)
        except Exception as error:
            say_once(f"{named(item)} cannot be kept for a check ({type(error).__name__}: {error})")

    def _look_at(self, item: Any) -> None:
        if isinstance(item, contextlib._GeneratorContextManagerBase):
            # A decorator made of a `contextmanager`: each call makes a generator of its own, and this one never runs.
            self._later((item.args, item.kwds))
            return
        for kinds, keep in _KEEPERS:
            if isinstance(item, kinds):
                keep(self, item)
                break
        else:
            if is_generator(item):
                self._undo.append((restorer(item), item))
                return
        if type(item).__module__ != "builtins" and is_state(type(item)):
            self._object(item)

    def _add(self, action: Callable[[], Any], item: Any, children: Any = ()) -> None:
        self._undo.append((action, item))
        self._later(children)

    def _later(self, children: Any) -> None:
        self._queue.extend(can_change(children, MOST_OBJECTS))

    # Containers: each is emptied and refilled only if it changed.

    def _dict(self, item: dict[Any, Any]) -> None:
        base: Any = OrderedDict if isinstance(item, OrderedDict) else dict
        saved = dict(base.items(item))
        self._undo.append((partial(put_back.put_back_dict, base, item, saved), item))
        if not saved:  # as are most of a module's dictionaries of hooks
            return
        self._later(base.values(item))
        self._later(saved)
        self._substitute_items(partial(base.__setitem__, item), saved.items(), saved.values())

    def _list(self, item: list[Any]) -> None:
        saved = list.copy(item)
        self._add(partial(list.__setitem__, item, slice(None), saved), item, saved)
        self._substitute_items(partial(list.__setitem__, item), enumerate(saved), saved)

    def _deque(self, item: deque[Any]) -> None:
        saved = list(item)
        self._add(partial(put_back.put_back_deque, item, saved), item, saved)
        self._substitute_items(partial(deque.__setitem__, item), enumerate(saved), saved)

    def _set(self, item: set[Any]) -> None:
        saved = set.copy(item)
        self._add(partial(put_back.put_back_set, item, saved), item, saved)

    def _bytes(self, item: Any) -> None:
        self._add(partial(put_back.put_back_bytes, item, item[:]), item)

    def _shared(self, item: Any) -> None:
        self._add(partial(put_back.put_back_shared, item, bytes(item)), item)

    def _view(self, item: memoryview) -> None:
        self._later([item.obj])

    def _memory_file(self, item: Any) -> None:
        saved, place = item.getvalue(), item.tell()
        self._add(partial(put_back.put_back_memory_file, item, saved, place), item)

    def _variable(self, item: contextvars.ContextVar[Any]) -> None:
        value = variable_value(item)
        self._add(partial(put_back.put_back_variable, item, value), item, [value])

    def _fixed(self, item: Any) -> None:
        self._later(item)

    def _mapping(self, item: types.MappingProxyType[Any, Any]) -> None:
        self._later(item.values())

    # Functions: those that hooks and attributes hold, with their closures, and those of classes, without closures.

    def _method(self, item: types.MethodType) -> None:
        self._queue.extend((item.__self__, item.__func__))

    def _partial(self, item: partial[Any]) -> None:
        self._later((item.func, *item.args, item.keywords))

    def _function(self, item: types.FunctionType) -> None:
        if is_users_own(item):
            self._later(item.__closure__ or ())
            self._later(_outliving(item))

    def _cell(self, cell: types.CellType) -> None:
        content = cell_content(cell)
        self._add(partial(put_back.put_back_cell, cell, content), cell, [content])
        self._substitute(partial(setattr, cell, "cell_contents"), content)

    # Tensors, arrays and objects.

    def _tensor(self, item: torch.Tensor) -> None:
        state = TensorState(item)
        self._tensors.append(state)
        for part in dense_parts(item):
            key = Bits.key(part)
            if key not in self._bits:
                self._bits[key] = Bits(part)
        self._later([state.grad, *(hooks for _, hooks in state.hooks)])
        self._later([getattr(item, "__dict__", None)])

    def _storage(self, item: torch.UntypedStorage | torch.TypedStorage) -> None:
        storage = item._untyped_storage if isinstance(item, torch.TypedStorage) else item
        self._later([torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)])

    def _array(self, item: np.ndarray[Any, Any]) -> None:
        if item.flags.writeable:
            held = item.ravel().tolist() if item.dtype.hasobject else ()
            self._add(partial(put_back.put_back_array, item, item.copy()), item, held)

    def _object(self, item: Any) -> None:
        kind = type(item)
        if hasattr(item, "__dict__"):
            self._undo.append((partial(put_back.put_back_class, item, kind), item))
            self._queue.append(vars(item))
        for write, delete, value in slots_of(item):
            self._add(partial(put_back.put_back_slot, write, delete, value), item, [value])
            self._substitute(write, value)
        if isinstance(item, torch.jit.ScriptModule):
            self._script(item)
        for owner in users_classes(kind):
            self._visit(owner)

    def _script(self, item: Any) -> None:
        """Save attributes of a TorchScript module, which returns tensors themselves and everything else as copies."""
        declared = item._concrete_type.get_attributes() if hasattr(item, "_concrete_type") else ()
        names = {*declared, *(name for name, _ in item.named_buffers(recurse=False))} - {"training"}
        for name in sorted(names):
            value = item._c.getattr(name)
            self._add(partial(put_back.put_back_script, item._c, name, value), item, [value])
        self._later(list(item.parameters(recurse=False)))

    def _class(self, owner: type) -> None:
        if not is_users_own(owner):
            return
        for kind in (*owner.__mro__[1:], *type.mro(type(owner))):  # a metaclass keeps values too
            self._visit(kind)
        values = class_values(owner)
        # A user's own descriptor keeps values for all objects; Python's own (methods, slots, properties) keep none.
        data = [value for value in values.values() if not hasattr(type(value), "__get__") or is_state(type(value))]
        self._add(partial(put_back.put_back_class_values, owner, values), owner, data)
        for function in class_functions(owner):
            self._later(_outliving(function))
        self._substitute_items(partial(type.__setattr__, owner), values.items(), list(values.values()))

    # Stand-ins.

    def _substitute_items(self, place: Callable[[Any, Any], Any], items: Any, values: Any) -> None:
        kinds = set(filter(may_need_stand_in, set(map(type, values))))
        for key, value in islice(items, MOST_OBJECTS) if kinds else ():
            if type(value) in kinds:
                self._substitute(partial(place, key), value)

    def _substitute(self, place: Callable[[Any], Any], value: Any) -> None:
        other = self._substitutes.of(value) if may_need_stand_in(type(value)) else value
        if other is not value:
            self._stand_ins.append(partial(place, other))


_KEEPERS: tuple[tuple[Any, Callable[[NetworkSnapshot, Any], None]], ...] = (
    (torch.Tensor, NetworkSnapshot._tensor),
    (dict, NetworkSnapshot._dict),
    (list, NetworkSnapshot._list),
    (tuple | frozenset, NetworkSnapshot._fixed),
    (set, NetworkSnapshot._set),
    (deque, NetworkSnapshot._deque),
    (bytearray | array.array, NetworkSnapshot._bytes),
    (ctypes._SimpleCData | ctypes.Array | ctypes.Structure, NetworkSnapshot._shared),
    (torch.UntypedStorage | torch.TypedStorage, NetworkSnapshot._storage),
    (np.ndarray, NetworkSnapshot._array),
    (memoryview, NetworkSnapshot._view),
    (contextvars.ContextVar, NetworkSnapshot._variable),
    (types.MappingProxyType, NetworkSnapshot._mapping),
    (types.MethodType, NetworkSnapshot._method),
    (types.FunctionType, NetworkSnapshot._function),
    (types.CellType, NetworkSnapshot._cell),
    (partial, NetworkSnapshot._partial),
    (type, NetworkSnapshot._class),
    (io.StringIO | io.BytesIO, NetworkSnapshot._memory_file),
)


def _outliving(function: types.FunctionType) -> list[Any]:
    """State that a function keeps between calls beside its closure: mutable defaults, attributes of its own."""
    return [*(function.__defaults__ or ()), function.__kwdefaults__, vars(function)]


def _restore_bits(bits: Bits, looks: Looks) -> None:
    """Write a tensor's bits back if they differ: unchanged ones are not written."""
    looks.ask(bits.differs(), lambda changed: _attempt(bits.write_back, "a tensor") if changed else None)


def _attempt(action: Callable[[], Any], item: Any) -> None:
    try:
        action()
    except Exception as error:
        log.error(
            "convscope: %s could not be put back after a check (%s: %s); training may differ from here on",
            named(item), type(error).__name__, error, exc_info=error,
        )  # fmt: skip
