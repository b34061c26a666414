"""Held-out samples are those that the loader delivers, whatever its sampler, its collate function and its keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from convscope.capture import HeldOut
from convscope.capture.errors import UserCodeError
from tests.support.heldout import numbered, numbers, prepared
from tests.support.processes import gather, in_processes

VALIDATION = list(range(60, 100))
IMAGES, LABELS = numbered(100)
DATA = TensorDataset(IMAGES, LABELS)


class Pictures(Dataset):
    """Samples by number, their labels known to themselves alone; a negative label marks a training sample."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, key: Any) -> tuple[torch.Tensor, int]:
        return IMAGES[int(key)], int(LABELS[int(key)])


class Buckets(Sampler):
    """A batch sampler of the user's own, with state that each pass moves."""

    def __init__(self, keys: list[Any]) -> None:
        self.keys, self.epoch = keys, 0

    def __iter__(self) -> Iterator[list[Any]]:
        self.epoch += 1
        order = np.random.RandomState(self.epoch).permutation(len(self.keys))
        for start in range(0, len(order), 7):
            yield [self.keys[place] for place in order[start : start + 7]]

    def __len__(self) -> int:
        return -(-len(self.keys) // 7)


class Forever(Sampler):
    """timm's and others': the loader's workers are kept by a sampler that never ends."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from self.inner


def weights() -> torch.Tensor:
    return (torch.arange(100) >= 60).double()


LOADERS: dict[str, Callable[[Any], DataLoader]] = {
    "subset random": lambda data: DataLoader(data, 8, sampler=SubsetRandomSampler(VALIDATION)),
    "subset random, workers": lambda data: DataLoader(data, 8, sampler=SubsetRandomSampler(VALIDATION), num_workers=2),
    "list": lambda data: DataLoader(data, 8, sampler=VALIDATION),
    "numpy": lambda data: DataLoader(data, 8, sampler=np.array(VALIDATION)),
    "tensor": lambda data: DataLoader(data, 8, sampler=torch.tensor(VALIDATION)),
    "batches": lambda data: DataLoader(data, batch_sampler=BatchSampler(SubsetRandomSampler(VALIDATION), 8, True)),
    "buckets": lambda data: DataLoader(data, batch_sampler=Buckets(VALIDATION)),
    "list of batches": lambda data: DataLoader(data, batch_sampler=[VALIDATION[i : i + 8] for i in range(0, 40, 8)]),
    "weighted": lambda data: DataLoader(data, 8, sampler=WeightedRandomSampler(weights(), 400)),
    "endless": lambda data: DataLoader(data, batch_sampler=Forever(BatchSampler(VALIDATION, 8, False))),
    "endless keys": lambda data: DataLoader(data, 8, sampler=Forever(SubsetRandomSampler(VALIDATION))),
}


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("data", [DATA, Pictures()], ids=["labels known", "labels in samples"])
@pytest.mark.parametrize("size", [20, 1024])
def test_only_samples_that_the_sampler_yields(name: str, data: Any, size: int) -> None:
    heldout = prepared(LOADERS[name](data), size=size)
    found = numbers(heldout)
    assert set(found) <= set(VALIDATION)
    assert len(set(found)) == len(found) == min(size, 40)
    assert found == sorted(found)
    assert torch.equal(heldout.targets, LABELS[found])  # each with its own label
    assert heldout.targets.bincount().tolist() == [len(found) // 4] * 4  # and stratified by these


@pytest.mark.parametrize("name", [name for name in LOADERS if name not in ("weighted",)])
def test_the_choice_depends_neither_on_shuffling_nor_on_the_kind_of_sampler(name: str) -> None:
    reference = prepared(DataLoader(DATA, 8, sampler=VALIDATION), size=20)
    torch.manual_seed(11)
    assert prepared(LOADERS[name](DATA), size=20).fingerprint == reference.fingerprint


@pytest.mark.parametrize("name", LOADERS)
def test_nothing_is_drawn_from_and_no_sampler_moves(name: str) -> None:
    def run(observed: bool) -> list[Any]:
        torch.manual_seed(0), np.random.seed(0)
        loader = LOADERS[name](DATA)
        for _ in range(2):
            if observed:
                prepared(loader, size=20)
            seen = [next(batches := iter(loader))[1].tolist(), next(batches)[1].tolist()]
        return [*seen, torch.rand(1).item(), np.random.rand(), getattr(loader.batch_sampler, "epoch", None)]

    assert run(observed=True) == run(observed=False)


def test_private_generators_of_samplers_are_put_back() -> None:
    generator = torch.Generator().manual_seed(3)
    samplers = [
        RandomSampler(DATA, replacement=True, num_samples=50, generator=generator),
        SubsetRandomSampler(VALIDATION, generator=generator),
        WeightedRandomSampler(weights(), 50, generator=generator),
    ]
    before = generator.get_state()
    found = [prepared(DataLoader(DATA, 8, sampler=sampler, generator=generator), size=10) for sampler in samplers]
    assert torch.equal(generator.get_state(), before)
    generator.manual_seed(4)  # as after some epochs: the choice stays
    again = [prepared(DataLoader(DATA, 8, sampler=sampler), size=10) for sampler in samplers]
    assert [heldout.fingerprint for heldout in found] == [heldout.fingerprint for heldout in again]


class ByName(Dataset):
    """Keys are names, as of a dict, an LMDB or a zip file."""

    def __init__(self) -> None:
        self.table = {f"image{i:03}": (IMAGES[i], int(LABELS[i])) for i in range(100)}

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: str) -> tuple[torch.Tensor, int]:
        return self.table[key]


class ByPair(Dataset):
    """Keys are pairs, as of video and frame; some come as lists, which cannot be hashed."""

    def __getitem__(self, key: Any) -> tuple[torch.Tensor, int]:
        video, frame = key
        return IMAGES[10 * video + frame], int(LABELS[10 * video + frame])


NAMES = [f"image{i:03}" for i in VALIDATION]


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(ByName(), 8, sampler=NAMES),
        DataLoader(ByName(), 8, sampler=SubsetRandomSampler(NAMES)),  # type: ignore[arg-type]
        DataLoader(ByName(), batch_sampler=Buckets(NAMES), num_workers=2),
        DataLoader(ByPair(), 8, sampler=[(i // 10, i % 10) for i in VALIDATION[::-1]]),
        DataLoader(ByPair(), 8, sampler=[[i // 10, i % 10] for i in VALIDATION]),
        DataLoader(ByName().table, 8, sampler=NAMES),  # type: ignore[arg-type]
    ],
)
def test_keys_of_any_kind(loader: DataLoader) -> None:
    heldout = prepared(loader, size=20)
    found = numbers(heldout)
    assert set(found) <= set(VALIDATION)
    assert len(set(found)) == 20
    assert torch.equal(heldout.targets, LABELS[found])
    assert heldout.targets.bincount().tolist() == [5] * 4


class Huge(Dataset):
    """As many samples as there are seeds: each is made when it is asked for."""

    def __len__(self) -> int:
        return 10**12

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        assert 0 <= i < 10**12
        return torch.full((1, 2, 2), float(i)), i % 2


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_data_set_too_large_for_a_permutation(shuffle: bool) -> None:
    sampler = RandomSampler(Huge()) if shuffle else SequentialSampler(Huge())
    heldout = prepared(DataLoader(Huge(), 8, sampler=sampler), size=30)
    assert heldout.total == 30
    assert len({float(image.flatten()[0]) for image in heldout.inputs}) == 30
    assert heldout.targets.bincount().min() > 8  # as in the candidates that were read for their labels
    assert heldout.fingerprint == prepared(Huge(), size=30).fingerprint


def test_a_sampler_over_a_part_of_the_data_set_and_a_whole_one() -> None:
    assert numbers(prepared(DataLoader(DATA, 8, sampler=SequentialSampler(range(5))), size=50)) == list(range(5))  # type: ignore[arg-type]
    assert numbers(prepared(DataLoader(DATA, 8, shuffle=True), size=100)) == list(range(100))
    few = numbers(prepared(DataLoader(DATA, 8, sampler=RandomSampler(DATA, num_samples=6)), size=50))
    assert len(set(few)) == 6


class Corrupt(Dataset):
    """Every third sample cannot be read, which its sampler knows."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        if i % 3 == 0:
            raise OSError(f"image file {i} is truncated")
        return IMAGES[i], int(LABELS[i])


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_that_the_sampler_avoids_are_not_touched(workers: int) -> None:
    good = [i for i in range(100) if i % 3]
    heldout = prepared(DataLoader(Corrupt(), 8, sampler=SubsetRandomSampler(good), num_workers=workers), size=90)
    assert numbers(heldout) == good
    assert heldout.notes == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_read_is_left_out_with_one_sentence(workers: int) -> None:
    heldout = prepared(DataLoader(Corrupt(), 8, num_workers=workers), size=200)
    good = [i for i in range(100) if i % 3]
    assert numbers(heldout) == good
    assert torch.equal(heldout.targets, LABELS[good])
    assert heldout.index.tolist() == list(range(66))
    (note,) = heldout.notes
    assert note.startswith("34 of 100 held-out samples cannot be read and are left out; the first: a held-out sample")
    assert "OSError: image file 0 is truncated" in note


def test_few_readable_samples_among_many_are_found() -> None:
    class Mostly(Corrupt):
        def __getitem__(self, i: int) -> Any:
            return super().__getitem__(i if i % 10 == 1 else 0)

    heldout = prepared(Mostly(), size=200)
    assert numbers(heldout) == [i for i in range(1, 100, 10) if i % 3]


def test_where_none_can_be_read_the_reason_is_raised() -> None:
    with pytest.raises(UserCodeError, match=r"cannot be read: OSError: image file \d+ is truncated"):
        prepared(DataLoader(Corrupt(), 8, sampler=range(0, 99, 3)))  # type: ignore[arg-type]


def test_a_sampler_that_is_used_up_is_not_read_ahead() -> None:
    heldout = HeldOut(size=10)
    sampler = iter(VALIDATION)
    heldout.prepare(DataLoader(DATA, 8, sampler=sampler))  # type: ignore[arg-type]
    assert heldout.tapping
    assert next(sampler) == 60
    given = HeldOut(DataLoader(DATA, 8, sampler=iter(VALIDATION)), size=10)  # type: ignore[arg-type]
    given.prepare()
    assert numbers(given) == VALIDATION[:10]


class Whole(Dataset):
    """Fetches batches by itself: a key is a list of numbers."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, keys: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return IMAGES[keys], LABELS[keys]


def test_a_data_set_that_makes_batches_is_taken_as_the_loader_delivers_it() -> None:
    sampler = BatchSampler(VALIDATION, 8, False)
    heldout = prepared(DataLoader(Whole(), batch_size=None, sampler=sampler), size=20)
    assert numbers(heldout) == VALIDATION[:20]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("kind", ["distributed", "wrapped", "own share"])
def test_any_number_of_processes_choose_the_same_samples(size: int, kind: str) -> None:
    def share(rank: int) -> Any:
        if kind == "distributed":
            sampler: Any = DistributedSampler(DATA, size, rank, shuffle=True, drop_last=True)
        elif kind == "wrapped":
            from lightning.fabric.utilities.distributed import DistributedSamplerWrapper

            sampler = DistributedSamplerWrapper(SubsetRandomSampler(VALIDATION), num_replicas=size, rank=rank)
        else:
            sampler = VALIDATION[rank::size]
        heldout = HeldOut(DataLoader(DATA, 8, sampler=sampler), size=21, batch_size=4)
        heldout.prepare(rank=rank, world_size=size, gather=gather)
        return numbers(heldout), heldout.fingerprint, len(list(heldout.chunks()))

    shares = in_processes(share, size)
    whole = prepared(DataLoader(DATA, 8, sampler=None if kind == "distributed" else VALIDATION), size=21)
    assert {fingerprint for _, fingerprint, _ in shares} == {whole.fingerprint}
    assert sorted(number for found, *_ in shares for number in found) == numbers(whole)
    assert len({chunks for *_, chunks in shares}) == 1
