"""Fault benchmark: does DriftAlert fire in time, and is it silent on healthy runs? Faults, healthy runs, rivals.

    python -m benchmarks.faults run --half tune
    python -m benchmarks.faults run --half seventh
    python -m benchmarks.faults report

``run`` trains (one JSON line per run, beside earlier ones: an interrupted benchmark goes on where it was), ``report``
replays the rules and the rivals over what was recorded. Families of programs: ``fault_families.yaml``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.fault_runs import Job, jobs, run

HALVES = ("tune", "test", "third", "fourth", "wide", "fifth", "sixth", "seventh", "large")
"""In order: the limits that a half judged were set on those before it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="train what has not been trained yet")
    runner.add_argument("--half", choices=HALVES, required=True)
    runner.add_argument("--most", type=int, metavar="N", help="train at most so many runs now")
    runner.add_argument("--processes", type=int, default=os.cpu_count())
    reporter = commands.add_parser("report", help="print the tables")
    reporter.add_argument("--half", choices=HALVES, default=HALVES[-1])
    reporter.add_argument("--write", type=Path, metavar="FILE", help="write Markdown there as well")
    reporter.add_argument("--rules", metavar="FILE", help="rules of an earlier version, to compare with")
    for command in (runner, reporter):
        command.add_argument("--records", type=Path, default=Path("runs/faults"), help="folder of the JSON lines")
    options = parser.parse_args()
    if options.command == "run":
        train(options.half, options.records, options.processes, options.most)
        return
    from benchmarks.fault_incidents import RULES
    from benchmarks.fault_report import report

    RULES[:] = [options.rules] if options.rules else []
    earlier = HALVES[: HALVES.index(options.half)]
    tuning = [record for half in earlier for record in load(options.records, half)]
    text = report(load(options.records, options.half), tuning)
    print(text)
    if options.write:
        options.write.write_text(text + "\n", encoding="utf-8")


def train(half: str, folder: Path, processes: int, most: int | None = None) -> None:
    """Run what is not in the records yet."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {record["key"] for record in load(folder, half)}
    wanted = [job for job in jobs(half) if job.key not in known][:most]
    with (folder / f"{half}.jsonl").open("a", encoding="utf-8") as file:
        for line in tqdm(_lines(processes, wanted), total=len(wanted), desc=half):
            file.write(line + "\n")
            file.flush()


def _lines(processes: int, wanted: list[Job]) -> Iterable[str]:
    if processes == 1:
        yield from (json.dumps(run(job)) for job in wanted)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from (json.dumps(record) for record in pool.imap_unordered(run, wanted))


def load(folder: Path, half: str) -> list[dict[str, Any]]:
    """Records of a half; a last line that a kill cut short is passed over."""
    path = folder / f"{half}.jsonl"
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


if __name__ == "__main__":
    main()
