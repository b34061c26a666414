"""Incidents of a recorded run: messages for a fault, and whether the layer that is named first is the faulty one."""

from __future__ import annotations

import statistics
from functools import lru_cache
from typing import Any

import torch

import convscope
from benchmarks.fault_injection import LEVELS, STRENGTHS, struck_layers
from benchmarks.fault_models import Config, build_net
from convscope.alerts import Incident, judge_run

RunRecord = dict[str, Any]
LAYERED = ("dying", "frozen", "lost_group", "duplicated")  # faults of some layers and not of others


def incidents(record: RunRecord) -> list[Incident]:
    """Incidents that ``DriftAlert()`` would have opened in that run, of severity warning or above."""
    if "incidents" not in record:  # kept in the record, since every table asks for them
        record["incidents"] = judge_run(record["checks"], _rules())
    return [incident for incident in record["incidents"] if incident.severity != "info"]


@lru_cache
def _rules() -> list[Any]:
    return convscope.rules.default()


def messages(record: RunRecord) -> list[int]:
    """Checks at which an incident was told: opened, or critical from then on."""
    found = incidents(record)
    escalated = [incident.escalated.epoch for incident in found if incident.escalated]
    return sorted([incident.epoch for incident in found] + escalated)


def after_fault(record: RunRecord) -> list[Incident]:
    """Incidents that were opened at or after the first check that can see the fault."""
    return [incident for incident in incidents(record) if incident.epoch >= record["begins"]]


def named_first(record: RunRecord) -> str | None:
    """The layer that the first incident after the fault names first, None where there is none."""
    first = next(iter(after_fault(record)), None)
    return next(iter(first.layers), None) if first else None


def faulty_layers(record: RunRecord) -> list[str]:
    """Names of the layers that the fault is put into."""
    with torch.random.fork_rng():
        net = build_net(Config(**record["config"]))
    level = LEVELS[record["fault"]][STRENGTHS.index(record["strength"])]
    names = {id(module): f"net.{name}" for name, module in net.named_modules()}
    return [names[id(layer)] for layer in struck_layers(record["fault"], level, net)]


def incident_rows(faulty: list[RunRecord], strength: str) -> list[list[str]]:
    """One row a fault: messages and alerts for a fault that was found, and how often the faulty layer came first."""
    rows = [["fault", "messages for a fault: median, most", "alerts in them: median, most", "faulty layer named first"]]
    runs = [record for record in faulty if record["strength"] == strength]
    for fault in [*LEVELS, "all"]:
        mine = [record for record in runs if fault in ("all", record["fault"])]
        told = [count for r in mine if (count := sum(check >= r["begins"] for check in messages(r)))]
        fired = [count for r in mine if (count := sum(len(one.alerts) for one in after_fault(r)))]
        rows.append([fault, _middle_and_most(told), _middle_and_most(fired), _named(mine)])
    return rows


def is_named(record: RunRecord) -> bool:
    """Return whether the layer named first is one of the faulty ones; a fault that is not found counts as no."""
    return named_first(record) in faulty_layers(record)


def _named(runs: list[RunRecord]) -> str:
    layered = [record for record in runs if record["fault"] in LAYERED]
    return f"{sum(map(is_named, layered))} of {len(layered)}" if layered else ""


def _middle_and_most(counts: list[int]) -> str:
    return f"{statistics.median(counts):g}, {max(counts)}" if counts else "–"
