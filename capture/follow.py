"""Follow a forward pass: one event for every module and every torch function that runs in it.

Module hooks alone miss functional activations (``F.relu``); a ``TorchFunctionMode`` alone cannot name what it
sees. Both together give each operation a key that stays the same from pass to pass: the module it ran in, what
it was, and the how-manieth time. The trace and the observed pass use this one follower, so that what was planned
on one sample is found again in every chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from convscope.capture.modules import (
    Kind,
    function_kind,
    function_name,
    module_kind,
    named_modules,
    tensors_in,
)

MODULE = "forward"
"""Operation name of a module call in an :class:`EventKey`."""


class EventKey(NamedTuple):
    """Which operation of a forward pass: the n-th ``operation`` that ran directly in module ``owner``."""

    owner: str
    operation: str
    call: int


class Event(NamedTuple):
    """One operation that has just run. ``opaque`` modules (conv, norm, activation) hide what runs inside them."""

    key: EventKey
    kind: Kind
    module: nn.Module | None
    inputs: list[torch.Tensor]
    output: Any


OnEvent = Callable[[Event], Any]
"""Called after each operation; a value other than None takes the place of the operation's output."""


@contextmanager
def follow(model: nn.Module, on_event: OnEvent) -> Iterator[None]:
    """Within the block, call ``on_event`` for every operation of ``model``. Nothing is left on the model after it."""
    follower = _Follower(on_event)
    handles = []
    try:
        for name, module in named_modules(model):
            handles += follower.attach(name, module)
        with follower:
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Follower(TorchFunctionMode):
    def __init__(self, on_event: OnEvent) -> None:
        super().__init__()
        self._on_event = on_event
        self._stack: list[tuple[str, bool]] = []  # modules that are running, and whether each hides its inside
        self._calls: Counter[tuple[str, str]] = Counter()
        self._reporting = False

    def attach(self, name: str, module: nn.Module) -> list[Any]:
        kind = module_kind(module)

        def enter(_: nn.Module, args: Any) -> None:
            self._stack.append((name, self._hidden or kind != "other"))

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            while self._stack and self._stack.pop()[0] != name:  # a forward that raised left its entry
                pass
            if self._hidden:
                return None
            return self._report(name, MODULE, kind, module, (args, kwargs), output)

        return [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave, with_kwargs=True),
        ]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self._reporting or self._hidden or next(tensors_in(output), None) is None:
            return output
        owner = self._stack[-1][0] if self._stack else ""
        replaced = self._report(owner, function_name(func), function_kind(func), None, (args, kwargs), output)
        return output if replaced is None else replaced

    @property
    def _hidden(self) -> bool:
        return bool(self._stack) and self._stack[-1][1]

    def _report(
        self, owner: str, operation: str, kind: Kind, module: nn.Module | None, inputs: Any, output: Any
    ) -> Any:
        self._calls[owner, operation] += 1
        key = EventKey(owner, operation, self._calls[owner, operation])
        self._reporting = True  # what on_event computes is no part of the pass
        try:
            return self._on_event(Event(key, kind, module, list(tensors_in(inputs)), output))
        finally:
            self._reporting = False
