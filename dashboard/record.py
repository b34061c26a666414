"""Reader of the record of a run: plain arrays from event files, also of runs that are still going."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convscope.dashboard import form
from convscope.dashboard.events import EventFile, Stored, as_text, event_files, holds_record

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Correlation:
    """A layer's filter correlation at one check.

    Attributes:
        matrix: ``(K, K)``, filters in cluster order; if K is below the number of filters C, a cell is a block of
            neighbours with their mean ``|ρ|`` and its prevailing sign. NaN for filters that are constant.
        order: ``(C,)`` filter numbers in cluster order.
        starts: ``(K,)`` place in ``order`` at which each row's block begins.
        partner: ``(C,)`` for each filter the one that it correlates with most, itself if it is constant.
        rho: ``(C,)`` that correlation, -1 to 1.
    """

    matrix: Numbers
    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    partner: npt.NDArray[np.int64]
    rho: Numbers

    def pairs(self, least: float = 0.9) -> list[tuple[int, int, float]]:
        """Filters and their partners with ``|ρ|`` of at least ``least``, the closest first, each pair once."""
        found = {
            (min(one, other), max(one, other)): float(rho)
            for one, (other, rho) in enumerate(zip(self.partner.tolist(), self.rho, strict=True))
            if other != one and abs(rho) >= least
        }
        return sorted(((*pair, rho) for pair, rho in found.items()), key=lambda pair: -abs(pair[2]))


class Run:
    """One run's record, as far as it is written; :meth:`refresh` reads new checks.

    Rows of every table are checks, in the order of ``steps``; only whole checks are there. If a run was resumed,
    the checks that it repeated replace the earlier ones.

    Args:
        folder: The folder with the run's event files.

    Raises:
        ValueError: if there is no record, or it is of a newer version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files: dict[Path, EventFile] = {}
        self._tensors: dict[str, dict[int, Stored]] = {}
        self._manifests: dict[int, dict[str, Any]] = {}
        self.refresh()
        if not self._manifests:
            raise ValueError(
                f"{self.folder} holds no record of convscope: give the folder of a run that had its callbacks, "
                "after its first check"
            )

    def refresh(self) -> bool:
        """Read new checks; return whether there were any."""
        before = len(self.steps), len(self._tensors), len(self._manifests)
        found = False
        for path in event_files(self.folder):
            for tag, step, stored in self._files.setdefault(path, EventFile(path)).added():
                self._add(tag, step, stored)
                found = True
        return found or before != (len(self.steps), len(self._tensors), len(self._manifests))

    def _add(self, tag: str, step: int, stored: Stored) -> None:
        if tag == form.SESSION:
            self._drop_from(json.loads(as_text(stored.read(tag)))["begins"])
        elif tag == form.MANIFEST:
            self._manifests[step] = _checked(json.loads(as_text(stored.read(tag))), self.folder)
        self._tensors.setdefault(tag, {})[step] = stored

    def _drop_from(self, begins: int) -> None:
        """Drop the checks of earlier sessions from the step at which a later session begins: it repeats them."""
        by_step: list[dict[int, Any]] = [*self._tensors.values(), self._manifests]
        for kept in by_step:
            for step in [step for step in kept if step >= begins]:
                del kept[step]

    # Contents.

    @property
    def manifest(self) -> dict[str, Any]:
        """The newest manifest: quantities of each callback by layer, units, ranges, meanings, versions."""
        return self._manifests[max(self._manifests)]

    @property
    def layers(self) -> list[str]:
        """Names of all layers in depth order; columns of :meth:`values`."""
        newest = [layer["name"] for layer in self.manifest["layers"]]
        older = (layer["name"] for manifest in self._manifests.values() for layer in manifest["layers"])
        return list(dict.fromkeys([*newest, *older]))

    @property
    def families(self) -> list[str]:
        """Names of the callbacks: first parts of the tags."""
        return list(dict.fromkeys(name for found in self._manifests.values() for name in found["families"]))

    def quantities(self, family: str) -> list[str]:
        """Quantities of a callback that were ever measured, in the order in which they came up."""
        start = form.values_tag(family, "")
        return [tag.removeprefix(start) for tag, found in self._tensors.items() if tag.startswith(start) and found]

    @property
    def steps(self) -> list[int]:
        """Training step of each whole check, on the axis of ``self.log``."""
        return sorted(self._tensors.get(form.CHECK, {}))

    @property
    def epochs(self) -> npt.NDArray[np.int64]:
        """Epochs trained before each check: 0 before training, 1 at the end of the first epoch."""
        return self._of_checks(1)

    @property
    def triggers(self) -> list[str]:
        """Trigger of each check: ``"start"``, ``"step"``, ``"validation"`` or ``"train"``."""
        return [form.TRIGGERS[place] for place in self._of_checks(2)]

    def _of_checks(self, place: int) -> npt.NDArray[np.int64]:
        found = self._tensors.get(form.CHECK, {})
        return np.array([found[step].read(form.CHECK)[place] for step in self.steps], dtype=np.int64)

    # Numbers.

    def values(self, family: str, quantity: str) -> Numbers:
        """A quantity of all layers at all checks, ``(checks, layers)``; NaN if not measured."""
        tag, layers = form.values_tag(family, quantity), self.layers
        table = np.full((len(self.steps), len(layers)), np.nan, dtype=np.float32)
        place = {name: column for column, name in enumerate(layers)}
        for row, step, stored in self._rows(tag):
            columns = [place[layer["name"]] for layer in self._manifest_at(step)["layers"]]
            table[row, columns] = stored.read(tag)
        return table

    def summary(self, family: str) -> dict[str, Numbers]:
        """Numbers over depth by name, each ``(checks,)``; NaN if not measured."""
        tag = form.summary_tag(family)
        found: dict[str, Numbers] = {}
        for row, step, stored in self._rows(tag):
            names = self._manifest_at(step)["families"][family]["summary"]
            for name, value in zip(names, stored.read(tag).tolist(), strict=True):
                found.setdefault(name, np.full(len(self.steps), np.nan, dtype=np.float32))[row] = value
        return found

    def filters(self, family: str, layer: str) -> Numbers:
        """One value per filter at all checks, ``(checks, C)``; NaN if not measured, ``(0, 0)`` if never measured."""
        tag, scales = form.filters_tag(family, layer), form.scales_tag(family)
        rows: dict[int, Numbers] = {}
        for row, step, stored in self._rows(tag):
            names = [known["name"] for known in self._manifest_at(step)["layers"]]
            scale = self._tensors[scales][step].read(scales)[names.index(layer)]
            rows[row] = stored.read(tag).astype(np.float32) * scale
        if not rows:
            return np.zeros((0, 0), dtype=np.float32)
        table = np.full((len(self.steps), max(len(row) for row in rows.values())), np.nan, dtype=np.float32)
        for row, kept in rows.items():
            table[row, : len(kept)] = kept
        return table

    def correlation(self, family: str, layer: str, check: int = -1) -> Correlation | None:
        """A layer's filter correlation at a check (its place, the last by default); None if it was not measured."""
        step = self.steps[check]
        tag, order_tag = form.matrix_tag(family, layer), form.order_tag(family, layer)
        if step not in self._tensors.get(tag, {}):
            return None
        matrix = form.unpack(self._tensors[tag][step].read(tag))
        order, partner = self._tensors[order_tag][step].read(order_tag).astype(np.int64)
        count, side = len(order), len(matrix)
        starts = np.arange(side) * count // side
        partner_tag = form.partner_tag(family, layer)
        rho = self._tensors[partner_tag][step].read(partner_tag).astype(np.float32)
        return Correlation(matrix, order, starts, partner, rho)

    # Data beside numbers.

    @property
    def incidents(self) -> list[dict[str, Any]]:
        """The incidents so far, as last written; oldest first."""
        found = self._tensors.get(form.INCIDENTS, {})
        return [] if not found else list(json.loads(as_text(found[max(found)].read(form.INCIDENTS))))

    def array(self, family: str, name: str, check: int = -1) -> Any:
        """A further array of a callback as it was at a check (or a list of texts or bytes); None if there is none."""
        return self._latest(form.array_tag(family, name), check)

    def arrays(self, family: str) -> list[str]:
        """Names of a callback's further arrays."""
        start = form.array_tag(family, "")
        return [tag.removeprefix(start) for tag, found in self._tensors.items() if tag.startswith(start) and found]

    @property
    def pictures(self) -> list[str]:
        """Tags of the pictures that callbacks drew."""
        start = form.picture_tag("")
        return [tag.removeprefix(start) for tag, found in self._tensors.items() if tag.startswith(start) and found]

    def picture(self, tag: str, check: int = -1) -> bytes | None:
        """A picture as it was at a check, PNG."""
        found = self._latest(form.picture_tag(tag), check)
        return None if found is None else bytes(found[0])

    def _latest(self, tag: str, check: int) -> Any:
        kept = self._tensors.get(tag, {})
        steps = sorted(kept)
        place = bisect_right(steps, self.steps[check])
        if place == 0:
            return None
        found = kept[steps[place - 1]].read(tag)
        if found.dtype != object:
            return found
        return found.tolist() if found.ndim else json.loads(as_text(found))

    def _rows(self, tag: str) -> Iterator[tuple[int, int, Stored]]:
        kept = self._tensors.get(tag, {})
        yield from ((row, step, kept[step]) for row, step in enumerate(self.steps) if step in kept)

    def _manifest_at(self, step: int) -> dict[str, Any]:
        return self._manifests[max(known for known in self._manifests if known <= step)]

    # For notebooks.

    def to_dict(self) -> dict[str, dict[str, Numbers]]:
        """All tables: ``{family: {quantity: (checks, layers)}}``."""
        return {
            family: {quantity: self.values(family, quantity) for quantity in self.quantities(family)}
            for family in self.families
        }

    def to_pandas(self) -> Any:
        """A ``DataFrame`` with a row for each number: step, epoch, family, quantity, layer, value.

        Raises:
            ImportError: if pandas is missing.
        """
        import pandas

        rows = [
            (self.steps[row], epoch, family, quantity, layer, float(value))
            for family, tables in self.to_dict().items()
            for quantity, table in tables.items()
            for row, epoch in enumerate(self.epochs.tolist())
            for layer, value in zip(self.layers, table[row], strict=True)
            if np.isfinite(value)
        ]
        return pandas.DataFrame(rows, columns=["step", "epoch", "family", "quantity", "layer", "value"])


def _checked(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    version = manifest["version"]
    if version > form.VERSION:
        raise ValueError(
            f"the record in {folder} has version {version}, of a newer convscope; this one reads up to "
            f"{form.VERSION}: install the newer one"
        )
    return manifest


def find_runs(path: str | Path) -> dict[str, Path]:
    """Folders with a record at or below ``path``, by their path from there; ``"."`` for ``path`` itself.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{root}: there is no such folder")
    folders = sorted({file.parent for file in root.rglob("*tfevents*") if file.is_file() and holds_record(file)})
    return {folder.relative_to(root).as_posix(): folder for folder in folders}


def read_runs(path: str | Path) -> dict[str, Run]:
    """The records of all runs at or below a folder, by their path from there.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if a record is of a newer version.
    """
    return {name: Run(folder) for name, folder in find_runs(path).items()}


def read_run(path: str | Path) -> Run:
    """The record of a run.

    Args:
        path: The run's folder, a folder with only this run below it, or one of its event files.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is no record, or more than one, or it is of a newer version.
    """
    folder = Path(path).parent if Path(path).is_file() else Path(path)
    found = find_runs(folder)
    if "." in found or not found:
        return Run(folder)
    if len(found) > 1:
        raise ValueError(
            f"path={str(path)!r} holds {len(found)} runs: give one of them ({', '.join(sorted(found)[:10])}), or use "
            "read_runs"
        )
    return Run(next(iter(found.values())))
