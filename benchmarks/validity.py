"""Validity benchmark: planted facts, published behaviour, and every cheap criterion against ablation.

``python -m benchmarks.validity run`` adds what is missing to a file of records, one JSON line per run, and may be
stopped at any time; ``python -m benchmarks.validity report`` writes docs/benchmarks-validity.md and its figures
from it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import validity_planted as planted
from benchmarks.records import read_records
from benchmarks.validity_models import MODELS
from benchmarks.validity_oracle import oracle_run
from benchmarks.validity_report import write_report
from benchmarks.validity_runs import difficulty_run, random_label_run, watched_run

Job = tuple[dict[str, Any], Callable[[], dict[str, Any]]]
ROOT = Path(__file__).parents[1]


def jobs(images: int, held: int, seeds: int) -> list[Job]:
    """Every run, by what identifies it; all models once before the second seed."""
    found: list[Job] = []
    for seed in range(seeds):
        for name in ("filter_that_carries_a_class", "duplicates_and_dead", "layer_that_destroys"):
            found.append(({"kind": name, "seed": seed}, lambda n=name, s=seed: getattr(planted, n)(s)))  # type: ignore[misc]
    for seed in range(seeds):
        found.append(({"kind": "random_labels", "seed": seed}, lambda s=seed: random_label_run(s)))  # type: ignore[misc]
        for model in MODELS:
            identity = {"model": model, "seed": seed}
            found.append((identity | {"kind": "difficulty"}, lambda m=model, s=seed: difficulty_run(m, s)))  # type: ignore[misc]
    for seed in range(seeds):
        for model in MODELS:
            identity = {"model": model, "seed": seed, "kind": "watched", "images": images, "held": held}
            found.append((identity, lambda m=model, s=seed: watched_run(m, s, images, held)))  # type: ignore[misc]
    for seed in range(seeds):
        for model in MODELS:
            identity = {"model": model, "seed": seed, "kind": "oracle", "images": images, "held": held}
            found.append((identity, lambda m=model, s=seed: oracle_run(m, s, images, held)))  # type: ignore[misc]
    return found


def run(path: Path, wanted: list[Job]) -> None:
    """Make the runs that have no record yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [record["job"] for record in read_records(path)]
    for identity, make in tqdm([job for job in wanted if job[0] not in done], desc="validity"):
        record = make() | {"job": identity, "kind": identity["kind"]}
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--records", type=Path, default=ROOT / "build" / "validity.jsonl")
    parser.add_argument("--images", type=int, default=2500, help="CIFAR-10 training images (default 2500)")
    parser.add_argument("--held", type=int, default=192, help="held-out images of the watched runs (default 192)")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "run":
        run(options.records, jobs(options.images, options.held, options.seeds))
    else:
        write_report(read_records(options.records), ROOT / "docs")


if __name__ == "__main__":
    main()
