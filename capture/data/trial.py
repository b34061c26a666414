"""Trial of how a few samples can be collated: each alone, or only in batches of the loader's own size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from convscope.capture.data.batches import tree_tensors
from convscope.capture.data.blocks import Block
from convscope.capture.data.reader import Unit

Read = Callable[[list[Unit]], list[tuple[Unit, Block | Exception]]]

_TRIED = 4
_MOST_TRIED = 64  # if the first few cannot be read


@dataclass(frozen=True)
class Manner:
    """Manner in which samples are read.

    Attributes:
        together: Samples that are collated together; 1 wherever a batch is no more than its samples.
        rows: Rows per sample: more than 1 for crops or tiles.
        notes: Sentences that the user should read.
    """

    together: int = 1
    rows: int = 1
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def agreed(found: list[Manner]) -> Manner:
        """One manner for all processes."""
        notes = list(dict.fromkeys(note for manner in found for note in manner.notes))
        return Manner(max(manner.together for manner in found), max(manner.rows for manner in found), notes)

    def units(self, places: list[int]) -> list[Unit]:
        """These samples in units to collate. A last batch that is not full is left out, since it would differ."""
        whole = len(places) - len(places) % self.together if len(places) >= self.together else len(places)
        return [tuple(places[start : start + self.together]) for start in range(0, whole, self.together)]


def try_out(read: Read, order: list[int], batch_size: int) -> Manner:
    """Find the manner of reading; every process tries the same samples.

    Each sample alone is best: its values then depend on no neighbour, and each row's sample is known. Where a collate
    function needs whole batches, or makes a sample's values depend on the others in its batch, batches are put
    together in a fixed order.

    Raises:
        Exception: if no sample can be read either way.
    """
    for start in range(0, min(len(order), _MOST_TRIED), _TRIED):
        alone = read([(place,) for place in order[start : start + _TRIED]])
        good = {unit: block for unit, block in alone if isinstance(block, Block)}
        if good:
            break
    if not good:
        return _only_together(read, order, batch_size, alone)
    rows = max(len(block) for block in good.values())
    first, *others = list(good)[:2]
    # Read twice, since a count of reads or an unseeded stream shows only then.
    again = read([first])[0][1]
    notes = [] if isinstance(again, Block) and _contains(again, good[first]) else [_NOT_REPEATABLE]
    if not others or notes or batch_size == 1:
        return Manner(1, rows, notes)
    pair = read([first + others[0]])[0][1]
    apart = [good[first], good[others[0]]]
    return Manner(1, rows) if _is_no_more_than(pair, apart) else Manner(batch_size)


_NOT_REPEATABLE = (
    "reading a held-out sample twice gives different values, although all random streams were seeded by its number: it "
    "depends on earlier reads, or on randomness from elsewhere, so other runs and other processes read it "
    "differently; draw from torch's, NumPy's or Python's streams, and keep no count of reads"
)


def _only_together(read: Read, order: list[int], size: int, alone: list[tuple[Unit, Block | Exception]]) -> Manner:
    size = min(size, len(order))
    if size > 1 and isinstance(read([tuple(order[:size])])[0][1], Block):
        return Manner(size)
    raise next(problem for _, problem in alone if isinstance(problem, Exception))


def _is_no_more_than(batch: Block | Exception, samples: list[Block]) -> bool:
    """Return whether samples collated together are what each is alone, in any order, or differ in padding only."""
    if isinstance(batch, Exception):
        return True  # samples that do not fit into one batch
    if len(batch) != sum(len(sample) for sample in samples):
        return False
    return all(_contains(batch, sample) for sample in samples)


def _contains(batch: Block, sample: Block) -> bool:
    """Return whether each row of ``sample`` is one of ``batch``'s."""
    found = torch.ones(len(sample), len(batch), dtype=torch.bool)
    ours, theirs = _tensors(sample), _tensors(batch)
    if len(ours) != len(theirs):
        return False
    for mine, other in zip(ours, theirs, strict=True):
        if mine.dim() != other.dim() or mine.dtype != other.dtype:
            return False
        if mine.shape[1:] == other.shape[1:] and mine.dim() and len(mine) == len(sample) and len(other) == len(batch):
            found &= _equal_rows(mine, other)
    return bool(found.any(1).all())


def _tensors(block: Block) -> list[torch.Tensor]:
    return tree_tensors((block.inputs, block.targets))


def _equal_rows(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mask ``(len(a), len(b))`` of rows that are equal up to rounding."""
    exact = not (a.is_floating_point() or a.is_complex())
    same = torch.eq if exact else lambda x, y: torch.isclose(x, y, rtol=1e-3, atol=1e-5, equal_nan=True)
    return torch.stack([same(row.expand_as(b), b).reshape(len(b), -1).all(1) for row in a])
