"""Read chosen samples as a loader would, with its workers and collate function, each with randomness of its own."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from convscope.capture.data.batches import as_it_is
from convscope.capture.data.seeding import SampleSeeds

Unit = tuple[int, ...]
"""Places, in the loader's indices, of the samples that are collated together: mostly a single one."""

_PARCEL = 16  # units that a worker reads at a time: a message costs more than a small sample


@dataclass
class Delivered:
    """Result of reading a unit: its batch, or the reason why there is none."""

    unit: Unit
    batch: Any = None
    problem: str | None = None


class Reader:
    """Reader of units of samples; its workers live from the first :meth:`read` to the end of the ``with`` block.

    Args:
        loader: Loader whose data set, collate function and workers are used. It is not changed itself.
        keys: Keys of the data set, by place.
        seed: Seed of the samples' randomness, together with each one's place.
    """

    def __init__(self, loader: DataLoader[Any], keys: Any, seed: int) -> None:
        self._keys, self._parcels = keys, _Parcels()
        self._units = _Units(loader.dataset, loader.collate_fn, seed)
        workers = loader.num_workers
        self._loader: DataLoader[Any] = DataLoader(
            self._units,
            batch_size=None,
            sampler=self._parcels,
            num_workers=workers,
            collate_fn=as_it_is,
            worker_init_fn=_WorkerStart(loader.worker_init_fn),
            multiprocessing_context=loader.multiprocessing_context,
            timeout=loader.timeout,
            persistent_workers=workers > 0,
            generator=torch.Generator().manual_seed(seed),
        )

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        iterator: Any = self._loader._iterator
        if iterator is not None:  # its workers would otherwise live until it is collected
            iterator._shutdown_workers()
            self._loader._iterator = None
        self._units.put_back()

    def read(self, units: Iterable[Unit]) -> Iterator[Delivered]:
        """Each unit's batch, in order; must be read to the end."""
        asked = [[(place, self._keys[place]) for place in unit] for unit in units]
        self._parcels.items = [asked[start : start + _PARCEL] for start in range(0, len(asked), _PARCEL)]
        for parcel in self._loader:
            yield from pickle.loads(parcel) if isinstance(parcel, bytes) else parcel


class _Parcels:
    """A sampler whose items can be changed between two iterations, so that workers need not start again."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class _Units(Dataset):
    """The user's data set, read in parcels of units."""

    def __init__(self, dataset: Any, collate_fn: Callable[[Any], Any], seed: int) -> None:
        self.dataset, self._collate, self._seed = dataset, collate_fn, seed
        self._seeds: SampleSeeds | None = None  # generators are searched where they are used, in the worker

    def put_back(self) -> None:
        """Restore the data set's generators, if this process has read it."""
        if self._seeds is not None:
            self._seeds.put_back()

    def __getitem__(self, parcel: list[list[tuple[int, Any]]]) -> list[Delivered] | bytes:
        delivered = [self._deliver(unit) for unit in parcel]
        if get_worker_info() is None:
            return delivered
        # A tensor that leaves a worker takes a shared file of its own, which for many small ones is slow.
        with suppress(Exception):
            return pickle.dumps(delivered, pickle.HIGHEST_PROTOCOL)
        return delivered

    def _deliver(self, unit: list[tuple[int, Any]]) -> Delivered:
        places = tuple(place for place, _ in unit)
        try:
            return Delivered(places, self._batch(unit))
        except Exception as error:
            return Delivered(places, problem=f"{type(error).__name__}: {error}")

    def _batch(self, unit: list[tuple[int, Any]]) -> Any:
        fresh = self._seeds is None
        self._seeds = seeds = self._seeds or SampleSeeds(self._seed, self.dataset, self._collate)
        samples = self._samples(unit, seeds)
        if fresh and seeds.look_again():  # the first read created some, not yet seeded
            samples = self._samples(unit, seeds)
        try:
            return self._collate(samples)
        except Exception as error:
            raise ValueError(f"its collate function failed: {type(error).__name__}: {error}") from error

    def _samples(self, unit: list[tuple[int, Any]], seeds: SampleSeeds) -> Any:
        fetch = getattr(self.dataset, "__getitems__", None)
        if not callable(fetch):
            return [self._sample(place, key, seeds) for place, key in unit]
        if len(unit) > 1:
            with suppress(Exception):  # where a single key is refused, all together may not be
                found = [self._fetched(fetch, [each], seeds) for each in unit]
                if all(isinstance(part, list | tuple) and len(part) == 1 for part in found):
                    return [part[0] for part in found]
        return self._fetched(fetch, unit, seeds)

    def _fetched(self, fetch: Callable[[list[Any]], Any], unit: list[tuple[int, Any]], seeds: SampleSeeds) -> Any:
        seeds.sow(unit[0][0])
        return fetch([key for _, key in unit])

    def _sample(self, place: int, key: Any, seeds: SampleSeeds) -> Any:
        seeds.sow(place)
        return self.dataset[key]


class _WorkerStart:
    """The user's ``worker_init_fn``, which finds its own data set in ``get_worker_info().dataset``."""

    def __init__(self, function: Callable[[int], None] | None) -> None:
        self._function = function

    def __call__(self, worker: int) -> None:
        info: Any = get_worker_info()
        object.__setattr__(info, "dataset", info.dataset.dataset)  # the class is frozen
        if self._function is not None:
            self._function(worker)
