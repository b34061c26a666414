"""Validation of multi-scale interpretation: ``python -m benchmarks.multi_scale --out runs.jsonl`` runs what is missing.

About 40 minutes of one core; a run that is done is not done again. ``--report`` writes docs/benchmarks-multi-scale.md
from what there is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.multi_scale_report import TUNING, report
from benchmarks.multi_scale_runs import NETS, run
from benchmarks.records import read_records

SEEDS = 3


def keys() -> list[str]:
    """All runs, every kind early, so that a report of few of them says something about each."""
    found = [f"shortcut/{strength}/{TUNING + seed}" for seed in range(SEEDS) for strength in ("strong", "none")]
    for seed in range(SEEDS):
        found += [f"planted/{task}/{net}/{seed}" for task in ("quarters", "digits") for net in NETS]
        found += [f"natural/{net}/{seed}" for net in NETS]
        found += [f"shortcut/{strength}/{seed}" for strength in ("strong", "none")]
    found += ["cost/16", *(f"shortcut/none/{seed}" for seed in range(SEEDS, 2 * SEEDS))]
    found += [f"shortcut/{strength}/{seed}" for seed in range(SEEDS) for strength in ("medium", "weak")]
    return [*found, "cost/32"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of records, one line each")
    parser.add_argument("--only", default="", help="run keys that begin so")
    parser.add_argument("--report", action="store_true", help="write the page and run nothing")
    options = parser.parse_args()
    if options.report:
        page = Path(__file__).parents[1] / "docs" / "benchmarks-multi-scale.md"
        page.write_text(report(read_records(options.out)), encoding="utf-8")
        return
    for key in keys():
        if key.startswith(options.only) and key not in {record["key"] for record in read_records(options.out)}:
            record = run(key)
            with options.out.open("a") as file:
                file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
