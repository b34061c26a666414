"""Share the beginning of several forward passes: record the results of one pass up to a layer, and reuse them.

Nothing is guessed about the network. In a later pass every operation before the layer must be the one that was
recorded, on the very tensors (or equal ones) and with equal other arguments; then its result is known without running
it. Any difference raises :class:`Deviation`, and the caller runs that pass in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from convscope.capture.network.follower import in_transform
from convscope.capture.network.modules import tensors_in

_VALUES = (
    torch.Tensor,
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)


class Deviation(Exception):
    """Raised if a pass does not begin like the recorded one, or something wrote into recorded tensors."""


class _Call(NamedTuple):
    function: Any
    arguments: Any
    output: Any
    run_again: bool


class Recorder(TorchFunctionMode):
    """Recorder of every torch function's result until :meth:`cut`.

    Attributes:
        calls: Calls before the cut, in order.
        later: Number of torch functions that ran after it.
        activation: The layer's activation at the cut.
        unusable: Reason why the recording cannot be used, ``""`` if it can.
    """

    def __init__(self, generators: Callable[[], list[torch.Generator]]) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.later = 0
        self.activation: torch.Tensor | None = None
        self.unusable = "the layer was not reached"
        self._generators, self._open = generators, True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        arguments = _copied((args, kwargs)) if self._open else None  # before it runs: a list may be written to
        output = func(*args, **kwargs)
        if not self._open:
            self.later += 1
        elif not in_transform():
            # A transform runs in every pass; its result is compared where the next operation takes it.
            self.calls.append(_Call(func, arguments, _copied(output), _must_run(arguments, output)))
        return output

    def cut(self, activation: torch.Tensor, overwritten: bool) -> torch.Tensor:
        """Keep the state right after the layer; return its activation, a copy if it will be written to."""
        self._open = False
        self.activation = activation.clone() if overwritten else activation
        try:
            self._versions = self._versions_of_all(activation if overwritten else None)
            self._put_back = _random_state(activation.device, self._generators())
            self.unusable = ""
        except Exception as error:  # tensors without versions (inference mode) or without a memory of their own
            self.unusable = str(error)
        return self.activation

    def _versions_of_all(self, rewritten: torch.Tensor | None) -> list[tuple[torch.Tensor, int]]:
        """Recorded tensors and their versions, without those that each pass overwrites completely."""
        kept = {id(t): t for call in self.calls for t in tensors_in(call.output)}.values()
        if rewritten is None:
            return [(tensor, tensor._version) for tensor in kept]
        # An in-place layer: each pass rewrites its memory from the kept copy, so its version tells nothing.
        memory = rewritten.untyped_storage()
        if memory.nbytes() != rewritten.numel() * rewritten.element_size():
            raise Deviation("the layer is written into a part of a larger tensor")
        others = [tensor for tensor in kept if tensor.untyped_storage().data_ptr() != memory.data_ptr()]
        return [(tensor, tensor._version) for tensor in others]

    def check_untouched(self) -> None:
        """Raise where a later operation wrote into a recorded tensor; the layer's own, if in place, is rewritten."""
        if any(tensor._version != version for tensor, version in self._versions):
            raise Deviation("a recorded tensor was written to")

    def restore_random_state(self) -> None:
        """Set the random streams as they were at the cut, since replayed operations draw nothing."""
        self._put_back()


class Replayer(TorchFunctionMode):
    """Mode that answers torch functions from a recording until :meth:`cut`, and runs them from there on.

    Attributes:
        deviated: The pass deviated, so it must not be used, even if the network caught the exception.
    """

    def __init__(self, recording: Recorder) -> None:
        super().__init__()
        self._recording, self._place, self._open = recording, 0, True
        self.deviated = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._open or in_transform():
            return func(*args, **kwargs)
        calls = self._recording.calls
        call = calls[self._place] if self._place < len(calls) else None
        self._place += 1
        if call is None or not _same(func, call.function) or not _same((args, kwargs), call.arguments):
            self._deviate(f"operation {self._place} is another one")
        elif call.run_again:
            return func(*args, **kwargs)
        else:
            return _copied(call.output)

    def cut(self, activation: torch.Tensor, overwritten: bool) -> torch.Tensor:
        """Run everything from the layer on; return its activation."""
        if self._place != len(self._recording.calls):
            self._deviate("it is shorter")
        self._open = False
        try:
            self._recording.check_untouched()
        except Deviation as deviation:
            self._deviate(str(deviation))
        # Replayed operations draw no random numbers; later ones must draw the same as in the full pass.
        self._recording.restore_random_state()
        return self._recording.activation if overwritten and self._recording.activation is not None else activation

    def _deviate(self, reason: str) -> None:
        self.deviated = True
        raise Deviation(reason)


def _must_run(arguments: Any, output: Any) -> bool:
    """Return whether a call must run again: its result is used up by its reader, or it only sets a state."""
    sets_state = next(tensors_in(arguments), None) is None and next(tensors_in(output), None) is None
    return sets_state or not _is_value(output)


def _is_value(output: Any) -> bool:
    if isinstance(output, tuple | list):
        return all(map(_is_value, output))
    return isinstance(output, _VALUES)


def _copied(value: Any) -> Any:
    """The same tensors in new lists and dicts: the network may append to its own."""
    if type(value) is list:
        return [_copied(item) for item in value]
    if type(value) is tuple:
        return tuple(_copied(item) for item in value)
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return value


def _same(a: Any, b: Any) -> bool:
    """Return whether an argument is the recorded one. Tensors made outside torch functions are compared by value."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return _equal_tensors(a, b)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, slice):
        return all(_same(getattr(a, part), getattr(b, part)) for part in ("start", "stop", "step"))
    return _equal(a, b)


def _equal_tensors(a: torch.Tensor, b: torch.Tensor) -> bool:
    if (a.dtype, a.device, a.shape, a.layout) != (b.dtype, b.device, b.shape, b.layout):
        return False
    try:
        return torch.equal(a, b)
    except (RuntimeError, NotImplementedError):  # kinds of tensors that cannot be compared
        return False


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))
    except Exception:  # objects that cannot be compared, arrays of more than one value
        return False


def _random_state(device: torch.device, generators: list[torch.Generator]) -> Callable[[], None]:
    """Save the random streams of torch and the network's own; return a function that restores them."""
    states = [(generator.set_state, generator.get_state()) for generator in (torch.default_generator, *generators)]
    if device.type != "cpu" and hasattr(backend := torch.get_device_module(device), "get_rng_state"):
        states.append((backend.set_rng_state, backend.get_rng_state()))

    def put_back() -> None:
        for setter, state in states:
            setter(state)

    return put_back
