"""Held-out sets copied from validation batches as they flow by, on several processes: no sample is lost or doubled."""

from __future__ import annotations

import pytest
import torch

from convscope.capture import HeldOut
from tests.support.ranks import Gather, together


def batch(rank: int, place: int, size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs that say from which process, batch and row they come."""
    rows = 1000.0 * rank + 10 * place + torch.arange(size)
    return rows.reshape(size, 1, 1, 1).expand(size, 1, 2, 2).clone(), torch.arange(size) % 3


def tapped(rank: int, gather: Gather, world: int, size: int, batches: list[int]) -> HeldOut:
    heldout = HeldOut(size=size, batch_size=3)
    heldout.prepare(iter(()), rank=rank, world_size=world, gather=gather)
    for place, length in enumerate(batches):
        if heldout.tapping:
            heldout.tap(batch(rank, place, length))
    heldout.finish_tapping()
    return heldout


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("size", "batches"), [(12, [4, 4, 4]), (12, [4]), (6, [4, 4]), (100, [4, 3])])
def test_samples_are_numbered_through_all_processes(world: int, size: int, batches: list[int]) -> None:
    found = together(world, lambda rank, gather: tapped(rank, gather, world, size, batches))
    numbers = [number for heldout in found for number in heldout.index.tolist()]
    assert sorted(numbers) == list(range(len(numbers)))
    seen = [float(value) for heldout in found for value in heldout.inputs[:, 0, 0, 0]]
    assert len(set(seen)) == len(seen)
    here = -(-size // world)
    assert [len(heldout.index) for heldout in found] == [min(here, sum(batches))] * world
    assert {heldout.total for heldout in found} == {len(numbers)}
    assert len({heldout.fingerprint for heldout in found}) == 1
    for rank, heldout in enumerate(found):
        assert {int(value) // 1000 for value in heldout.inputs[:, 0, 0, 0]} == {rank}
        run = [chunk for chunk in heldout.chunks() if not chunk.padding]
        assert torch.cat([chunk.index for chunk in run]).tolist() == heldout.index.tolist()


def test_processes_with_uneven_batches_run_as_many_chunks() -> None:
    found = together(2, lambda rank, gather: tapped(rank, gather, 2, 40, [4, 4] if rank == 0 else [3]))
    assert [len(heldout.index) for heldout in found] == [8, 3]
    assert [sum(1 for _ in heldout.chunks()) for heldout in found] == [3, 3]
    assert [sum(chunk.padding for chunk in heldout.chunks()) for heldout in found] == [0, 2]
    assert [heldout.total for heldout in found] == [11, 11]


def test_a_process_that_saw_no_batch_stops_all_with_one_message() -> None:
    def part(rank: int, gather: Gather) -> str:
        with pytest.raises(ValueError, match="held-out set is empty") as raised:
            tapped(rank, gather, 2, 8, [4] if rank == 0 else [])
        return str(raised.value)

    assert len(set(together(2, part))) == 1
