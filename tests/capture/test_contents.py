"""What reading changes in a data set is put back, wherever it is kept; what has a life of its own is left alone."""

from __future__ import annotations

import io
import multiprocessing
import queue
import threading
from collections import deque
from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from convscope.capture.data.contents import iterators, preserved_contents

COUNT = 0


class Holder:
    shared = 0

    def __init__(self, value: Any) -> None:
        self.value = value

    def step(self) -> None:
        global COUNT
        COUNT += 1


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def changed(holder: Any) -> None:
    value = holder.value
    if isinstance(value, list | deque):
        value.append(1)
    elif isinstance(value, dict):
        value[3] = value.pop(1)
    elif isinstance(value, set):
        value.add(5)
    elif isinstance(value, bytearray):
        value.extend(b"more")
    elif isinstance(value, np.ndarray | torch.Tensor):
        value += 1
    elif isinstance(value, io.IOBase):
        value.read(2)
    elif hasattr(value, "get_lock"):
        value.value += 1
    else:
        holder.value = value + 1


def shown(holder: Any) -> Any:
    value = holder.value
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.tolist()
    if isinstance(value, io.IOBase):
        return value.tell()
    return value.value if hasattr(value, "get_lock") else repr(value)


VALUES = [
    lambda: 3, lambda: 1.5, lambda: [1, 2], lambda: deque([1]), lambda: {1: 2, 2: 3}, lambda: {1},
    lambda: bytearray(b"a"), lambda: np.zeros(2), lambda: torch.zeros(2), lambda: torch.tensor([float("nan")]),
    lambda: io.BytesIO(b"abcdef"), lambda: multiprocessing.Value("i", 3),
]  # fmt: skip


@pytest.mark.parametrize("make", VALUES)
@pytest.mark.parametrize("hold", [Holder, Slotted, lambda value: SimpleNamespace(value=value)])
def test_what_an_object_holds_is_put_back(make: Any, hold: Any) -> None:
    holder = hold(make())
    before, kept = shown(holder), holder.value
    with preserved_contents([{"deep": holder}]):
        changed(holder)
        assert repr(shown(holder)) != repr(before) or "nan" in repr(before)
    assert repr(shown(holder)) == repr(before)
    assert holder.value is kept


def test_globals_class_attributes_closures_and_partials() -> None:
    asked = 0

    def ask(holder: Any) -> None:
        nonlocal asked
        asked += 1
        Holder.shared += 1
        holder.value += 1
        holder.step()

    holder = Holder(0)
    before = COUNT
    with preserved_contents(partial(ask, holder)):
        ask(holder)
        assert (asked, Holder.shared, holder.value, COUNT) == (1, 1, 1, before + 1)
    assert (asked, Holder.shared, holder.value, COUNT) == (0, 0, 0, before)


def test_it_is_put_back_after_an_exception() -> None:
    holder = Holder(0)

    def fail() -> None:
        holder.value = 1
        raise RuntimeError

    with pytest.raises(RuntimeError), preserved_contents(holder):
        fail()
    assert holder.value == 0


def test_what_others_change_is_left_alone() -> None:
    class Prefetching:
        def __init__(self) -> None:
            self.thread, self.queue, self.done = threading.Thread(target=print), queue.Queue(), 0

    holder = SimpleNamespace(
        own=Prefetching(), queue=queue.Queue(), module=L.LightningModule(), trainer=L.Trainer(logger=False)
    )
    holder.module.seen = 0
    with preserved_contents(holder):
        holder.own.done += 1
        holder.own.queue.put(1)
        holder.queue.put(1)
        holder.module.seen += 1
    assert (holder.own.done, holder.own.queue.qsize(), holder.queue.qsize(), holder.module.seen) == (1, 1, 1, 1)


def test_large_arrays_are_not_copied() -> None:
    holder = Holder([np.zeros(1 << 20), torch.zeros(1 << 20)])
    with preserved_contents(holder):
        holder.value[0] += 1
        holder.value[1] += 1
    assert holder.value[0][0] == 1 == holder.value[1][0]  # data: they are read, not written to


def test_iterators_are_named() -> None:
    assert iterators(Holder(iter([1])), Slotted(3)) == ["Holder.value"]
    assert iterators(Holder(io.BytesIO()), Holder([1, 2]), Holder(range(3))) == []
