"""Effect of an injected fault on its run: the difference from the healthy twin, which is the same run without it.

Fixed before the test half ran: a fault **acts** if in the last third of the checks after it began the held-out loss is
10 % off the twin's, the held-out accuracy 5 points, or the training loss 20 % (medians over those checks), if a number
is not finite, or if it is a fault of some layers (:data:`~benchmarks.fault_injection.LAYERED`) and anything at all that
is measured differs from the twin.

"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.fault_injection import LAYERED, LEVELS

RunRecord = dict[str, Any]
LEAST = {"val_loss": 0.1, "val_acc": 0.05, "train_loss": 0.2}  # shares of a loss, points of accuracy


def with_effects(records: list[RunRecord]) -> list[RunRecord]:
    """The records with ``acts`` in those with a fault: None where the twin is not there."""
    twins = {record["key"]: record for record in records if record.get("twin")}
    for record in records:
        twin = twins.get(f"{record['key']}/twin")
        record["acts"] = None if twin is None else acts(record, twin)
    return records


def acts(record: RunRecord, twin: RunRecord) -> bool:
    """Return whether a fault made a difference to its run."""
    changes = effects(record, twin)
    if record["fault"] in LAYERED and record["checks"] != twin["checks"]:
        return True
    return any(not abs(changes[tag]) < LEAST[tag] for tag in changes)


def effects(record: RunRecord, twin: RunRecord) -> dict[str, float]:
    """Median difference from the twin in the last third of the checks: of losses as a share, of accuracy in points."""
    begins, count = record["begins"], len(record["checks"])
    late = range(max(begins, count - max(1, (count - begins) // 3)), count)
    return {
        tag: _middle(_difference(tag, record["checks"][check][tag], twin["checks"][check][tag]) for check in late)
        for tag in LEAST
        if all(tag in run["checks"][check] for run in (record, twin) for check in late)
    }


def _difference(tag: str, mine: float, healthy: float) -> float:
    return mine - healthy if tag == "val_acc" else mine / healthy - 1 if healthy else math.inf


def _middle(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.median(found) if all(map(math.isfinite, found)) else math.inf


def effect_rows(records: list[RunRecord]) -> list[list[str]]:
    """One row per fault: how many runs act, and the median differences from the twin, weak and medium."""
    rows = [["fault", "strength", "act", "held-out loss", "held-out accuracy", "training loss"]]
    twins = {record["key"]: record for record in records if record.get("twin")}
    pairs = [(r, twins[f"{r['key']}/twin"]) for r in records if f"{r['key']}/twin" in twins]
    for fault in LEVELS:
        for strength in ("weak", "medium"):
            mine = [pair for pair in pairs if pair[0]["fault"] == fault and pair[0]["strength"] == strength]
            if mine:
                found = [effects(*pair) for pair in mine]
                number = f"{sum(acts(*pair) for pair in mine)} of {len(mine)}"
                rows.append([fault, strength, number, *(_shown(tag, found) for tag in LEAST)])
    return rows


def _shown(tag: str, found: list[dict[str, float]]) -> str:
    values = [one[tag] for one in found if tag in one]
    if not values:
        return "–"
    middle = statistics.median(values)
    unit = " points" if tag == "val_acc" else " %"
    return f"{100 * middle:+.0f}{unit}" if math.isfinite(middle) else "not finite"
