"""Exports in tidy form hold every number of the record once."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from convscope.dashboard import export, read_run

SAMPLE = Path(__file__).parent / "sample_v1"
CURVES = {"val_loss": {0: 1.5, 3: float("inf")}, "probe/depth": {0: 2.0}}


def test_csv_has_every_number_once(tmp_path: Path) -> None:
    run = read_run(SAMPLE)
    export.write_csv(tmp_path / "all.csv", export.rows("run, 1", run, CURVES))
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == export.COLUMNS
    keys = [tuple(row[name] for name in export.COLUMNS[:-1]) for row in rows]
    assert len(set(keys)) == len(keys)
    for family in run.families:
        for quantity in run.quantities(family):
            found = [row for row in rows if (row["family"], row["quantity"]) == (family, quantity) and row["layer"]]
            table = run.values(family, quantity)
            assert len(found) == np.isfinite(table).sum()
            for row in found:
                place = run.steps.index(int(row["step"])), run.layers.index(row["layer"])
                assert np.float32(row["value"]) == table[place]
    filters = [row for row in rows if row["filter"] and row["layer"] == run.layers[0] and row["family"] == "importance"]
    assert (
        np.float32([row["value"] for row in filters]).tolist()
        == run.filters("importance", run.layers[0]).ravel().tolist()
    )
    own = [row for row in rows if not row["family"]]
    assert [(row["run"], row["step"], row["quantity"], row["value"]) for row in own] == [
        ("run, 1", "0", "val_loss", "1.5"), ("run, 1", "3", "val_loss", "inf"),
    ]  # fmt: skip


def test_json_is_strict_and_has_the_same_rows(tmp_path: Path) -> None:
    run = read_run(SAMPLE)
    export.write_json(tmp_path / "all.json", export.rows("run", run, CURVES), {"run": run})
    text = (tmp_path / "all.json").read_text(encoding="utf-8")
    assert not {"NaN", "Infinity"} & set(text.replace(",", " ").split())
    found = json.loads(text)
    rows = list(export.rows("run", run, CURVES))
    assert len(found["rows"]) == len(rows)
    assert found["rows"][0] == dict(zip(export.COLUMNS, rows[0], strict=True))
    assert found["rows"][-1]["value"] is None  # an infinite loss
    assert found["runs"]["run"]["incidents"][0]["rule"] == "always"


def test_parquet_has_the_same_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run = read_run(SAMPLE)
    export.write_parquet(tmp_path / "all.parquet", export.rows("run", run, CURVES))
    table = parquet.read_table(tmp_path / "all.parquet")
    assert tuple(table.column_names) == export.COLUMNS
    assert list(zip(*table.to_pydict().values(), strict=True)) == list(export.rows("run", run, CURVES))
    export.write_parquet(tmp_path / "none.parquet", iter([]))
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0
