"""Read held-out samples: by the keys that a loader's sampler yields, or in the order in which an iterable delivers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader

from convscope.capture.data.blocks import Block, joined
from convscope.capture.data.contents import iterators
from convscope.capture.data.indices import Indices, loader_indices, union
from convscope.capture.data.processes import Processes
from convscope.capture.data.reader import Delivered, Reader, Unit
from convscope.capture.data.sampling import class_labels, known_labels, labels_at, random_choice, stratified
from convscope.capture.data.seeding import SampleSeeds
from convscope.capture.data.trial import Manner, try_out
from convscope.capture.errors import UserCodeError, users_code

Adapted = Callable[[Any], Block]

CANDIDATES = 4
"""Samples read for their labels, as a multiple of the held-out size, if a data set has no label attribute."""

_NO_ROW = "made no row of a held-out sample"


@dataclass(frozen=True)
class Wanted:
    """The wanted samples: their number over all processes, stratified or not, and the seed of the choice.

    Samples whose label is ``ignored`` are drawn last. ``maker`` names the function that makes rows, for messages.
    """

    size: int
    stratify: bool
    seed: int
    ignored: int | None = None
    maker: str = "the collate function"


@dataclass
class Found:
    """Samples as they were read, each under its number, and notes about them.

    A sample with the number -1 only fills an empty share.
    """

    blocks: list[Block] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_selected(loader: DataLoader[Any], adapted: Adapted, wanted: Wanted, processes: Processes) -> Found:
    """Choose samples among those that the loader delivers, and read this process's share.

    Every process makes the same choice, whatever share of the samples its own loader has, shuffled or not.
    """
    indices = _agreed(loader, processes)
    if len(indices.keys) == 0:
        return Found()
    seeds = SampleSeeds(wanted.seed, adapted)
    try:
        with Reader(loader, indices.keys, wanted.seed) as reader:
            desk = _Desk(reader, adapted, seeds, wanted.maker)
            order = random_choice(len(indices.keys), CANDIDATES * wanted.size, wanted.seed).tolist()
            manner = Manner.agreed(processes.each(lambda: try_out(desk.blocks, order, indices.batch_size)))
            chosen = _choose(loader, desk, indices, order, wanted, manner, processes)
            return _read(desk, manner.units(chosen), processes, [*_moved_on(loader), *manner.notes])
    finally:
        seeds.put_back()


def read_all(source: Iterable[Any], adapted: Adapted, size: int, processes: Processes) -> Found:
    """The first ``size`` samples of an iterable of batches; this process keeps every ``processes.size``-th."""
    blocks: list[Block] = []
    spare: Block | None = None
    read = 0
    with _batches(source) as batches:
        for batch in (batch for batch in batches if batch is not None):
            block = adapted(batch)
            index = torch.arange(read, read + len(block))
            mine = (index % processes.size == processes.rank) & (index < size)
            spare = block if spare is None and len(block) else spare
            blocks.append(block.numbered(index).take(mine.nonzero().flatten()))
            read += len(block)
            if read >= size:
                break
    found = joined(blocks)
    return Found(found if found or spare is None else [_filler(spare)])


class _Desk:
    """Conversion of the reader's batches into blocks, with a record of failures."""

    def __init__(self, reader: Reader, adapted: Adapted, seeds: SampleSeeds, maker: str) -> None:
        self._reader, self._adapted, self._seeds, self._maker = reader, adapted, seeds, maker

    def blocks(self, units: list[Unit]) -> list[tuple[Unit, Block | Exception]]:
        """Each unit's samples, or the reason why there are none."""
        return [(delivered.unit, self._block(delivered)) for delivered in self._reader.read(units)]

    def _block(self, delivered: Delivered) -> Block | Exception:
        if delivered.problem is not None:
            return UserCodeError(f"a held-out sample cannot be read: {delivered.problem}")
        if delivered.batch is None:
            return ValueError(f"the collate function {_NO_ROW}")
        try:
            self._seeds.sow(delivered.unit[0], "adapt")  # a user's hook may augment after the transfer
            block = self._adapted(delivered.batch)
        except Exception as error:
            return error
        return block if len(block) else ValueError(f"{self._maker} {_NO_ROW}")


def _agreed(loader: DataLoader[Any], processes: Processes) -> Indices:
    here: list[Indices] = []

    def mine() -> str:
        here.append(loader_indices(loader))
        return here[0].digest

    return here[0] if len(set(processes.each(mine))) == 1 else union(processes.each(lambda: here[0]))


def _choose(
    loader: DataLoader[Any],
    desk: _Desk,
    indices: Indices,
    order: list[int],
    wanted: Wanted,
    manner: Manner,
    processes: Processes,
) -> list[int]:
    """Places of the chosen samples in ``indices``, sorted."""
    size = max(1, math.ceil(wanted.size / manner.rows))
    if len(indices.keys) <= size:
        return list(range(len(indices.keys)))
    if not wanted.stratify:
        return sorted(order[:size])
    known = processes.each(lambda: _by_known_labels(loader, indices, size, wanted))[0]
    if known is not None:
        return known
    candidates = order[: CANDIDATES * size]
    read = _labels_of(desk, candidates, manner, processes)
    if read is None or len(read) <= size:
        return sorted(order[:size])
    places = [place for place in candidates if place in read]
    kept = stratified(torch.tensor([read[place] for place in places]), size, wanted.seed, wanted.ignored)
    return sorted(places[int(each)] for each in kept)


def _by_known_labels(loader: DataLoader[Any], indices: Indices, size: int, wanted: Wanted) -> list[int] | None:
    labels = labels_at(known_labels(loader.dataset), indices.keys)
    return None if labels is None else [int(place) for place in stratified(labels, size, wanted.seed, wanted.ignored)]


def _labels_of(desk: _Desk, candidates: list[int], manner: Manner, processes: Processes) -> dict[int, int] | None:
    """The class of each candidate that can be read; None if the targets are not classes."""

    def mine() -> dict[int, int] | None:
        found: dict[int, int] = {}
        for unit, block in desk.blocks(manner.units(candidates)[processes.rank :: processes.size]):
            if isinstance(block, Block):
                labels = class_labels(block.targets)
                if labels is None or len(labels) % len(unit):
                    return None
                found |= dict(zip(unit, labels[:: len(labels) // len(unit)].tolist(), strict=True))
        return found

    everyone = processes.each(mine)
    if any(part is None for part in everyone):
        return None
    return {place: label for part in everyone for place, label in (part or {}).items()}


def _read(desk: _Desk, units: list[Unit], processes: Processes, notes: list[str]) -> Found:
    here: dict[Unit, Block] = {}

    def mine() -> tuple[dict[Unit, int], list[str]]:
        problems = []
        for unit, block in desk.blocks(units[processes.rank :: processes.size]):
            if isinstance(block, Exception):
                problems.append(str(block))
            else:
                here[unit] = block
        return {unit: len(block) for unit, block in here.items()}, problems

    everyone = processes.each(mine)
    rows = {unit: length for lengths, _ in everyone for unit, length in lengths.items()}
    problems = [problem for _, parts in everyone for problem in parts]
    first, number = {}, 0
    for unit in sorted(rows):
        first[unit], number = number, number + rows[unit]
    if not rows:
        raise UserCodeError(problems[0])
    blocks = joined(block.numbered(first[unit] + torch.arange(len(block))) for unit, block in here.items())
    processes.each(lambda: _fill(desk, next(iter(first)), blocks))
    return Found(blocks, [*notes, *_left_out(problems, len(units))])


def _fill(desk: _Desk, unit: Unit, blocks: list[Block]) -> None:
    if not blocks:
        block = desk.blocks([unit])[0][1]
        if isinstance(block, Exception):
            raise block
        blocks.append(_filler(block))


def _filler(block: Block) -> Block:
    """A sample that a process without any runs, so that all run as many passes."""
    return block.take(slice(0, 1)).numbered(torch.tensor([-1]))


def _left_out(problems: list[str], units: int) -> list[str]:
    if not problems:
        return []
    return [f"{len(problems)} of {units} held-out samples cannot be read and are left out; the first: {problems[0]}"]


def _moved_on(loader: DataLoader[Any]) -> list[str]:
    """Notes on lasting changes by reading; a loader with workers reads copies of its data set."""
    names = [] if loader.num_workers else iterators(loader.dataset, loader.collate_fn)
    if not names:
        return []
    return [
        f"the held-out samples' data set keeps an iterator ({', '.join(names[:3])}), which reading them advances; if "
        "training reads the same one, give the validation loader num_workers=1 or more, or a data set of its own"
    ]


@contextmanager
def _batches(source: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """An iterator over a source; for a loader, over a copy, so that neither its iterator nor its workers stay."""
    if not isinstance(source, DataLoader):
        yield _guarded(iter(source))
        return
    private = copy.copy(source)
    private._iterator = None
    with users_code("reading a held-out batch"):
        iterator = iter(private)
    try:
        yield _guarded(iterator)
    finally:
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
        private._iterator = None


def _guarded(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches, read with the user's own data set and collate function."""
    while True:
        with users_code("reading a held-out batch"):
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch
