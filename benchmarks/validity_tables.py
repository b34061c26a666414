"""Records and Markdown tables of the validity benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import mean
from typing import Any

Records = list[dict[str, Any]]


def of(records: Records, kind: str) -> Records:
    """The records of one kind."""
    return [record for record in records if record["kind"] == kind]


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(list(head)), *[[str(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Iterable[float]) -> str:
    """Mean, and least to greatest."""
    found = [value for value in values if value == value]
    return f"{mean(found):.2f} ({min(found):.2f} to {max(found):.2f})" if found else "–"


def by_model(records: Records, columns: dict[str, Callable[[dict[str, Any]], float]]) -> str:
    """One row a model, the spread over seeds in each column."""
    models = list(dict.fromkeys(record["model"] for record in records))
    rows = []
    for model in models:
        runs = [record for record in records if record["model"] == model]
        rows.append([model, len(runs), *[spread(f(run) for run in runs) for f in columns.values()]])
    return table(["model", "seeds", *columns], rows)
