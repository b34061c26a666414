"""Signatures of causes, learnt on the tuning half, and how often the right one is among the first on another half.

    python -m benchmarks.fault_causes

writes the signatures of ``alerts/causes.yaml``, one per kind of fault, from the records of the tuning halves; texts
there are kept. It prints how many causes are among the first two when each family is left out in turn.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import yaml

from benchmarks.fault_incidents import after_fault
from benchmarks.faults import load
from convscope.alerts.causes import CauseTable, table_of
from convscope.alerts.symptoms import SYMPTOMS, Symptoms, strongest

RunRecord = dict[str, Any]
FILE = Path(__file__).parents[1] / "alerts" / "causes.yaml"
LEAST_SPREAD = 0.25
# Which cause each injected fault is of. What cannot be seen from the inside, or has no cause of its own, is left out.
CAUSE_OF = {
    "labels": "wrong_targets",
    "labels_ramp": "wrong_targets",
    "one_class": "wrong_targets",
    "normalisation": "changed_inputs",
    "channels": "changed_inputs",
    "inverted": "changed_inputs",
    "blurred": "changed_inputs",
    "resize": "changed_inputs",
    "repeated": "repeated_data",
    "leak": "leaked_data",
    "task_switch": "other_task",
    "class_weights": "loss_weights",
    "learning_rate": "steps_too_large",
    "weight_decay": "weight_decay",
    "underflow": "gradients_lost",
    "clipped": "gradients_lost",
    "shortcut": "shortcut",
    "dying": "dead_filters",
    "frozen": "frozen_layers",
    "lost_group": "frozen_layers",
    "nan_batch": "broken_numbers",
    "duplicated": "copied_filters",
    "cloning": "copied_filters",
    "bn_momentum": "batch_statistics",
    "bn_frozen": "batch_statistics",
}


def symptoms_at(record: RunRecord, check: int, checks: int = 2) -> dict[str, float]:
    """Symptoms of a check and of those after it, ``checks`` in all, each at its largest."""
    tracker, found = Symptoms(), {}
    for number, values in enumerate(record["checks"][: check + checks]):
        now = tracker.update(values)
        if number >= check:
            found = strongest(found, now)
    return found


def learn(records: list[RunRecord]) -> dict[str, Any]:
    """``signatures`` by fault, and ``spread``, from runs with a fault."""
    return signatures([(r["fault"], symptoms_at(r, _moment(r))) for r in records if r["fault"] in CAUSE_OF])


def _moment(record: RunRecord) -> int:
    """The check at which causes would be ranked: that of the first incident, or of the fault where there is none."""
    found = after_fault(record)
    return found[0].epoch if found else int(record["begins"])


def signatures(shown: list[tuple[str, dict[str, float]]]) -> dict[str, Any]:
    """Means and spread of symptoms that were shown, each with its fault."""
    seen: dict[str, list[dict[str, float]]] = {}
    for fault, symptoms in shown:
        seen.setdefault(fault, []).append(symptoms)
    means = {fault: {name: _mean(runs, name) for name in SYMPTOMS_AND_BROKEN} for fault, runs in seen.items()}
    spread = {name: _spread(seen, means, name) for name in SYMPTOMS_AND_BROKEN}
    return {"signatures": means, "spread": spread}


SYMPTOMS_AND_BROKEN = [*SYMPTOMS, "numbers that are no numbers"]


def _mean(runs: list[dict[str, float]], name: str) -> float:
    values = [run[name] for run in runs if name in run]
    # As if half a run more had shown nothing: a symptom that one run had is no signature yet.
    return round(sum(values) / (len(values) + 0.5), 2)


def _spread(seen: dict[str, list[dict[str, float]]], means: dict[str, dict[str, float]], name: str) -> float:
    squares = [(run[name] - means[cause][name]) ** 2 for cause, runs in seen.items() for run in runs if name in run]
    return round(max(LEAST_SPREAD, statistics.fmean(squares) ** 0.5 if squares else 1.0), 2)


def table_with(learnt: dict[str, Any]) -> dict[str, Any]:
    """The file's plain values with what was learnt in the place of what it holds."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    for name, row in found["causes"].items():
        row.pop("signatures", None)
        mine = [fault for fault in learnt["signatures"] if CAUSE_OF[fault] == name]
        row["signatures"] = {fault: learnt["signatures"][fault] for fault in mine}
    return found | {"spread": learnt["spread"]}


def confusion(records: list[RunRecord], table: CauseTable, opened: dict[str, int]) -> dict[str, list[list[str]]]:
    """By true cause, the ranked names in every run that was found; ``opened``: the check of its incident by key."""
    found: dict[str, list[list[str]]] = {}
    for record in records:
        cause = CAUSE_OF.get(record["fault"] or "")
        if cause is not None and record["key"] in opened:
            ranked = table.rank(symptoms_at(record, opened[record["key"]]))
            found.setdefault(cause, []).append([one.name for one in ranked])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=Path("runs/faults"), help="folder of the JSON lines")
    parser.add_argument("--halves", nargs="+", default=["tune", "test"], help="names of the files to learn from")
    options = parser.parse_args()
    records = [record for half in options.halves for record in load(options.records, half)]
    faulty = [r for r in records if r["fault"] and not r.get("twin")]
    found = table_with(learn(faulty))
    comment = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    body = yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=120)
    FILE.write_text("\n".join([*comment, "", body]), encoding="utf-8")
    right = left_out(faulty)
    print(f"{sum(right)} of {len(right)} causes are among the first two, each family left out in turn")


def left_out(faulty: list[RunRecord]) -> list[bool]:
    """Whether the cause of each run that was found is among the first two, learnt on the other families alone."""
    right = []
    for family in dict.fromkeys(r["family"] for r in faulty):
        table = table_of(table_with(learn([r for r in faulty if r["family"] != family])))
        mine = [r for r in faulty if r["family"] == family and after_fault(r)]
        ranked = confusion(mine, table, {r["key"]: after_fault(r)[0].epoch for r in mine})
        right += [cause in names[:2] for cause, runs in ranked.items() for names in runs]
    return right


if __name__ == "__main__":
    main()
