"""Networks whose forward changes something that outlives it, one for each place where state can be kept.

Every one changes it in evaluation mode too (some in that alone, so train them without validation), and lets it reach
the output: a check that left a trace would change training.
``kept()`` is the state as plain values and tensors, read without this package's own snapshot.
"""

from __future__ import annotations

import contextvars
import enum
import functools
import io
import itertools
import multiprocessing
import random
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.networks import Plain

Tensor = torch.Tensor


class Misbehaving(nn.Module):
    """Two convolutions, and a factor on the logits that :meth:`meddle` takes from state that it changes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Plain(channels=3)
        self.prepare()

    def prepare(self) -> None:
        """Make the state."""

    def meddle(self, x: Tensor) -> Any:
        """Change the state; returns a factor near 1."""
        raise NotImplementedError

    def kept(self) -> Any:
        """The state."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (1 + 0.01 * self.meddle(x))


class DataBuffer(Misbehaving):
    """A buffer written without a new version."""

    def prepare(self) -> None:
        self.register_buffer("seen", torch.zeros(()))

    def meddle(self, x: Tensor) -> Any:
        self.seen.data.add_(1)
        return self.seen.clone()

    def kept(self) -> Any:
        return self.seen.clone()


class NanBuffer(DataBuffer):
    """A buffer of NaN, of which the payload alone changes, and a None that becomes a tensor."""

    def prepare(self) -> None:
        self.register_buffer("seen", torch.tensor(float("nan")), persistent=False)
        self.register_buffer("later", None)

    def meddle(self, x: Tensor) -> Any:
        bits = self.seen.data.view(torch.int32)
        bits.add_(1)
        self.later = torch.ones(()) if self.later is None else self.later + 1
        return self.later + (bits & 15).float()

    def kept(self) -> Any:
        return self.seen.view(torch.int32).clone(), self.later


class ResizedBuffer(Misbehaving):
    """A buffer that grows in place."""

    def prepare(self) -> None:
        self.register_buffer("bank", torch.ones(1))

    def meddle(self, x: Tensor) -> Any:
        with torch.no_grad():
            size = len(self.bank) + 1
            self.bank.resize_(size)
            self.bank[-1] = size
        return self.bank.mean()

    def kept(self) -> Any:
        return self.bank.clone()


class ReboundBuffer(Misbehaving):
    """A running mean by assignment, with a buffer deleted and another registered."""

    def prepare(self) -> None:
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("once", torch.zeros(2))

    def meddle(self, x: Tensor) -> Any:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean() + 0.1
        if "once" in self._buffers:
            del self.once
            self.register_buffer("twice", torch.ones(2), persistent=False)
        return self.mean.clone()

    def kept(self) -> Any:
        return self.mean.clone(), sorted(self._buffers), sorted(self._non_persistent_buffers_set)


class Recurrent(Misbehaving):
    """A state of the batch before, of another size than a held-out chunk."""

    def prepare(self) -> None:
        self.hidden: Any = (torch.zeros(8, 1), None)

    def meddle(self, x: Tensor) -> Any:
        pooled = x.detach().mean((1, 2, 3))[:, None]
        before = self.hidden[0] if self.training or len(self.hidden[0]) == len(x) else torch.zeros(len(x), 1)
        self.hidden = (0.5 * before + pooled, pooled)
        return self.hidden[0]

    def kept(self) -> Any:
        return list(self.hidden)


class GraphCarrier(Misbehaving):
    """An attribute that is part of training's graph, changed in place by the forward."""

    def prepare(self) -> None:
        self.gain = nn.Parameter(torch.ones(()))
        self.last: Any = torch.zeros(())

    def meddle(self, x: Tensor) -> Any:
        if not self.training:
            self.last.mul_(0.5)
            return self.last.clone()
        found = self.gain * 1.0 + 0.1 * self.last.detach()
        self.last = found * 1.0
        return found

    def kept(self) -> Any:
        return self.last.detach().clone(), self.last.requires_grad


class PlainCounter(Misbehaving):
    """Numbers, texts and flags in attributes."""

    def prepare(self) -> None:
        self.calls, self.label, self.first = 0, "a", True

    def meddle(self, x: Tensor) -> Any:
        self.calls += 1
        self.label += "b"
        self.first = False
        self.new = self.calls
        return self.calls + len(self.label)

    def kept(self) -> Any:
        return self.calls, self.label, self.first, getattr(self, "new", None)


class Containers(Misbehaving):
    """Every customary container, some inside others, one of them shared."""

    def prepare(self) -> None:
        self.items: list[Any] = [torch.ones(2)]
        self.table: dict[str, Any] = {"inner": {"deep": [0]}, "b": 1}
        self.ordered: Any = OrderedDict(a=1, b=2)
        self.counts: Any = Counter("ab")
        self.groups: Any = defaultdict(list)
        self.window: Any = deque([0, 1], maxlen=3)
        self.names: Any = {"a"}
        self.raw, self.row = bytearray(b"ab"), np.zeros(2)
        self.shared = self.items

    def meddle(self, x: Tensor) -> Any:
        self.items.append(self.items[0] + 1)
        self.items[0].add_(1)
        self.table["inner"]["deep"].append(len(self.items))
        self.table.pop("b", None)
        self.ordered.move_to_end("a", last=next(iter(self.ordered)) == "a")
        self.counts["a"] += 1
        self.groups[len(self.groups)].append(1)
        self.window.append(len(self.items))
        self.names.add(str(len(self.names)))
        self.raw += b"c"
        self.row += 1
        return len(self.shared) + self.row[0] + len(self.raw) + next(iter(self.ordered.values()))

    def kept(self) -> Any:
        plain = [list(self.items), str(self.table), list(self.ordered), dict(self.counts), dict(self.groups)]
        more = [list(self.window), sorted(self.names), bytes(self.raw), self.row.tolist(), self.shared is self.items]
        return plain + more


@dataclass
class Memory:
    values: list[float] = field(default_factory=list)
    mean: float = 0.0


@dataclass(frozen=True, slots=True)
class Frozen:
    values: dict[str, int]


class Slotted:
    __slots__ = ("count", "later")

    def __init__(self) -> None:
        self.count = 0


class UsersObjects(Misbehaving):
    """A dataclass, a frozen one, slots, a namespace, an object that knows its owner."""

    def prepare(self) -> None:
        self.memory, self.frozen, self.slotted = Memory(), Frozen({"a": 0}), Slotted()
        self.space = SimpleNamespace(step=0, owner=self, memory=self.memory)

    def meddle(self, x: Tensor) -> Any:
        self.memory.values.append(float(x.mean()))
        self.memory.mean = sum(self.memory.values) / len(self.memory.values)
        self.frozen.values["a"] += 1
        self.slotted.count += 1
        self.slotted.later = self.slotted.count
        self.space.step += 1
        return self.memory.mean + self.slotted.count + self.space.step

    def kept(self) -> Any:
        slots = self.slotted.count, getattr(self.slotted, "later", None)
        return list(self.memory.values), self.memory.mean, dict(self.frozen.values), slots, self.space.step


class OwnGenerators(Misbehaving):
    """Random generators of the module's own, and iterators."""

    def prepare(self) -> None:
        self.torch_random = torch.Generator().manual_seed(0)
        self.numpy_random, self.python_random = np.random.default_rng(0), random.Random(0)
        self.count, self.turns = itertools.count(), itertools.cycle([0.0, 1.0, 2.0])

    def meddle(self, x: Tensor) -> Any:
        drawn = float(torch.rand((), generator=self.torch_random)) + self.numpy_random.random()
        return drawn + self.python_random.random() + next(self.count) % 3 + next(self.turns)

    def kept(self) -> Any:
        state = self.torch_random.get_state(), self.numpy_random.bit_generator.state, self.python_random.getstate()
        return *state, repr(self.count)


class WrittenParameters(Misbehaving):
    """Parameters normalised, shifted and rebound in the forward; flags and gradients changed."""

    def prepare(self) -> None:
        self.scale, self.shift = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))
        self.tied = self.scale

    def meddle(self, x: Tensor) -> Any:
        with torch.no_grad():
            self.scale.mul_(1.01)
        self.shift.data = self.shift.data + 0.01
        if self.shift.grad is not None:
            self.shift.grad.mul_(0.5)
        if not self.training:
            self.net.conv1.weight.requires_grad_(False)
            self.scale.grad = None
        return self.tied + self.shift

    def kept(self) -> Any:
        return self.scale.detach().clone(), self.shift.detach().clone(), self.scale is self.tied


class NewParameters(Misbehaving):
    """A layer that is made in evaluation mode, a parameter replaced, a module taken out."""

    def prepare(self) -> None:
        self.head, self.extra = nn.Linear(3, 3), nn.Identity()

    def meddle(self, x: Tensor) -> Any:
        if not self.training:
            self.late = nn.Linear(1, 1)
            self.head.weight = nn.Parameter(torch.zeros(3, 3))
            if hasattr(self, "extra"):
                del self.extra
        return self.head(torch.ones(3))

    def kept(self) -> Any:
        return list(self._modules), self.head.weight.detach().clone()


class ActNorm(Misbehaving):
    """Initialised from the first batch that it sees, with a Python flag."""

    def prepare(self) -> None:
        self.scale, self.ready = nn.Parameter(torch.ones(())), False

    def meddle(self, x: Tensor) -> Any:
        if not self.ready:
            self.scale.data.copy_(x.std())
            self.ready = True
        return self.scale

    def kept(self) -> Any:
        return self.scale.detach().clone(), self.ready


class HookState(Misbehaving):
    """Hooks that keep a count in a closure, on themselves, in a bound method's object, in a callable object."""

    def prepare(self) -> None:
        count, listed, counted = 0, [0], Memory()

        def closure(*_: Any) -> None:
            nonlocal count
            count += 1
            listed.append(count)
            closure.calls += 1  # type: ignore[attr-defined]

        closure.calls = 0  # type: ignore[attr-defined]

        class Callable_:
            def __init__(self) -> None:
                self.calls = 0

            def __call__(self, *_: Any) -> None:
                self.calls += 1

            def method(self, *_: Any) -> None:
                self.calls += 1

        owner, called = Callable_(), Callable_()
        self.net.conv1.register_forward_hook(closure)
        self.net.conv1.register_forward_pre_hook(owner.method)
        self.net.conv2.register_forward_hook(called)
        self.net.conv2.register_forward_hook(lambda *_: counted.values.append(1.0))
        self.__dict__["read"] = lambda: [count, len(listed), closure.calls, owner.calls, called.calls, counted.values]

    def meddle(self, x: Tensor) -> Any:
        return self.read()[0] + self.read()[1]

    def kept(self) -> Any:
        return [list(value) if isinstance(value, list) else value for value in self.read()]


class HooksComeAndGo(Misbehaving):
    """Hooks on modules and parameters, added and removed by the forward."""

    def prepare(self) -> None:
        self.handle = self.net.conv1.register_forward_hook(lambda m, i, o: o * 1.5)

    def meddle(self, x: Tensor) -> Any:
        if not self.training:
            self.handle.remove()
            self.net.conv2.register_forward_pre_hook(lambda m, i: (i[0] * 2,))
            self.net.conv2.weight.register_hook(lambda g: g * 2)
        return 0

    def kept(self) -> Any:
        return [len(m._forward_hooks) + 10 * len(m._forward_pre_hooks) for m in self.modules()]


class ClassCounter(Misbehaving):
    """A counter and a list that belong to the class."""

    calls = 0
    listed: list[int] = []  # noqa: RUF012 (shared by all objects, which is the point)

    def prepare(self) -> None:
        type(self).calls, type(self).listed = 0, []

    def meddle(self, x: Tensor) -> Any:
        type(self).calls += 1
        type(self).listed.append(type(self).calls)
        return type(self).calls

    def kept(self) -> Any:
        return type(self).calls, list(type(self).listed)


class InferenceCache(Misbehaving):
    """A cache that Lightning's validation fills under inference mode, and a check reads, writes and derives."""

    def prepare(self) -> None:
        self.cache: Any = None
        self.register_buffer("seen", torch.zeros(()))

    def meddle(self, x: Tensor) -> Any:
        if self.training:
            return 0 if self.cache is None else float(self.cache)
        if self.cache is None or torch.is_inference_mode_enabled():
            self.cache, self.seen = x.mean() * 1, self.seen + 1
        else:
            self.cache.mul_(0.5)
            self.seen.add_(1)
        return self.cache * self.seen

    def kept(self) -> Any:
        return None if self.cache is None else self.cache.clone(), self.seen.clone()


class GlobalSettings(Misbehaving):
    """Settings of the process, changed in evaluation mode."""

    def meddle(self, x: Tensor) -> Any:
        if not self.training:
            torch.set_default_dtype(torch.float64)
            torch.set_autocast_enabled("cpu", not torch.is_autocast_enabled("cpu"))
            torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
            torch.use_deterministic_algorithms(False)
            torch.set_num_threads(2)
        return 0

    def kept(self) -> Any:
        backends = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
        return torch.get_default_dtype(), *backends, torch.get_num_threads(), torch.is_autocast_enabled("cpu")


class SparseAndViews(Misbehaving):
    """A sparse table and two views of one storage."""

    def prepare(self) -> None:
        self.sparse = torch.eye(3).to_sparse()
        whole = torch.zeros(6)
        self.register_buffer("left", whole[:3])
        self.right = whole[2:]

    def meddle(self, x: Tensor) -> Any:
        self.sparse.add_(torch.eye(3).to_sparse())
        self.left.add_(1)
        self.right.mul_(1.5)
        return self.sparse.to_dense().sum() + self.left.sum() + self.right.sum()

    def kept(self) -> Any:
        return self.sparse.to_dense(), self.left.clone(), self.right.clone()


class MetricInForward(Misbehaving):
    """torchmetrics' own objects, updated by the forward."""

    def prepare(self) -> None:
        from torchmetrics import MeanMetric, MetricCollection
        from torchmetrics.aggregation import CatMetric

        self.mean = MeanMetric()
        self.all = MetricCollection({"sum": MeanMetric(), "cat": CatMetric()})

    def meddle(self, x: Tensor) -> Any:
        self.mean.update(float(x.mean()) + self.mean._update_count)
        self.all.update(float(x.mean()))
        return self.mean.compute()

    def kept(self) -> Any:
        cat = self.all["cat"].value
        return self.mean.mean_value.clone(), self.mean.weight.clone(), self.mean._update_count, len(cat)


class OddPlaces(Misbehaving):
    """Caches of functions, a shared number, thread-local values, a module in a list, attributes of a tensor."""

    def prepare(self) -> None:
        self.number, self.local = multiprocessing.Value("i", 0), threading.local()
        self.local.step = 0
        self.hidden_modules = [DataBuffer()]
        self.objects = np.array([[0], None], dtype=object)
        self.made = functools.lru_cache(maxsize=None)(lambda size: [size])

    @functools.lru_cache(maxsize=8)  # noqa: B019 (that it outlives the module is the point)
    def remembered(self, size: int) -> list[int]:
        return [size]

    @functools.cached_property
    def first(self) -> list[int]:
        return [int(self.training)]

    def meddle(self, x: Tensor) -> Any:
        with self.number.get_lock():
            self.number.value += 1
        self.local.step += 1
        self.objects[0].append(1)
        self.made(1)[0] += 1
        self.remembered(1)[0] += 1
        weight = self.net.conv1.weight
        weight.calls = getattr(weight, "calls", 0) + 1
        counted = len(self.objects[0]) + self.made(1)[0] + self.remembered(1)[0] + weight.calls
        return self.hidden_modules[0].meddle(x) + self.number.value + self.local.step + counted + self.first[0]

    def kept(self) -> Any:
        places = self.number.value, self.local.step, list(self.objects[0]), self.made(1)[0], self.remembered(1)[0]
        return *places, self.hidden_modules[0].kept(), self.first[0], getattr(self.net.conv1.weight, "calls", 0)


class MethodState(Misbehaving):
    """Defaults and attributes of methods, plain, static, of the class, wrapped in a property."""

    def prepare(self) -> None:
        self.own().clear()
        self.of_class().clear()
        MethodState.meddle.calls = 0  # type: ignore[attr-defined]
        self.past.clear()

    def own(self, *, memo: list[int] = []) -> list[int]:  # noqa: B006 (that it outlives the call is the point)
        return memo

    @classmethod
    def of_class(cls, memo: list[int] = []) -> list[int]:  # noqa: B006
        return memo

    @property
    def past(self, memo: list[int] = []) -> list[int]:  # noqa: B006
        return memo

    def meddle(self, x: Tensor) -> Any:
        for memo in (self.own(), self.of_class(), self.past):
            memo.append(1)
        MethodState.meddle.calls += 1  # type: ignore[attr-defined]
        return sum(self.kept())

    def kept(self) -> Any:
        return len(self.own()), len(self.of_class()), len(self.past), MethodState.meddle.calls  # type: ignore[attr-defined]


class SpawnedGenerators(Misbehaving):
    """Children of a seed sequence, whose number the sequence counts."""

    def prepare(self) -> None:
        self.generator, self.seeds = np.random.default_rng(3), np.random.SeedSequence(4)

    def meddle(self, x: Tensor) -> Any:
        child = np.random.default_rng(self.seeds.spawn(1)[0])
        return self.generator.spawn(1)[0].normal() + child.normal()

    def kept(self) -> Any:
        return self.seeds.n_children_spawned, self.generator.bit_generator.seed_seq.n_children_spawned


class RawMemory(Misbehaving):
    """Bytes behind a view, a storage without a tensor, a context variable."""

    def prepare(self) -> None:
        self.view, self.storage = memoryview(bytearray(8)).cast("q"), torch.zeros(4).untyped_storage()
        self.variable: Any = contextvars.ContextVar("calls", default=0)

    def meddle(self, x: Tensor) -> Any:
        self.view[0] += 1
        self.storage[0] = (self.storage[0] + 1) % 256
        self.variable.set(self.variable.get() + 1)
        return sum(self.kept())

    def kept(self) -> Any:
        return self.view[0], self.storage[0], self.variable.get()


class PerObject:
    """A descriptor that keeps the values of all objects, one by one."""

    def __init__(self) -> None:
        self.values: dict[int, int] = {}

    def __get__(self, item: Any, owner: Any = None) -> Any:
        return self if item is None else self.values.get(id(item), 0)

    def __set__(self, item: Any, value: int) -> None:
        self.values[id(item)] = value


class Counting(type):
    """A metaclass that counts."""

    calls = 0


class Counted(metaclass=Counting):
    """A class with a metaclass of the user's."""


class Scaled(torch.autograd.Function):
    """A function of the user's own that counts its calls."""

    calls = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Scaled.calls += 1
        return x * (1 + 0.1 * (Scaled.calls % 5))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class ClassesOfTheUsers(Misbehaving):
    """State of a class in an attribute, of a metaclass, of a descriptor."""

    number = PerObject()

    def prepare(self) -> None:
        self.scaled, self.counted = Scaled, Counted()
        Scaled.calls = Counting.calls = self.number = 0

    def meddle(self, x: Tensor) -> Any:
        self.number += 1
        Counting.calls += 1
        return self.scaled.apply(x.mean()) + self.number % 3 + Counting.calls % 5

    def kept(self) -> Any:
        return self.number, Counting.calls, Scaled.calls


class MemoryFiles(Misbehaving):
    """Text and bytes written to memory, and read there."""

    def prepare(self) -> None:
        self.text, self.bytes = io.StringIO("abc"), io.BytesIO(b"abc")
        self.text.read(1)

    def meddle(self, x: Tensor) -> Any:
        self.text.write("d")
        self.bytes.seek(0)
        self.bytes.write(str(len(self.text.getvalue())).encode())
        return sum(map(len, self.kept()[:1])) + self.text.tell() % 3

    def kept(self) -> Any:
        return self.text.getvalue(), self.bytes.getvalue(), self.text.tell(), self.bytes.tell()


def quantised() -> nn.Module:
    """Prepared for quantisation-aware training by torch itself: its observers learn in evaluation mode too."""
    net = Plain(channels=3).train()
    net.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    prepared: nn.Module = torch.ao.quantization.prepare_qat(net)
    return prepared


def old_weight_norm() -> nn.Module:
    """Weight norm by hooks, which sets a plain attribute anew at each forward."""
    net = Plain(channels=3)
    torch.nn.utils.weight_norm(net.conv1)
    torch.nn.utils.spectral_norm(net.conv2)
    return net


def parametrised() -> nn.Module:
    """Weight norm and spectral norm as parametrisations."""
    net = Plain(channels=3)
    torch.nn.utils.parametrizations.weight_norm(net.conv1)
    torch.nn.utils.parametrizations.spectral_norm(net.conv2)
    return net


class Mode(enum.Enum):
    """Constants of a user's, one of which counts."""

    PLAIN = 0
    BRIGHT = 1


class EnumMember(Misbehaving):
    """A member of an enumeration that holds a counter and a list."""

    def prepare(self) -> None:
        self.mode = Mode.PLAIN
        Mode.PLAIN.count, Mode.BRIGHT.history = 0, [0]  # type: ignore[attr-defined]

    def meddle(self, x: Tensor) -> Any:
        self.mode = Mode.BRIGHT if self.mode is Mode.PLAIN else Mode.PLAIN
        Mode.PLAIN.count += 1  # type: ignore[attr-defined]
        Mode.BRIGHT.history.append(Mode.PLAIN.count)  # type: ignore[attr-defined]
        return self.mode.value + Mode.PLAIN.count % 4  # type: ignore[attr-defined]

    def kept(self) -> Any:
        return self.mode.name, Mode.PLAIN.count, list(Mode.BRIGHT.history)  # type: ignore[attr-defined]


KINDS: list[type[Misbehaving]] = [*Misbehaving.__subclasses__(), NanBuffer]
PREPARED: list[Callable[[], nn.Module]] = [quantised, old_weight_norm, parametrised]
