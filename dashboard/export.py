"""Export of records in tidy form: a row for each number, as CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from convscope.dashboard.answers import is_own
from convscope.dashboard.json_values import plain
from convscope.dashboard.record import Run
from convscope.dashboard.scalars import ScalarCurve

COLUMNS = ("run", "step", "epoch", "trigger", "family", "quantity", "layer", "filter", "value")
"""``epoch``: epochs trained before. Numbers over depth have no ``layer``, only values per filter have a ``filter``, and
the user's own scalars have neither family, epoch nor trigger."""

TidyRow = tuple[str, int, int | None, str | None, str | None, str, str | None, int | None, float]


def rows(name: str, run: Run, curves: dict[str, ScalarCurve]) -> Iterator[TidyRow]:
    """All numbers of a run; what was not measured has no row."""
    moments = list(zip(run.steps, run.epochs.tolist(), run.triggers, strict=True))
    for family in run.families:
        for quantity in run.quantities(family):
            for check, column, value in _finite(run.values(family, quantity)):
                yield name, *moments[check], family, quantity, run.layers[column], None, value
        for quantity, curve in run.summary(family).items():
            for check, _, value in _finite(curve[:, None]):
                yield name, *moments[check], family, quantity, None, None, value
        for layer in run.layers_with_filters(family):
            for check, place, value in _finite(run.filters(family, layer)):
                yield name, *moments[check], family, "per_filter", layer, place, value
    for tag, known in curves.items():
        if not is_own(run, tag):
            yield from ((name, step, None, None, None, tag, None, None, value) for step, value in known.items())


def _finite(table: Any) -> Iterator[tuple[int, int, float]]:
    for check, column in np.argwhere(np.isfinite(table)).tolist():
        yield check, column, float(str(table[check, column]))  # 0.9, not 0.8999999761581421


def write_csv(path: Path, found: Iterator[TidyRow]) -> None:
    """One line per number, UTF-8, with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows(found)


def write_json(path: Path, found: Iterator[TidyRow], runs: dict[str, Run]) -> None:
    """``{"runs": {name: {layers, incidents, versions}}, "rows": [{column: value}, …]}``, a row per line."""
    about = {
        name: {"layers": run.layers, "incidents": run.incidents, "versions": run.manifest["versions"]}
        for name, run in runs.items()
    }
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"runs": {json.dumps(plain(about))},\n"rows": [')
        for place, row in enumerate(found):
            line = json.dumps(plain(dict(zip(COLUMNS, row, strict=True))))
            file.write(f"{',' if place else ''}\n{line}")
        file.write("\n]}\n")


def write_parquet(path: Path, found: Iterator[TidyRow]) -> None:
    """The same columns as a Parquet file.

    Raises:
        ImportError: if pyarrow is missing.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("--parquet needs pyarrow: pip install 'convscope[parquet]'") from error
    whole, number, text = pyarrow.int64(), pyarrow.float64(), pyarrow.string()
    kinds = [text, whole, whole, text, text, text, text, whole, number]
    columns = list(zip(*found, strict=True)) or [()] * len(COLUMNS)
    arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    parquet.write_table(pyarrow.table(dict(zip(COLUMNS, arrays, strict=True))), path)
