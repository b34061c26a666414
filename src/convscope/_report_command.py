"""``convscope report RUN …`` and ``convscope compare RUN RUN2``: recorded runs as a page, as text, as tables."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import Any

from convscope._compared import comparison
from convscope._outputs import writable
from convscope._recorded_runs import opened
from convscope._terminal import show
from convscope.dashboard import Run, export
from convscope.dashboard.page import report
from convscope.dashboard.scalars import ScalarCurve, curves
from convscope.dashboard.story import sentences

FOUND = 3
"""Exit status of ``--fail-on``: a run has such incidents."""
_SEVERITIES = ("info", "warning", "critical")
_KINDS = ("csv", "json", "parquet")


def add_to(commands: Any) -> None:
    """Add the commands to those of the parser."""
    page = commands.add_parser("report", help="a page that can be mailed, and a summary of recorded runs")
    page.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or one with several runs")
    page.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default report.html; none if only data is asked for"
    )
    for kind in _KINDS:
        page.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"every number as {kind}, a row each")
    page.add_argument("--fail-on", choices=_SEVERITIES, help=f"exit with {FOUND} if a run has such incidents, or worse")
    page.set_defaults(run=_report)
    pair = commands.add_parser("compare", help="two recorded runs side by side")
    pair.add_argument("runs", nargs=2, metavar="RUN", help="a run's folder")
    pair.add_argument("-o", "--output", type=Path, metavar="FILE", help="also write a report on both")
    pair.set_defaults(run=_compare)


def _report(options: argparse.Namespace) -> int:
    wanted = options.output or (None if options.csv or options.json or options.parquet else Path("report.html"))
    _check_outputs(options, wanted)
    runs = opened(options.runs)
    logged = {name: curves(run.folder) for name, run in runs.items()}
    for name, run in runs.items():
        show("\n".join(sentences(run, name)) + "\n")
    _export(options, runs, logged)
    if wanted is not None:
        _write(wanted, report(runs, logged))
    return FOUND if options.fail_on and _has(runs, options.fail_on) else 0


def _check_outputs(options: argparse.Namespace, page: Path | None) -> None:
    for flag, path in (("-o", page), *((f"--{kind}", getattr(options, kind)) for kind in _KINDS)):
        if path is not None:
            writable(path, flag)


def _export(options: argparse.Namespace, runs: dict[str, Run], logged: dict[str, dict[str, ScalarCurve]]) -> None:
    def rows() -> Any:
        return chain.from_iterable(export.rows(name, run, logged[name]) for name, run in runs.items())

    if options.csv:
        export.write_csv(options.csv, rows())
    if options.json:
        export.write_json(options.json, rows(), runs)
    if options.parquet:
        export.write_parquet(options.parquet, rows())
    for path in (options.csv, options.json, options.parquet):
        if path:
            show(f"written: {path}")


def _write(path: Path, page: str) -> None:
    path.write_text(page, encoding="utf-8")
    show(f"written: {path} ({len(page) / 1e6:.1f} MB); open it in a browser")


def _has(runs: dict[str, Run], least: str) -> bool:
    wanted = _SEVERITIES[_SEVERITIES.index(least) :]
    return any(one.get("severity") in wanted for run in runs.values() for one in run.incidents)


def _compare(options: argparse.Namespace) -> int:
    if options.output:
        writable(options.output, "-o")
    runs = opened(options.runs)
    if len(runs) != 2:
        raise ValueError(f"{' '.join(options.runs)}: {len(runs)} runs are found; give the folders of two")
    show(comparison(*runs.items()))
    if options.output:
        _write(options.output, report(runs, {name: curves(run.folder) for name, run in runs.items()}))
    return 0
