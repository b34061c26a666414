"""Recorded series: a file of what rules watched at each check, so that a run can be judged again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from convscope.alerts.context import POSITIONS
from convscope.alerts.rules import Rule

SERIES_FILE = "alert_series.jsonl"


def watched_tags(rules: Collection[Rule]) -> list[str]:
    """Globs and tags of all that the rules read, without repetition; ``*`` alone, which all tags match, is left out."""
    conditions = [condition for rule in rules for condition in (*rule.conditions, *rule.excuses)]
    tags = [tag for c in conditions for tag in (*c.globs, *c.others.values()) if tag != "*"]
    tags += [f"{POSITIONS}/*" for c in conditions if c.positions > 1]
    return list(dict.fromkeys(tags))


def watched_values(values: Mapping[str, float], globs: Collection[str]) -> dict[str, float]:
    """The values that match any of the globs, and those that are not finite, which a rule for all tags would find."""
    return {
        tag: value
        for tag, value in values.items()
        if value - value != 0 or any(fnmatchcase(tag, glob) for glob in globs)
    }


def read_series(path: str | Path) -> list[list[dict[str, float]]]:
    """Runs from their series files: of each one mapping of tags to values per check.

    Args:
        path: A file ``alert_series.jsonl``, or a folder with such files at any depth. Several runs in one file are told
            apart; of a check that is there twice, as after a restart from an earlier checkpoint, the later line counts.

    Raises:
        FileNotFoundError: if there is no such path.
        ValueError: if it holds no series; it says how to record one.
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    files = [place] if place.is_file() else sorted(place.rglob(SERIES_FILE))
    runs = [run for file in files for run in _runs(file)]
    if not runs:
        raise ValueError(f"{path}: there is no {SERIES_FILE}; record one with DriftAlert(series=True)")
    return runs


def _runs(file: Path) -> list[list[dict[str, float]]]:
    found: dict[str, dict[int, dict[str, float]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:  # cut short when the process was killed
            continue
        if "values" in record:
            values = {tag: float(value) for tag, value in record["values"].items()}
            found.setdefault(str(record.get("run")), {})[int(record["check"])] = values
    return [[checks[number] for number in sorted(checks)] for checks in found.values()]
