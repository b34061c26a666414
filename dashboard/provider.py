"""Tensors of a record as TensorBoard's data provider gives them, with fast loading and without.

A provider tells of each tag only its last step and time, and gives a series whole or not at all: so series are read
when they are asked for, and kept until they have grown.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from tensorboard.data.provider import RunTagFilter

from convscope.dashboard import form
from convscope.dashboard.tensors import as_text

_ALL = 2**31 - 1  # samples per tag: all that TensorBoard has kept
_MARKS = frozenset({form.SESSION, form.MANIFEST, form.INCIDENTS, form.CHECK})
"""Tags of which one is written with everything that a reader can see."""

Stamp = tuple[float, ...]
"""Last step and time of a series, by which its growth is seen."""


@dataclass(frozen=True)
class Asking:
    """One request to the data provider: on whose behalf, and for which experiment."""

    provider: Any
    context: Any
    experiment: str

    def stamps(self, runs: list[str] | None = None, tags: frozenset[str] | None = None) -> dict[str, dict[str, Stamp]]:
        """Stamps of the record's series by run and tag; of all runs and tags by default."""
        wanted = RunTagFilter(runs=runs, tags=tags)
        found = self.provider.list_tensors(
            self.context, experiment_id=self.experiment, plugin_name=form.PLUGIN, run_tag_filter=wanted
        )
        return {run: {tag: (one.max_step, one.max_wall_time) for tag, one in by.items()} for run, by in found.items()}

    def revisions(self) -> dict[str, str]:
        """A text for each run with a record that changes whenever there is more to read."""
        stamps = self.stamps(tags=_MARKS)
        return {run: _text(by_tag) for run, by_tag in sorted(stamps.items()) if form.MANIFEST in by_tag}

    def tensors(self, run: str, tag: str) -> list[tuple[int, float, Any]]:
        """Step, time and array of a series' tensors."""
        wanted = RunTagFilter(runs=[run], tags=[tag])
        found = self.provider.read_tensors(
            self.context, experiment_id=self.experiment, plugin_name=form.PLUGIN, downsample=_ALL, run_tag_filter=wanted
        )
        return [(datum.step, datum.wall_time, datum.numpy) for datum in found.get(run, {}).get(tag, [])]

    def curves(self, run: str) -> list[str]:
        """Tags of the run's scalars."""
        found = self.provider.list_scalars(
            self.context,
            experiment_id=self.experiment,
            plugin_name="scalars",
            run_tag_filter=RunTagFilter(runs=[run]),
        )
        return sorted(found.get(run, {}))

    def curve(self, run: str, tag: str, points: int = 1000) -> tuple[list[int], list[float]]:
        """Steps and values of a scalar, at most ``points``."""
        found = self.provider.read_scalars(
            self.context,
            experiment_id=self.experiment,
            plugin_name="scalars",
            downsample=points,
            run_tag_filter=RunTagFilter(runs=[run], tags=[tag]),
        )
        kept = found.get(run, {}).get(tag, [])
        return [datum.step for datum in kept], [datum.value for datum in kept]


def _text(stamps: dict[str, Stamp]) -> str:
    """Stamps as a short text.

    >>> _text({"b": (7, 2.5), "a": (3, 1.25)})
    '3-1.25.7-2.5'
    """
    return ".".join(f"{step}-{time!r}" for _, (step, time) in sorted(stamps.items()))


class SeriesCache:
    """Series that were read, until they take more bytes together than ``limit``; the least recently used go first."""

    def __init__(self, limit: int = 256_000_000) -> None:
        self._limit, self._taken = limit, 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, str], tuple[Stamp, int, dict[int, Any]]] = OrderedDict()

    def get(self, key: tuple[str, str, str], stamp: Stamp) -> dict[int, Any] | None:
        """A series by experiment, run and tag, if it has not grown since."""
        with self._lock:
            if key not in self._kept or self._kept[key][0] != stamp:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][2]

    def put(self, key: tuple[str, str, str], stamp: Stamp, series: dict[int, Any]) -> None:
        """Keep a series."""
        size = sum(_bytes(value) for value in series.values())
        with self._lock:
            self._taken += size - self._kept.pop(key, (stamp, 0, {}))[1]
            self._kept[key] = stamp, size, series
            while self._taken > self._limit and len(self._kept) > 1:
                self._taken -= self._kept.popitem(last=False)[1][1]


def _bytes(value: Any) -> int:
    return sum(map(len, value.ravel().tolist())) if value.dtype == object else int(value.nbytes)


class ProviderTensors:
    """Tensors of one run from a data provider.

    Args:
        asking: The request on whose behalf the provider is asked; set anew for each.
        run: The run's name in TensorBoard.
        cache: Where series are kept.
    """

    def __init__(self, asking: Asking, run: str, cache: SeriesCache) -> None:
        self.asking, self._run, self._cache = asking, run, cache
        self._stamps: dict[str, Stamp] = {}
        self._sessions: list[tuple[int, float]] = []

    def refresh(self) -> bool:
        """Ask for the series that there are; return whether any has grown."""
        found = self.asking.stamps([self._run]).get(self._run, {})
        if found == self._stamps:
            return False
        self._stamps = found
        begun = self.asking.tensors(self._run, form.SESSION) if form.SESSION in found else []
        self._sessions = [(json.loads(as_text(value))["begins"], time) for _, time, value in begun]
        return True

    def tags(self) -> list[str]:
        """Tags of all series, sorted: a provider has no order."""
        return sorted(self._stamps)

    def steps(self, tag: str) -> list[int]:
        """Steps of a tag's tensors in ascending order."""
        return sorted(self._series(tag)) if tag in self._stamps else []

    def read(self, tag: str, step: int) -> Any:
        """One tensor as an array; bytes unchanged."""
        return self._series(tag)[step]

    def _series(self, tag: str) -> dict[int, Any]:
        key = self.asking.experiment, self._run, tag
        stamp = (*self._stamps[tag], *(time for _, time in self._sessions))
        series = self._cache.get(key, stamp)
        if series is None:
            found = self.asking.tensors(self._run, tag)
            series = {step: value for step, time, value in found if not self._repeated(step, time)}
            self._cache.put(key, stamp, series)
        return series

    def _repeated(self, step: int, time: float) -> bool:
        """Return whether a later session began at or before this step, and so has done it again."""
        return any(begins <= step and time < begun for begins, begun in self._sessions)
