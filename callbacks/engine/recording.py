"""The record of a run: the findings of each check, as tensors in the run's event file."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt

from convscope.callbacks.engine import bridge, pictures
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.findings import ClusteredMatrix, Findings, Moment
from convscope.callbacks.engine.manifest import Manifest
from convscope.callbacks.engine.observer import Observer, Plan
from convscope.dashboard import form
from convscope.loggers.packed import packed_correlation
from convscope.loggers.png import png_bytes
from convscope.loggers.record import Storable, TensorWriter

Measured = list[tuple[Observer, Findings]]
MOST_LOGGED = 400
"""Scalars of the user's own that the record keeps per moment; of more, those that came up last."""


class RecordKeeper:
    """Writes the record, on the main process alone. A failure costs that check's record, and one log line.

    It reads plain numbers and NumPy arrays that have been computed anyway, and asks nothing of the device.
    """

    def __init__(self, failures: Failures, observers: list[Observer]) -> None:
        self._failures, self._observers = failures, observers
        self._writers: list[TensorWriter] | None = None
        self._folders: list[Path] = []
        self._manifest = Manifest()
        self._last: dict[str, bytes] = {}  # of tensors that stay until they change
        self._step = self._spent = 0  # training step of the last check; bytes that this one has taken
        self._tags: set[str] = set()  # of values that have a table of their own
        self._logged: list[tuple[int, str]] = []  # not written yet, since the first check is still to come
        self.pictures = pictures.DrawnPictures()

    def write(
        self, trainer: pl.Trainer, plans: list[Plan], found: Measured, own: dict[str, float], when: Moment
    ) -> None:
        """Write one check; ``own`` are the numbers on the check itself."""
        drawn = self.pictures.taken()
        if not trainer.is_global_zero or bridge.fast_dev_run(trainer):
            return
        with self._failures.guard("writing the record"):
            self._begin(trainer, when)
            if not self._writers or self._short_of_space():
                return
            self._spent = 0
            self._manifest.learn(plans, found, own)
            self._tags.update(tag for _, findings in found for tag in _tags(findings))
            self._keep(form.MANIFEST, self._manifest.as_text(), when.step)
            for _, findings in found:
                self._write_numbers(findings, when.step)
            self._put(form.summary_tag("convscope"), self._manifest.summary_row("convscope", own), when.step)
            self._write_arrays(found, when.step)
            self._write_matrices([findings for _, findings in found], when.step)  # into what the others leave
            for tag, picture in drawn.items():
                self._put(form.picture_tag(tag), [png_bytes(picture)], when.step)
            self._write_incidents(trainer, when.step)
            place = form.TRIGGERS.index(when.trigger)
            self._put(form.CHECK, np.array([when.epoch, when.epochs_trained, place], dtype=np.int64), when.step)
            self._flush()

    def write_logged(self, trainer: pl.Trainer, values: dict[str, float], when: Moment) -> None:
        """Write the values that alerts judge at a moment and that are in no table: losses, the learning rate."""
        if not trainer.is_global_zero or bridge.fast_dev_run(trainer):
            return
        kept = {tag: value for tag, value in values.items() if tag not in self._tags}
        chosen = dict(list(kept.items())[-MOST_LOGGED:])  # the learning rate is the last
        self._logged.append((when.step, json.dumps({"epoch": when.epoch, "values": chosen})))
        if self._writers:
            for step, text in self._logged:
                self._put(form.LOGGED, text, step)
            self._logged = []
            self._flush()

    def tell_incidents(self, trainer: pl.Trainer, step: int) -> None:
        """Write the incidents if they have changed since last written: alerts are judged after a check's numbers."""
        if self._writers:
            with self._failures.guard("writing the record"):
                if self._write_incidents(trainer, max(step, self._step)):
                    self._flush()

    def close(self, trainer: pl.Trainer) -> None:
        """The fit is over."""
        self.tell_incidents(trainer, self._step)
        for writer in self._writers or []:
            with self._failures.guard("closing the record"):
                writer.close()
        self._writers = None

    def _begin(self, trainer: pl.Trainer, when: Moment) -> None:
        self._step = when.step
        if self._writers is None:
            self._writers = []  # so that a failure below is not repeated at each check
            writers = [writer for writer in bridge.tensorboard_writers(trainer) if bridge.writes_tensors(writer)]
            targets: list[Any] = [*writers] or [bridge.record_folder(trainer, self._run())]
            self._folders = [Path(getattr(target, "log_dir", target)) for target in targets]
            self._writers = [TensorWriter(form.PLUGIN, target) for target in targets]
            self._manifest.versions = {name: _version(name) for name in ("convscope", "torch", "lightning", "numpy")}
            self._put(form.SESSION, json.dumps({"begins": when.step, "version": form.VERSION}), when.step)

    def _run(self) -> str:
        """A name for the run if no logger has one; a resumed run continues under it."""
        kept = next((observer.run for observer in self._observers if observer.run), "")
        name = kept or f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{uuid.uuid4().hex[:6]}"
        for observer in self._observers:
            observer.run = name
        return name

    def _short_of_space(self) -> bool:
        """Return whether the disk has no more space than training itself will need."""
        return any(shutil.disk_usage(folder).free < pictures.SPARE for folder in self._folders if folder.exists())

    def _write_numbers(self, findings: Findings, step: int) -> None:
        family = findings.family
        for quantity, row in self._manifest.rows(findings).items():
            self._put(form.values_tag(family, quantity), row, step)
        if findings.summary:
            self._put(form.summary_tag(family), self._manifest.summary_row(family, findings.summary), step)
        vectors = {name: r.distribution for name, r in findings.layers.items() if r.distribution is not None}
        if vectors:
            scales = {name: _scale(vector) for name, vector in vectors.items()}
            self._put(form.scales_tag(family), self._manifest.row(scales), step)
            for name, vector in vectors.items():
                self._put(form.filters_tag(family, name), (vector / scales[name]).astype(np.float16), step)

    def _write_matrices(self, check: list[Findings], step: int) -> None:
        wanted = list(_matrices(check))
        if not wanted:
            return
        room = form.budget(self._manifest.count) - self._spent
        sizes = [len(clustered.matrix) for _, _, clustered in wanted]
        fixed = sum(3 * (_EVENT + len(family) + len(layer)) for family, layer, _ in wanted) + 6 * sum(sizes)
        for (family, layer, clustered), side in zip(wanted, matrix_sides(sizes, room - fixed), strict=True):
            order, packed = clustered.order, packed_correlation(clustered.matrix, clustered.order, side)
            self._put(form.matrix_tag(family, layer), form.pack(packed.cells), step)
            self._put(form.order_tag(family, layer), np.stack([order, packed.partner]).astype(np.uint16), step)
            self._put(form.partner_tag(family, layer), packed.rho.astype(np.float16), step)

    def _write_arrays(self, found: Measured, step: int) -> None:
        for observer, findings in found:
            with self._failures.guard(f"the arrays of {observer.name} for the record"):
                for name, value in observer.arrays().items():
                    self._keep(form.array_tag(findings.family, name), value, step)

    def _write_incidents(self, trainer: pl.Trainer, step: int) -> bool:
        return self._keep(form.INCIDENTS, json.dumps(incidents_of(trainer), default=str), step)

    def _put(self, tag: str, value: Storable, step: int) -> None:
        taken = 0
        for writer in self._writers or []:
            taken = writer.write(tag, value, step)
        self._spent += taken

    def _keep(self, tag: str, value: Storable, step: int) -> bool:
        """Write an array that holds until another one is written."""
        now = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
        if self._last.get(tag) == now:
            return False
        self._put(tag, value, step)
        self._last[tag] = now
        return True

    def _flush(self) -> None:
        for writer in self._writers or []:
            writer.flush()


def _tags(findings: Findings) -> Iterator[str]:
    """Tags under which the numbers of the record's tables are logged."""
    for quantity, by_layer in findings.values.items():
        yield from (f"{findings.family}/{quantity}/{layer}" for layer in by_layer)
    yield from (f"{findings.family}/{name}" for name in findings.summary)


def incidents_of(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """Incidents, or else alerts, of all callbacks that have any, as plain values."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    kept = [getattr(callback, "incidents", getattr(callback, "alerts", [])) for callback in callbacks]
    return [_plain(one) for found in kept if isinstance(found, list | tuple) for one in found]


def _plain(incident: Any) -> dict[str, Any]:
    if hasattr(incident, "as_dict"):
        return dict(incident.as_dict())
    return dataclasses.asdict(incident) if dataclasses.is_dataclass(incident) else dict(incident)  # type: ignore[arg-type]


def matrix_sides(sizes: list[int], room: int) -> list[int]:
    """Sides at which symmetric matrices of these sizes together fit into ``room`` bytes; small ones stay whole first.

    >>> matrix_sides([8, 64, 500], 10_000)
    [8, 64, 75]
    """
    sides, left = [0] * len(sizes), room
    for done, place in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        share = max(left // (len(sizes) - done), 2 * _FEWEST)
        sides[place] = min(sizes[place], form.matrix_side(share // 2))
        left -= sides[place] * (sides[place] + 1)
    return sides


_FEWEST = 36  # cells of a matrix that is kept however little space there is: eight by eight
_EVENT = 130  # bytes of an event besides its values and the names in its tag, generously


def _matrices(check: list[Findings]) -> Iterator[tuple[str, str, ClusteredMatrix]]:
    for findings in check:
        for layer, result in findings.layers.items():
            if result.clustered is not None:
                yield findings.family, layer, result.clustered


def _scale(vector: npt.NDArray[np.float64]) -> float:
    finite = np.abs(vector[np.isfinite(vector)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # lightning may be there as pytorch_lightning alone
        return ""
