"""Follow a forward pass: one event for every module and every torch function that runs in it.

Module hooks alone miss functional activations (``F.relu``); a ``TorchFunctionMode`` alone cannot name what it
sees. Both together give each operation a key that stays the same from pass to pass: the module it ran in,
which operation it was, and its call number. The trace and the observed pass use this one
follower, so that layers planned on one sample are found again in every chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from convscope.capture.data.batches import tree_map
from convscope.capture.network.modules import (
    Kind,
    followed_modules,
    function_kind,
    function_name,
    module_kind,
    tensors_in,
)

MODULE = "forward"
"""Operation name of a module call in an :class:`EventKey`."""


class EventKey(NamedTuple):
    """Key of an operation of a forward pass: the n-th ``operation`` that ran directly in module ``owner``."""

    owner: str
    operation: str
    call: int


CallPath = tuple[tuple[str, int], ...]
"""The modules that an operation ran in, from the outermost on, each with its call number."""


class Event(NamedTuple):
    """One operation that has just run. ``opaque`` modules (conv, norm, activation) hide what runs inside them."""

    key: EventKey
    kind: Kind
    module: nn.Module | None
    inputs: list[torch.Tensor]
    output: Any
    path: CallPath = ()


OnEvent = Callable[[Event], Any]
"""Function called after each operation; a result other than None replaces the operation's output."""


class Calls(Counter[tuple[str, str]]):
    """Number of calls of each ``(owner, operation)``.

    Attributes:
        transformed: Modules that ran inside a transform of functorch, out of sight.
    """

    def __init__(self) -> None:
        super().__init__()
        self.transformed: dict[str, nn.Module] = {}


@contextmanager
def follow(model: nn.Module, on_event: OnEvent) -> Iterator[Calls]:
    """Call ``on_event`` for every operation of ``model`` within the block. Nothing stays on the model after it.

    Yields:
        Number of calls of each operation so far.
    """
    following = Following(model, on_event)
    try:
        yield following.calls
    finally:
        following.close()


class Following:
    """What :func:`follow` does, where a block cannot enclose it: from here to :meth:`close`.

    Args:
        model: The network.
        on_event: Receiver of the events.
        entered: The module of it whose call is already under way, where this begins in a hook before its forward.
    """

    def __init__(self, model: nn.Module, on_event: OnEvent, entered: nn.Module | None = None) -> None:
        self._follower = _Follower(on_event)
        self._handles: list[Any] = []
        self._on = False
        try:
            for name, module in followed_modules(model):
                self._handles += self._follower.attach(name, module)
                if module is entered:
                    self._follower.enter(name, module)
            self._follower.__enter__()  # type: ignore[no-untyped-call]
            self._on = True
        except BaseException:
            self.close()
            raise

    @property
    def calls(self) -> Calls:
        """Number of calls of each operation so far."""
        return self._follower.calls

    def pause(self) -> None:
        """Intercept no more functions; hooks stay until :meth:`close`, which a hook must not call while others run."""
        if self._on:
            self._on = False
            self._follower.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """End it: nothing stays on the model."""
        self.pause()
        for handle in self._handles:
            handle.remove()


class _Frame(NamedTuple):
    """A running module, with a flag if its inside is hidden."""

    name: str
    hidden: bool
    path: CallPath


class _Follower(TorchFunctionMode):
    def __init__(self, on_event: OnEvent) -> None:
        super().__init__()
        self.calls = Calls()
        self._on_event = on_event
        self._stack: list[_Frame] = []
        self._entered: Counter[str] = Counter()

    def attach(self, name: str, module: nn.Module) -> list[Any]:
        kind = module_kind(module)

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            while self._stack and self._stack.pop().name != name:  # a child's frame that an exception left behind
                pass
            # A forward that raised has no output; inside a transform tensors do not hold the whole batch.
            if self._hidden or output is None:
                return None
            if in_transform():
                self.calls.transformed[name] = module
                return None
            return self._report(name, MODULE, kind, module, (args, kwargs), output)

        return [
            module.register_forward_pre_hook(lambda module, args: self.enter(name, module)),
            # Called after a forward that raised too: the network may catch that and go on.
            module.register_forward_hook(leave, with_kwargs=True, always_call=True),
        ]

    def enter(self, name: str, module: nn.Module) -> None:
        """Take note that a module's call begins."""
        self._entered[name] += 1
        path = (*self._path, (name, self._entered[name]))
        self._stack.append(_Frame(name, self._hidden or module_kind(module) != "other", path))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = _call(func, args, kwargs or {})
        if self._hidden or next(tensors_in(output), None) is None or in_transform():
            return output
        owner = self._stack[-1].name if self._stack else ""
        replaced = self._report(owner, function_name(func), function_kind(func), None, (args, kwargs), output)
        return output if replaced is None else replaced

    @property
    def _hidden(self) -> bool:
        return bool(self._stack) and self._stack[-1].hidden

    @property
    def _path(self) -> CallPath:
        return self._stack[-1].path if self._stack else ()

    def _report(
        self, owner: str, operation: str, kind: Kind, module: nn.Module | None, inputs: Any, output: Any
    ) -> Any:
        self.calls[owner, operation] += 1
        key = EventKey(owner, operation, self.calls[owner, operation])
        event = Event(key, kind, module, list(tensors_in(inputs)), output, self._path)
        # Computations of on_event are no part of the pass, and each call that is intercepted costs microseconds.
        with torch._C.DisableTorchFunction():
            return self._on_event(event)


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    """Run a torch function. A tensor that the network cached under inference mode is copied where a graph needs it."""
    try:
        return func(*args, **kwargs)
    except RuntimeError as error:
        if "Inference tensors cannot be saved for backward" not in str(error):
            raise
    args, kwargs = tree_map(lambda t: t.clone() if t.is_inference() else t, (args, kwargs))
    return func(*args, **kwargs)


_functorch = getattr(torch._C, "_functorch", None)
_level: Callable[[], Any] = getattr(_functorch, "maybe_current_level", lambda: None)


def in_transform() -> bool:
    """Return whether a functorch transform is running (``torch.vmap``): its tensors have no rows, storage or hooks."""
    return _level() is not None
