"""Observation of held-out samples in a forward that runs them anyway: the user's own validation.

A row of a batch counts as a held-out sample only if its input is, bit for bit, the one that was read. Whatever else may
differ from a pass of our own (weights, mode, precision, state) shows in a few samples that are run again afterwards.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from convscope.capture.data.batches import take_rows, tree_map, tree_tensors
from convscope.capture.data.heldout import Chunk, HeldOut
from convscope.capture.data.roster import Roster
from convscope.capture.network.follower import Event, Following, follow
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Consumer, Observed, Pass, Record, Subject
from convscope.capture.state.isolation import isolated

_KEEPS_STILL = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
"""Modules that compute in another way where anyone observes them."""

TRAINING = "the network, or a part of it, is in training mode in validation"
PRECISION = "validation runs in another precision than the trainer's"
RANDOM = "the network draws random numbers in validation"
WRITES = "weights or buffers of the network change around validation"
FAILED = "the network's forward fails in validation"
OTHER = "activations in validation are not those that the same samples have in a pass of its own"
WATCHED = "observing the network changes its results by rounding, or they are not the same twice"
COMPILED = "the network is compiled"
ATTENTION = "the network holds attention layers of torch, which round differently where they are observed"


def obstacle(subject: Subject, heldout: HeldOut) -> str | None:
    """A reason why a validation of this network cannot be observed without a trace; None if it can be.

    Every process must call it: all run a few samples twice.
    """
    if subject.network is None or subject.arguments is None:
        return "the network is not a module"
    parts = list(subject.module.modules())
    if any(_compiled(part) for part in parts):
        return COMPILED
    if any(isinstance(part, _KEEPS_STILL) for part in parts):
        return ATTENTION
    chunk = next(iter(heldout.chunks(min(2, heldout.batch_size))))
    with isolated(subject.module, seed=heldout.seed, gradients=False):
        bare = tree_tensors(subject.returned(chunk.inputs))
    with isolated(subject.module, seed=heldout.seed, gradients=False), follow(subject.module, lambda event: None):
        seen = tree_tensors(subject.returned(chunk.inputs))
    same = len(bare) == len(seen) and all(torch.equal(a, b) for a, b in zip(bare, seen, strict=True))
    return None if same else WATCHED


def _compiled(part: nn.Module) -> bool:
    """Return whether torch.compile was called on a module, or by Lightning on its steps."""
    marks = ("_orig_mod", "_compiled_call_impl", "_compiler_ctx")
    return any(getattr(part, mark, None) is not None for mark in marks)


class ValidationWatch:
    """Observer of the network's calls, between :meth:`start` and :meth:`stop`. It changes nothing and raises nothing.

    Args:
        subject: The network, with ``network`` and ``arguments``.
        roster: All held-out samples.
        skipped: Numbers of samples that another process counts.
        layers: Layers to observe, as traced.
        consumers: Receivers of the records, none of which needs gradients.

    Attributes:
        seconds: Time that observation has taken so far.
        reason: Why nothing that was seen may be used; None if all is well.
        error: The exception behind ``reason``, where there was one.
        taken: Numbers of the samples seen, those in ``skipped`` left out.
    """

    def __init__(
        self,
        subject: Subject,
        roster: Roster,
        skipped: set[int],
        layers: Sequence[Layer],
        consumers: Sequence[Consumer],
    ) -> None:
        self._subject, self._roster = subject, roster
        self._spot = _Spot()
        self._pass = Pass(subject, list(layers), [*consumers, self._spot], gradients=False)
        self._place = len(consumers)
        self._handle: Any = None
        self._under_way: Following | None = None
        self._exit: Any = None
        self._chunk: Chunk | None = None
        self._versions: list[int] = []
        with subject.precision():
            self._precision = _precision(subject.device)
        self.seconds = 0.0
        self.reason: str | None = None
        self.error: Exception | None = None
        self.skipped = skipped
        self.taken: set[int] = set()

    def __deepcopy__(self, memo: Any) -> ValidationWatch:
        return self  # a user may copy the network, with its hooks, in the middle of a validation

    def __reduce__(self) -> tuple[Any, ...]:
        # A user may save it too. Then its hooks do nothing where they are loaded, be convscope there or not.
        nothing = nullcontext().__exit__
        return SimpleNamespace, (), {"_enter": nothing, "_leave": nothing}

    def start(self) -> None:
        """Begin to observe."""
        if self._subject.network is not None:
            # First of all, so that it sees the input as a pass of ours gives it.
            self._handle = self._subject.network.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True)

    def stop(self) -> None:
        """Observe no more: nothing stays on the network."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self._end_call()

    def report(self) -> Observed:
        """The report of what was seen, as a pass gives it."""
        if self.taken:  # a process that has no sample misses no layer
            self._pass.close()
        report = self._pass.report
        report.failures = {pair: error for pair, error in report.failures.items() if pair[0] != self._place}
        return report

    def spot_check(self, heldout: HeldOut) -> str | None:
        """Run a few of the samples again, in a pass of their own; a reason where they are not what was seen.

        Every process must call it: all run two samples, a process that saw none runs others.
        """
        if self._versions and self._versions != _versions(self._subject.module):
            return WRITES
        again = _Spot()
        samples = [*self._spot.inputs.items()]
        filler = next(iter(heldout.chunks(1)))
        run = Pass(self._subject, self._pass.layers, [again], gradients=False)
        with isolated(self._subject.module, seed=heldout.seed, gradients=False):
            for place in range(2):
                seen = samples[place : place + 1]
                chunk = Chunk(seen[0][1], None, torch.tensor([seen[0][0]])) if seen else filler
                run.chunk(chunk)
        return None if self._spot.agrees(again, [number for number, _ in samples]) else OTHER

    # Hooks: nothing of theirs may reach the user's validation, neither an exception nor a graph.

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            with torch.inference_mode(False), torch.no_grad():
                yield
        except Exception as error:
            self.error, self.reason = error, f"observing it failed ({type(error).__name__}: {error})"
        finally:
            self.seconds += time.perf_counter() - began

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.reason is None and self._under_way is None and module is self._subject.network:
            with self._quietly():
                self._begin_call(args, kwargs)

    def _begin_call(self, args: Any, kwargs: Any) -> None:
        call = (args, kwargs)
        rows, numbers = self._roster.find(call, self.taken | self.skipped)
        if not rows:
            return
        self.reason = self._unlike_a_pass()
        if self.reason is not None:
            return
        count = _rows_in(call)
        here = torch.tensor(rows, device=self._subject.device)
        chunk = self._chunk = Chunk(call, self._roster.targets(numbers), torch.tensor(numbers))
        self._spot.expect(numbers[0], lambda: _inputs_of(take_rows(call, here[:1], count)))
        whole = rows == list(range(count))
        self._pass.open(chunk, None if whole else here, count)
        self._random = _random_state(self._subject.device)
        network = self._subject.network
        self._under_way = Following(self._subject.module, self._on_event, network)
        if network is not None:
            # Registered last, so that it sees the output with which the user goes on.
            self._exit = network.register_forward_hook(self._leave, always_call=True)

    def _unlike_a_pass(self) -> str | None:
        if any(part.training for part in self._subject.module.modules()):
            return TRAINING
        if _precision(self._subject.device) != self._precision:
            return PRECISION
        versions = _versions(self._subject.module)
        changed = bool(self._versions) and versions != self._versions
        self._versions = versions
        return WRITES if changed else None

    def _on_event(self, event: Event) -> None:
        if self.reason is None:
            with self._quietly():
                self._pass.on_event(event)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        following = self._under_way
        if following is None:
            return
        following.pause()
        if output is None:  # it failed: torch is going through its hooks, none of which may be removed here
            self.reason = self.reason or FAILED
            return
        self._end_call()
        if self.reason is None:
            with self._quietly():
                self._finish_call(following, output)

    def _finish_call(self, following: Following, output: Any) -> None:
        if _differ(self._random, _random_state(self._subject.device)):
            self.reason = RANDOM
        elif self._chunk is not None:
            self._pass.finish(following.calls, self._subject.logits_in(output))
            self.taken |= set(self._chunk.index.tolist())

    def _end_call(self) -> None:
        following, self._under_way = self._under_way, None
        if following is not None:
            following.close()
        if self._exit is not None:
            self._exit.remove()
            self._exit = None


class _Spot:
    """Consumer that keeps the pooled activations of the first sample of the first and of the last call."""

    needs_gradient = False
    takes_nonfinite = False

    def __init__(self) -> None:
        self.inputs: dict[int, Any] = {}
        self._pooled: dict[int, dict[str, torch.Tensor]] = {}
        self._wanted: int | None = None

    def expect(self, number: int, inputs: Callable[[], Any]) -> None:
        """Keep what comes of this sample, and of the first; forget others."""
        for other in list(self.inputs)[1:]:
            del self.inputs[other]
            self._pooled.pop(other, None)
        self.inputs[number] = inputs()

    def wants(self, layer: Layer) -> bool:
        return True

    def on_activation(self, record: Record) -> None:
        number = int(record.index[0])
        if not self.inputs or number in self.inputs:
            eps = torch.finfo(record.activation.dtype).eps
            pooled = record.pooled[0].clone()
            self._pooled.setdefault(number, {})[record.layer.name] = torch.cat([pooled, pooled.new_tensor([eps])])

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        """Nothing: it needs none."""

    def agrees(self, again: _Spot, numbers: list[int]) -> bool:
        """Return whether the same samples had the same activations, up to rounding."""
        for number in numbers:
            first, second = self._pooled.get(number, {}), again._pooled.get(number, {})
            if first.keys() != second.keys() or not all(_close(first[name], second[name]) for name in first):
                return False
        return True


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Compare pooled values; sums in another order differ by some roundings, with TensorFloat-32 by more of them."""
    one, other = a[:-1], b[:-1]
    unit = max(float(a[-1]), 2.0**-10 if a.is_cuda else 2.0**-23)
    least = 1e-4 if unit < 1e-6 else 8 * unit
    return float((one - other).abs().max()) <= least * max(float(one.abs().max()), 1e-12)


def _inputs_of(call: Any) -> Any:
    """Inputs that give the same call again: named arguments alone, or positional ones."""
    args, kwargs = tree_map(lambda tensor: tensor.detach().clone(), call)
    return kwargs if kwargs else args


def _rows_in(call: Any) -> int:
    lengths = [len(tensor) for tensor in tree_tensors(call) if tensor.dim() > 0]
    return max(lengths, key=lengths.count)


def _precision(device: torch.device) -> tuple[Any, ...]:
    kind = device.type
    enabled = torch.is_autocast_enabled(kind)
    return enabled, torch.get_autocast_dtype(kind) if enabled else None, torch.get_default_dtype()


def _versions(module: nn.Module) -> list[int]:
    """Numbers of writes to each parameter and buffer; torch does not count them for tensors of inference mode."""
    tensors = [*module.parameters(), *module.buffers()]
    return [-1 if tensor.is_inference() else tensor._version for tensor in tensors]


def _random_state(device: torch.device) -> tuple[Any, ...]:
    kept = [torch.get_rng_state()]
    if device.type == "cuda":
        kept.append(torch.cuda.get_rng_state(device))
    name, keys, *rest = np.random.get_state(legacy=True)
    return kept, random.getstate(), (name, keys.tobytes(), *rest)  # type: ignore[union-attr]


def _differ(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[1:] != other[1:] or any(not torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
