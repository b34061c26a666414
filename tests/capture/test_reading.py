"""Each sample reads the same whoever reads it, and when, and what a loader delivers keeps its number."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    default_collate,
    get_worker_info,
)

from convscope.capture import HeldOut
from tests.support.heldout import Stream, numbered, numbers, prepared
from tests.support.processes import gather, in_processes

IMAGES, LABELS = numbered(40)
RNG = np.random.default_rng(7)


class Noisy(Dataset):
    """Adds noise from a source of the test's choosing."""

    def __init__(self, noise: Callable[[], float]) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return IMAGES[i] + self.noise(), int(LABELS[i])


class Lazy(Noisy):
    """Makes its generator at the first read, as many do to have one a worker."""

    rng: Any = None

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        if self.rng is None:
            self.rng = np.random.default_rng()
        return IMAGES[i] + float(self.rng.random()), int(LABELS[i])


def by_worker(worker: int) -> None:
    info: Any = get_worker_info()
    info.dataset.noise = np.random.default_rng(info.seed).random


def own(generator: Any, method: str) -> Callable[[], float]:
    return lambda: float(getattr(generator, method)())


def own_torch(generator: torch.Generator) -> Callable[[], float]:
    return lambda: torch.rand((), generator=generator).item()


def global_generator() -> float:
    return float(RNG.random())


def noisy_collate(batch: list[Any]) -> Any:
    images, labels = default_collate(batch)
    return images + torch.rand(len(images), 1, 1, 1), labels


def mixed(batch: list[Any]) -> Any:
    images, labels = default_collate(batch)
    return 0.5 * images + 0.5 * images[torch.randperm(len(images))], labels


SOURCES: dict[str, Callable[[int], DataLoader]] = {
    "torch": lambda w: DataLoader(Noisy(lambda: torch.rand(()).item()), 8, num_workers=w),
    "numpy": lambda w: DataLoader(Noisy(np.random.rand), 8, num_workers=w),
    "python": lambda w: DataLoader(Noisy(random.random), 8, num_workers=w),
    "subset": lambda w: DataLoader(Subset(Noisy(random.random), range(40)), 8, num_workers=w),
    "own torch": lambda w: DataLoader(Noisy(own_torch(torch.Generator())), 8, num_workers=w),
    "own numpy": lambda w: DataLoader(Noisy(own(np.random.default_rng(0), "random")), 8, num_workers=w),
    "own legacy": lambda w: DataLoader(Noisy(own(np.random.RandomState(0), "rand")), 8, num_workers=w),
    "own python": lambda w: DataLoader(Noisy(random.Random(0).random), 8, num_workers=w),
    "global variable": lambda w: DataLoader(Noisy(global_generator), 8, num_workers=w),
    "made at the first read": lambda w: DataLoader(Lazy(random.random), 8, num_workers=w),
    "made by worker_init_fn": lambda w: DataLoader(
        Noisy(np.random.default_rng(3).random), 8, num_workers=w, worker_init_fn=by_worker
    ),
    "in the collate function": lambda w: DataLoader(
        TensorDataset(IMAGES, LABELS), 8, num_workers=w, collate_fn=noisy_collate
    ),
    "mixed in the batch": lambda w: DataLoader(TensorDataset(IMAGES, LABELS), 8, num_workers=w, collate_fn=mixed),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_random_samples_read_the_same_for_any_number_of_workers_and_processes(name: str) -> None:
    def share(rank: int) -> str:
        return read(2, rank, 2)

    def read(workers: int, rank: int = 0, size: int = 1) -> str:
        heldout = HeldOut(SOURCES[name](workers), size=24)
        heldout.prepare(rank=rank, world_size=size, gather=gather if size > 1 else lambda value: [value])
        assert heldout.notes == []
        return heldout.fingerprint

    found = {read(0), read(2), *in_processes(share, 2)}
    assert len(found) == 1
    assert prepared(SOURCES[name](0), size=24, seed=1).fingerprint not in found


@pytest.mark.parametrize("name", SOURCES)
def test_the_generators_go_on_where_they_were(name: str) -> None:
    def stream(observed: bool) -> list[Any]:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        RNG.bit_generator.state = np.random.default_rng(5).bit_generator.state
        loader = SOURCES[name](0)
        if observed:
            prepared(loader, size=24)
        if isinstance(loader.dataset, Lazy):
            return [loader.dataset.rng]
        return [[batch[0].tolist() for batch in loader], random.random(), np.random.rand(), torch.rand(1).item()]

    assert stream(observed=True) == stream(observed=False)


def test_what_cannot_be_seeded_is_said() -> None:
    (note,) = prepared(Noisy(random.SystemRandom().random), size=10).notes
    assert "reading a held-out sample twice gives different values, although" in note


def test_a_transfer_that_augments_is_seeded_by_sample_too() -> None:
    def read(workers: int) -> str:
        heldout = HeldOut(DataLoader(TensorDataset(IMAGES, LABELS), 8, num_workers=workers), size=24)
        heldout.prepare(transfer=lambda batch: [batch[0] + torch.rand(len(batch[0]), 1, 1, 1), batch[1]])
        return heldout.fingerprint

    assert read(0) == read(2)


# What collate functions and worker functions expect.


def without_none(batch: list[Any]) -> Any:
    return default_collate([sample for sample in batch if sample is not None])


class Holes(Dataset):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        return None if i % 5 == 2 else (IMAGES[i], int(LABELS[i]))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [12, 100])
def test_dropped_samples_shift_no_number(workers: int, size: int) -> None:
    heldout = prepared(DataLoader(Holes(), 8, collate_fn=without_none, num_workers=workers), size=size)
    found = numbers(heldout)
    assert not any(number % 5 == 2 for number in found)
    assert torch.equal(heldout.targets, LABELS[found])
    assert len(found) == heldout.total == min(size, 32)


def none_if_empty(batch: list[Any]) -> Any:
    kept = [sample for sample in batch if sample is not None]
    return default_collate(kept) if kept else None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_collate_function_that_gives_none_for_a_dropped_sample(workers: int) -> None:
    heldout = prepared(DataLoader(Holes(), 8, collate_fn=none_if_empty, num_workers=workers), size=100)
    assert numbers(heldout) == [number for number in range(40) if number % 5 != 2]
    assert heldout.notes == [
        "8 of 40 held-out samples cannot be read and are left out; the first: the collate function made no row of a "
        "held-out sample"
    ]


def test_a_stream_may_give_none_for_a_batch() -> None:
    batches = [None if i == 1 else (IMAGES[4 * i : 4 * i + 4], LABELS[4 * i : 4 * i + 4]) for i in range(4)]
    assert numbers(prepared(batches, size=8)) == [0, 1, 2, 3, 8, 9, 10, 11]


def fixed_eight(batch: list[Any]) -> Any:
    images, labels = default_collate(batch)
    return images.reshape(8, 1, 2, 2), labels.reshape(8)


def standardised(batch: list[Any]) -> Any:
    images, labels = default_collate(batch)
    return (images - images.mean()) / (images.std() + 1e-3), labels


def pairs(batch: list[Any]) -> Any:
    images, labels = default_collate(batch)
    return torch.cat([images[0::2], images[1::2]], 1), labels[0::2]


@pytest.mark.parametrize("collate", [fixed_eight, standardised, pairs])
def test_collate_functions_that_need_whole_batches_get_them(collate: Any) -> None:
    def share(rank: int) -> Any:
        heldout = HeldOut(DataLoader(TensorDataset(IMAGES, LABELS), 8, collate_fn=collate), size=24)
        heldout.prepare(rank=rank, world_size=2, gather=gather)
        return heldout.fingerprint, heldout.total

    heldout = prepared(DataLoader(TensorDataset(IMAGES, LABELS), 8, collate_fn=collate), size=24)
    assert heldout.total == (12 if collate is pairs else 24)
    if collate is standardised:
        assert float(heldout.inputs[:8].mean().abs()) < 1e-6
        assert float(heldout.inputs.std()) > 0.5
    assert set(in_processes(share, 2)) == {(heldout.fingerprint, heldout.total)}


def sorted_by_size(batch: list[Any]) -> Any:
    return default_collate(sorted(batch, key=lambda sample: -float(sample[0].sum())))


def test_a_collate_function_that_sorts_moves_no_number() -> None:
    heldout = prepared(DataLoader(TensorDataset(IMAGES, LABELS), 8, collate_fn=sorted_by_size), size=24)
    assert numbers(heldout) == sorted(numbers(heldout))
    assert torch.equal(heldout.targets, LABELS[numbers(heldout)])


def crops(batch: list[Any]) -> Any:
    """Four crops of each image, crop by crop: the rows of one sample do not lie together."""
    images, labels = default_collate(batch)
    return torch.cat([images + k / 10 for k in range(4)]), labels.repeat(4)


def test_several_rows_of_a_sample_are_samples_of_their_own() -> None:
    heldout = prepared(DataLoader(TensorDataset(IMAGES, LABELS), 8, collate_fn=crops), size=24)
    assert heldout.total == 24
    assert torch.equal(heldout.targets, LABELS[numbers(heldout)])
    assert heldout.index.tolist() == list(range(24))


class Together(Dataset):
    """Reads several samples at once; one at a time is refused."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        raise AssertionError("read alone")

    def __getitems__(self, keys: list[int]) -> Any:
        return [(IMAGES[i], LABELS[i]) for i in keys]


class Columns(Together):
    def __getitems__(self, keys: list[int]) -> Any:
        return IMAGES[keys], LABELS[keys]


@pytest.mark.parametrize(
    "loader", [DataLoader(Together(), 8), DataLoader(Columns(), 8, collate_fn=lambda columns: columns)]
)
def test_data_sets_that_read_several_samples_at_once(loader: DataLoader) -> None:
    heldout = prepared(loader, size=20)
    assert torch.equal(heldout.targets, LABELS[numbers(heldout)])
    assert heldout.total == 20


class Opened(Noisy):
    """What ``worker_init_fn`` opens is needed to read; the main process has it not."""

    handle: Any = None

    def __getitem__(self, i: int) -> Any:
        return self.handle[i], int(LABELS[i])


def opens(worker: int) -> None:
    info: Any = get_worker_info()
    assert type(info.dataset) is Opened
    assert info.dataset.noise == "own"
    info.dataset.handle = IMAGES + len(info.dataset) - 40


def test_a_worker_function_finds_the_users_own_data_set() -> None:
    loader = DataLoader(Opened("own"), 8, num_workers=2, worker_init_fn=opens)  # type: ignore[arg-type]
    assert numbers(prepared(loader, size=40)) == list(range(40))
    assert loader.dataset.handle is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("context", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_no_worker_and_no_thread_stays(context: str) -> None:
    threads = threading.active_count()
    loader = DataLoader(
        TensorDataset(IMAGES, LABELS), 8, num_workers=2, persistent_workers=True, multiprocessing_context=context
    )
    prepared(loader, size=20)
    stream = DataLoader(
        Stream(IMAGES, LABELS), 8, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
    )
    prepared(stream, size=20)
    assert loader._iterator is stream._iterator is None
    assert multiprocessing.active_children() == []
    patience = time.monotonic() + 30  # a queue's own thread ends a moment after the queue is closed
    while threading.active_count() > threads and time.monotonic() < patience:
        time.sleep(0.02)
    assert threading.active_count() == threads


# Samples of several sizes.


class Sizes(Dataset):
    """Images of three sizes, in turn, with masks or with labels."""

    def __init__(self, masks: bool = False) -> None:
        self.masks = masks

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        side = 2 + i % 3
        image = torch.full((1, side, side), float(i))
        return image, (image[0] > 20).long() if self.masks else int(LABELS[i])


def bucketed() -> list[list[int]]:
    return [list(range(first, 40, 3))[start : start + 4] for first in range(3) for start in range(0, 14, 4)]


def padded(batch: list[Any]) -> Any:
    largest = max(image.shape[-1] for image, _ in batch)
    images = [torch.nn.functional.pad(image, (0, largest - image.shape[-1]) * 2) for image, _ in batch]
    return torch.stack(images), torch.tensor([label for _, label in batch])


SIZED: dict[str, Callable[[], DataLoader]] = {
    "one at a time": lambda: DataLoader(Sizes(), 1),
    "buckets": lambda: DataLoader(Sizes(), batch_sampler=bucketed()),
    "padded": lambda: DataLoader(Sizes(), 8, collate_fn=padded),
    "masks": lambda: DataLoader(Sizes(masks=True), 1, num_workers=2),
}


@pytest.mark.parametrize("name", SIZED)
def test_samples_of_several_sizes_are_never_in_one_chunk(name: str) -> None:
    heldout = prepared(SIZED[name](), size=30, batch_size=4)
    chunks = list(heldout.chunks())
    assert sorted(number for chunk in chunks for number in chunk.index.tolist()) == list(range(30))
    for chunk in chunks:
        values = chunk.inputs[:, 0, 0, 0].long()
        assert {2 + int(value) % 3 for value in values} == {chunk.inputs.shape[-1]}
        assert len(chunk.targets) == len(chunk.index) <= 4
        if name != "masks":
            assert torch.equal(chunk.targets, LABELS[values])
    with pytest.raises(ValueError, match="3 sizes"):
        _ = heldout.inputs
    part = heldout.sample(7)
    assert part.total == 7 == sum(len(chunk.index) for chunk in part.chunks(2))
    for chunk in part.chunks(1):
        assert torch.equal(chunk.inputs, heldout.one(int(chunk.index)))


def test_processes_run_as_many_chunks_whatever_the_sizes() -> None:
    def share(rank: int) -> Any:
        heldout = HeldOut(SIZED["one at a time"](), size=13, batch_size=4)
        heldout.prepare(rank=rank, world_size=3, gather=gather)
        part = heldout.sample(5)
        lengths = [len(list(each.chunks(size))) for each in (heldout, part) for size in (1, 2, 100)]
        return lengths, heldout.fingerprint, part.fingerprint

    shares = in_processes(share, 3)
    whole = prepared(SIZED["one at a time"](), size=13)
    assert len({tuple(lengths) for lengths, *_ in shares}) == 1
    assert {each[1:] for each in shares} == {(whole.fingerprint, whole.sample(5).fingerprint)}


def test_tapped_batches_of_several_sizes() -> None:
    heldout = HeldOut(size=10)
    heldout.prepare(iter(()))
    for side in (2, 3, 2):
        heldout.tap((torch.ones(4, 1, side, side), torch.arange(4)))
    heldout.finish_tapping()
    assert [(len(chunk.index), chunk.inputs.shape[-1]) for chunk in heldout.chunks(100)] == [(6, 2), (4, 3)]
    assert sorted(number for chunk in heldout.chunks() for number in chunk.index.tolist()) == list(range(10))


Inputs = namedtuple("Inputs", ["image", "scale", "anchors", "name"])


def test_what_is_no_samples_own_is_kept_whole() -> None:
    def collate(batch: list[Any]) -> Any:
        images, labels = default_collate(batch)
        return Inputs(images, torch.tensor(0.5), torch.ones(9, 4), [f"{int(i.sum())}" for i in images]), labels

    heldout = prepared(DataLoader(TensorDataset(IMAGES, LABELS), 8, collate_fn=collate), size=20, batch_size=6)
    for chunk in heldout.chunks():
        assert chunk.inputs.scale == 0.5
        assert chunk.inputs.anchors.shape == (9, 4)
        assert chunk.inputs.name == [f"{int(image.sum())}" for image in chunk.inputs.image]
    assert [len(chunk.index) for chunk in heldout.chunks()] == [6, 6, 6, 2]


# What loaders of another kind deliver.


class Normalising(DataLoader):
    """Changes its batches on their way out."""

    def __iter__(self) -> Any:
        for images, labels in super().__iter__():
            yield images / 10, labels


class Batches:
    """A sequence of batches that is indexed as well as iterated over."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> Any:
        if i >= 5:
            raise IndexError
        return IMAGES[8 * i : 8 * i + 8], LABELS[8 * i : 8 * i + 8]


class BatchData(Batches, Dataset):
    """torch's Dataset given as a loader, as Lightning allows: its items are batches."""


class Iterable(Batches):
    def __iter__(self) -> Any:
        return (self[i] for i in range(5))


@pytest.mark.parametrize("loader", [Normalising(TensorDataset(IMAGES, LABELS), 8), Batches(), BatchData(), Iterable()])
def test_what_takes_a_loaders_place_is_taken_as_it_delivers(loader: Any) -> None:
    heldout = HeldOut(size=20)
    heldout.prepare(loader)
    assert heldout.tapping


@pytest.mark.parametrize("source", [Normalising(TensorDataset(IMAGES, LABELS), 8), Iterable()])
def test_batches_given_as_source(source: Any) -> None:
    heldout = prepared(source, size=20)
    assert torch.equal(heldout.inputs, IMAGES[:20] / (10 if isinstance(source, Normalising) else 1))


SAMPLES = [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]


@pytest.mark.parametrize("source", [SAMPLES, tuple(SAMPLES), [{"image": x, "label": y} for x, y in SAMPLES]])
def test_a_list_of_samples_is_a_data_set(source: Any) -> None:
    heldout = prepared(source, size=20)
    assert heldout.targets.bincount().tolist() == [5] * 4
    assert torch.equal(heldout.targets, LABELS[numbers(heldout)])


class NeedsEight(Together):
    def __getitems__(self, keys: list[int]) -> Any:
        assert len(keys) == 8
        return super().__getitems__(keys)


def test_a_data_set_that_reads_eight_at_once() -> None:
    heldout = prepared(DataLoader(NeedsEight(), 8), size=24)
    assert torch.equal(heldout.targets, LABELS[numbers(heldout)])
    assert heldout.total == 24
