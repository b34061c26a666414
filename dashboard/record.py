"""Reader of the record of a run: plain arrays, also of runs that are still going."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convscope.dashboard import form
from convscope.dashboard.correlation import Correlation, Numbers
from convscope.dashboard.tensors import ChosenChecks, FileTensors, Tensors, as_text


class Run:
    """One run's record, as far as it is written; :meth:`refresh` reads new checks.

    Rows of every table are checks, in the order of ``steps``; only whole checks are there. If a run was resumed,
    the checks that it repeated replace the earlier ones.

    Args:
        folder: The folder with the run's event files.
        tensors: Where the record is read if not from those files; ``folder`` is then only a name.

    Raises:
        ValueError: if there is no record, or it is of a newer version.
    """

    def __init__(self, folder: str | Path, tensors: Tensors | None = None) -> None:
        self.folder = Path(folder)
        self._tensors = tensors or FileTensors(self.folder)
        self._manifests: dict[int, dict[str, Any]] = {}
        self.refresh()
        if not self._manifests:
            raise ValueError(
                f"{self.folder} holds no record of convscope: give the folder of a run that had its callbacks, "
                "after its first check"
            )

    def refresh(self) -> bool:
        """Read new checks; return whether there were any."""
        if not self._tensors.refresh():
            return False
        found = {step: _json(self._tensors.read(form.MANIFEST, step)) for step in self._tensors.steps(form.MANIFEST)}
        self._manifests = {step: _checked(kept, self.folder) for step, kept in found.items() if kept}
        return True

    def at_checks(self, places: list[int]) -> Run:
        """The same record as if only these checks had been made, given by their places in ``steps``."""
        return Run(self.folder, ChosenChecks(self._tensors, {self.steps[place] for place in places}))

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

    def layer(self, name: str) -> dict[str, Any]:
        """Description of a layer as in the newest manifest that knows it: kind, channels, spatial size, place."""
        known = (layer for manifest in self._newest_first() for layer in manifest["layers"])
        return next(layer for layer in known if layer["name"] == name)

    def family(self, name: str) -> dict[str, Any]:
        """Description of a callback: its kind, layers, quantities with their units and meanings, numbers over depth."""
        found = [known["families"][name] for known in self._newest_first() if name in known["families"]]
        quantities = {key: one for older in reversed(found) for key, one in older["quantities"].items()}
        return {**found[0], "quantities": quantities}

    def _newest_first(self) -> list[dict[str, Any]]:
        return [self._manifests[step] for step in sorted(self._manifests, reverse=True)]

    def quantities(self, family: str) -> list[str]:
        """Quantities of a callback that were ever measured, in the order in which they came up."""
        known = self.family(family)["quantities"] if family in self.families else []
        measured = self._below(form.values_tag(family, ""))
        return [name for name in dict.fromkeys([*known, *measured]) if name in measured]

    def layers_with_filters(self, family: str) -> list[str]:
        """Layers for which a callback has a value per filter, in depth order."""
        return self._layers_below(form.filters_tag(family, ""))

    def layers_with_correlation(self, family: str) -> list[str]:
        """Layers for which a callback has a correlation of filters, in depth order."""
        return self._layers_below(form.matrix_tag(family, ""))

    @property
    def steps(self) -> list[int]:
        """Training step of each whole check, on the axis of ``self.log``."""
        return self._tensors.steps(form.CHECK)

    @property
    def epochs(self) -> npt.NDArray[np.int64]:
        """Epochs trained before each check: 0 before training, 1 at the end of the first epoch."""
        return self._of_checks(1)

    @property
    def triggers(self) -> list[str]:
        """Trigger of each check: ``"start"``, ``"step"``, ``"validation"`` or ``"train"``."""
        return [form.TRIGGERS[place] for place in self._of_checks(2)]

    def _of_checks(self, place: int) -> npt.NDArray[np.int64]:
        return np.array([self._tensors.read(form.CHECK, step)[place] for step in self.steps], dtype=np.int64)

    # Numbers.

    def values(self, family: str, quantity: str) -> Numbers:
        """A quantity of all layers at all checks, ``(checks, layers)``; NaN if not measured."""
        tag, layers = form.values_tag(family, quantity), self.layers
        table = np.full((len(self.steps), len(layers)), np.nan, dtype=np.float32)
        place = {name: column for column, name in enumerate(layers)}
        columns: dict[int, list[int]] = {}
        for row, step, stored in self._rows(tag):
            begun = self._manifest_step(step)
            if begun not in columns:
                columns[begun] = [place[layer["name"]] for layer in self._manifests[begun]["layers"]]
            if len(columns[begun]) == len(stored):  # else the manifest of that step was lost
                table[row, columns[begun]] = stored
        return table

    def summary(self, family: str) -> dict[str, Numbers]:
        """Numbers over depth by name, each ``(checks,)``; NaN if not measured."""
        tag = form.summary_tag(family)
        found: dict[str, Numbers] = {}
        for row, step, stored in self._rows(tag):
            names = self._manifest_at(step)["families"].get(family, {"summary": []})["summary"]
            for name, value in zip(names, stored.tolist(), strict=False):
                found.setdefault(name, np.full(len(self.steps), np.nan, dtype=np.float32))[row] = value
        return found

    def filters(self, family: str, layer: str) -> Numbers:
        """One value per filter at all checks, ``(checks, C)``; NaN if not measured, ``(0, 0)`` if never measured."""
        tag, scales = form.filters_tag(family, layer), form.scales_tag(family)
        rows: dict[int, Numbers] = {}
        scaled = set(self._tensors.steps(scales))
        for row, step, stored in self._rows(tag):
            names = [known["name"] for known in self._manifest_at(step)["layers"]]
            if step in scaled and layer in names:
                rows[row] = stored.astype(np.float32) * self._tensors.read(scales, step)[names.index(layer)]
        if not rows:
            return np.zeros((0, 0), dtype=np.float32)
        table = np.full((len(self.steps), max(len(row) for row in rows.values())), np.nan, dtype=np.float32)
        for row, kept in rows.items():
            table[row, : len(kept)] = kept
        return table

    def correlation(self, family: str, layer: str, check: int = -1) -> Correlation | None:
        """A layer's filter correlation at a check (its place, the last by default); None if it was not measured."""
        step = self.steps[check]
        tags = [make(family, layer) for make in (form.matrix_tag, form.order_tag, form.partner_tag)]
        if not all(step in self._tensors.steps(tag) for tag in tags):
            return None
        cells, orders, rho = (self._tensors.read(tag, step) for tag in tags)
        matrix, (order, partner) = form.unpack(cells), orders.astype(np.int64)
        starts = np.arange(len(matrix)) * len(order) // len(matrix)
        return Correlation(matrix, order, starts, partner, rho.astype(np.float32))

    # Data beside numbers.

    @property
    def incidents(self) -> list[dict[str, Any]]:
        """The incidents so far, as last written; oldest first."""
        steps = self._tensors.steps(form.INCIDENTS)
        return list(json.loads(as_text(self._tensors.read(form.INCIDENTS, steps[-1])))) if steps else []

    @property
    def logged(self) -> list[tuple[int, int, dict[str, float]]]:
        """Epoch, step and values by tag that were logged besides the tables: losses, metrics of the user's, and the
        largest learning rate since the last time, ``convscope/learning_rate``; after each validation, else each epoch.
        """
        read = ((step, _json(self._tensors.read(form.LOGGED, step))) for step in self._tensors.steps(form.LOGGED))
        return [(int(one["epoch"]), step, dict(one["values"])) for step, one in read if one is not None]

    def array(self, family: str, name: str, check: int = -1) -> Any:
        """A further array of a callback as it was at a check (or a list of texts or bytes); None if there is none."""
        return self._latest(form.array_tag(family, name), check)

    def arrays(self, family: str) -> list[str]:
        """Names of a callback's further arrays."""
        return self._below(form.array_tag(family, ""))

    @property
    def pictures(self) -> list[str]:
        """Tags of the pictures that callbacks drew."""
        return self._below(form.picture_tag(""))

    def picture(self, tag: str, check: int = -1) -> bytes | None:
        """A picture as it was at a check, PNG."""
        found = self._latest(form.picture_tag(tag), check)
        return None if found is None else bytes(found[0])

    def _latest(self, tag: str, check: int) -> Any:
        steps = self._tensors.steps(tag)
        place = bisect_right(steps, self.steps[check])
        if place == 0:
            return None
        found = self._tensors.read(tag, steps[place - 1])
        if found.dtype != object:
            return found
        return found.tolist() if found.ndim else json.loads(as_text(found))

    def _rows(self, tag: str) -> Iterator[tuple[int, int, Any]]:
        """Row, step and tensor of the whole checks that have one under a tag."""
        kept = set(self._tensors.steps(tag))
        yield from ((row, step, self._tensors.read(tag, step)) for row, step in enumerate(self.steps) if step in kept)

    def _below(self, start: str) -> list[str]:
        """Rests of the tags that begin so."""
        return [tag.removeprefix(start) for tag in self._tensors.tags() if tag.startswith(start)]

    def _layers_below(self, start: str) -> list[str]:
        found = set(self._below(start))
        return [layer for layer in self.layers if layer in found]

    def _manifest_at(self, step: int) -> dict[str, Any]:
        return self._manifests[self._manifest_step(step)]

    def _manifest_step(self, step: int) -> int:
        before = [known for known in self._manifests if known <= step]
        return max(before) if before else min(self._manifests)

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


def _json(stored: Any) -> dict[str, Any] | None:
    try:
        return dict(json.loads(as_text(stored)))
    except ValueError:  # damaged on the disk
        return None


def _checked(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    version = manifest["version"]
    if version > form.VERSION:
        raise ValueError(
            f"the record in {folder} has version {version}, of a newer convscope; this one reads up to "
            f"{form.VERSION}: install the newer one"
        )
    return manifest
