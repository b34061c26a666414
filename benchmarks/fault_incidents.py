"""Incidents of a recorded run: what DriftAlert would have said, when, and which layer it would have named first."""

from __future__ import annotations

import statistics
from functools import lru_cache
from typing import Any

import convscope
from benchmarks.fault_injection import LAYERED, LEVELS, NOTHING
from convscope.alerts import Incident, Rule, judge_run, load_rules, scaled_rules

RunRecord = dict[str, Any]


def incidents(record: RunRecord, factor: float = 1.0) -> list[Incident]:
    """Incidents that ``DriftAlert()`` would have opened, of severity warning or above; ``factor`` widens all limits."""
    return [incident for incident in with_notes(record, factor) if incident.severity != "info"]


def with_notes(record: RunRecord, factor: float = 1.0) -> list[Incident]:
    """All incidents, those of severity info, which are notes, included."""
    kept = record.setdefault("incidents", {})  # since every table asks for them
    if factor not in kept:
        kept[factor] = judge_run(record["checks"], _rules(factor))
    found: list[Incident] = kept[factor]
    return found


@lru_cache
def _rules(factor: float) -> list[Rule]:
    return scaled_rules(load_rules(RULES[0]) if RULES else convscope.rules.default(), factor)


RULES: list[str] = []  # a file in the place of the default rules, such as those of an earlier version


def messages(record: RunRecord, factor: float = 1.0) -> list[int]:
    """Checks at which a warning was told: an incident was opened as one, or became one, or critical, from then on."""
    return sorted(check for incident in incidents(record, factor) for check in _warnings(incident))


def _warnings(incident: Incident) -> list[int]:
    """Checks at which an incident of severity warning or above gave a message of that severity."""
    opened = [incident.epoch] if incident.opened_as != "info" else []
    return opened + ([incident.escalated.epoch] if incident.escalated else [])


def after_fault(record: RunRecord) -> list[Incident]:
    """Incidents that gave a warning at or after the first check that can see the fault."""
    return [one for one in incidents(record) if any(check >= record["begins"] for check in _warnings(one))]


def is_found(record: RunRecord) -> bool:
    """Return whether there was a message at or after the first check that can see the fault."""
    return any(check >= record["begins"] for check in messages(record))


def is_named(record: RunRecord) -> bool:
    """Return whether the layer that the first incident names first is a faulty one; one not found counts as no."""
    first = next(iter(after_fault(record)), None)
    return first is not None and next(iter(first.layers), None) in record["layers"]


def has_learned(record: RunRecord) -> bool:
    """Return whether a run got anywhere: 8 points above chance, or a fifth off its first validation loss."""
    checks = record["checks"]
    if record["program"]["task"] == "classes":
        best: float = max(check["val_acc"] for check in checks)
        return best > max(check.get("probe/chance", 0.0) for check in checks) + 0.08  # not in a check that failed
    losses = [check["val_loss"] for check in checks]
    return bool(min(losses) < 0.8 * losses[0])


def says_nothing_is_learnt(record: RunRecord, check: int = 4) -> bool:
    """Return whether a message or a note by the fifth check said that nothing is learnt, or that numbers are none.

    What is only added to an incident that is open is not told to anybody, and does not count.
    """
    return any(_tells(one, alert.epoch) and alert.rule in LEARNS_NOTHING and alert.epoch <= check
               for one in with_notes(record) for alert in one.alerts)  # fmt: skip


LEARNS_NOTHING = {
    "nothing_yet", "at_chance_yet", "learns_nothing", "never_above_chance", "worse_than_a_guess", "at_chance",
    "not_finite", "non_finite_values", "no_gradient", "gradients_gone", "inputs_constant",
    "nothing_moves",
}  # fmt: skip


def _tells(incident: Incident, check: int) -> bool:
    """Return whether an incident gave a message at a check: it was opened, or became critical."""
    return check in (incident.epoch, incident.escalated.epoch if incident.escalated else None)


def is_healthy(record: RunRecord) -> bool:
    """Return whether nothing is wrong with a run: it has no fault, or is the twin of one that has."""
    return record["fault"] is None or bool(record.get("twin"))


def incident_rows(faulty: list[RunRecord], strength: str) -> list[list[str]]:
    """One row per fault: messages and alerts for a fault that was found, and how often the faulty layer came first."""
    rows = [["fault", "messages for a fault: median, most", "alerts in them: median, most", "faulty layer named first"]]
    runs = [record for record in faulty if record["strength"] == strength and record["fault"] not in NOTHING]
    for fault in [*LEVELS, "all"]:
        mine = [record for record in runs if fault in ("all", record["fault"])]
        told = [count for r in mine if (count := sum(check >= r["begins"] for check in messages(r)))]
        fired = [count for r in mine if (count := sum(len(one.alerts) for one in after_fault(r)))]
        rows.append([fault, _middle_and_most(told), _middle_and_most(fired), _named(mine)])
    return rows


def _named(runs: list[RunRecord]) -> str:
    layered = [record for record in runs if record["fault"] in LAYERED]
    return f"{sum(map(is_named, layered))} of {len(layered)}" if layered else ""


def _middle_and_most(counts: list[int]) -> str:
    return f"{statistics.median(counts):g}, {max(counts)}" if counts else "–"
