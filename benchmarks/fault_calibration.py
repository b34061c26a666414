"""Whether calibrated limits keep their promise: recorded healthy runs are drawn again and again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import convscope
from benchmarks.fault_incidents import is_found
from benchmarks.fault_statistics import counted, share_of
from convscope.alerts.calibration import FACTORS, alarm_factor, has_alarm, needed_runs, scaled_rules

RunRecord = dict[str, Any]
ALPHAS, SIZES, DRAWS = (0.02, 0.05, 0.1, 0.2), (10, 20, 50), 2000


def score(record: RunRecord) -> float:
    """Least factor on all limits at which a run has no alarm; kept in the record."""
    if "score" not in record:
        record["score"] = alarm_factor(record["checks"], convscope.rules.default())
    kept: float = record["score"]
    return kept


def calibration_rows(healthy: list[RunRecord], faulty: list[RunRecord]) -> list[list[str]]:
    """By rate and number of runs: alarms among new runs when calibration runs are drawn from all recorded ones."""
    rows = [
        ["rate asked for", *(f"{n} runs: new runs with an alarm" for n in SIZES), "medium faults detected (50 runs)"]
    ]
    scores = np.array([score(r) for r in healthy])
    medium = [r for r in faulty if r["strength"] == "medium"]
    for alpha in ALPHAS:
        cells = [_observed(scores, alpha, n) for n in SIZES]
        rows.append([f"{alpha:.0%}", *cells, _detected(scores, alpha, medium)])
    rows.append(["default limits", *[""] * len(SIZES), counted([is_found(r) for r in medium])])
    return rows


def _observed(scores: np.ndarray, alpha: float, count: int) -> str:
    """Mean share of alarms over draws: ``count`` runs to calibrate on and one new one, without replacement."""
    if count < needed_runs(alpha):
        return f"refused: needs {needed_runs(alpha)}"
    if count + 1 > len(scores):
        return "too few recorded"
    generator, alarms = np.random.default_rng(0), 0
    place = math.ceil((count + 1) * (1 - alpha) - 1e-9)
    for _ in range(DRAWS):
        drawn = generator.permutation(scores)[: count + 1]
        alarms += bool(drawn[-1] > np.sort(drawn[:-1])[place - 1])
    p, low, high = share_of([True] * alarms + [False] * (DRAWS - alarms))
    return f"{p:.1%} ({low:.1%} to {high:.1%})"


def _detected(scores: np.ndarray, alpha: float, medium: list[RunRecord], count: int = 50) -> str:
    """Share of faults found at the median factor over draws of 50 runs (of all, where there are fewer)."""
    generator, count = np.random.default_rng(1), min(count, len(scores))
    if count < needed_runs(alpha) or not medium:
        return "–"
    place = math.ceil((count + 1) * (1 - alpha) - 1e-9)
    factors = [float(np.sort(generator.permutation(scores)[:count])[place - 1]) for _ in range(200)]
    factor = float(np.median(factors))
    if math.isinf(factor):
        return "no limit helps"
    nearest = min(FACTORS, key=lambda one: abs(one - factor))
    return f"{counted([_is_found(r, nearest) for r in medium])} at factor {nearest:.2f}"


def _is_found(record: RunRecord, factor: float) -> bool:
    """Return whether an alert comes at or after the fault."""
    from benchmarks.fault_incidents import messages

    return any(check >= record["begins"] for check in messages(record, factor))


def left_out_rows(healthy: list[RunRecord], faulty: list[RunRecord], alpha: float = 0.1) -> list[list[str]]:
    """Calibrated on the healthy runs of all other families: what that gives in the family that was left out."""
    rows = [["family", "factor", f"healthy runs with an alarm ({alpha:.0%} asked for)", "medium faults found"]]
    alarms: list[bool] = []
    hits: list[bool] = []
    for family in dict.fromkeys(r["family"] for r in healthy):
        others = sorted(score(r) for r in healthy if r["family"] != family)
        place = math.ceil((len(others) + 1) * (1 - alpha) - 1e-9)
        if place > len(others) or math.isinf(others[place - 1]):
            continue
        factor = others[place - 1]
        mine = [score(r) > factor for r in healthy if r["family"] == family]
        found = [_is_found(r, factor) for r in faulty if r["family"] == family and r["strength"] == "medium"]
        rows.append([family, f"{factor:.2f}", f"{sum(mine)} of {len(mine)}", f"{sum(found)} of {len(found)}"])
        alarms, hits = alarms + mine, hits + found
    rows.append(["all", "", counted(alarms), counted(hits)])
    return rows


def check_score(record: RunRecord) -> bool:
    """Return whether the score is what it says: no alarm at that factor."""
    return not has_alarm(record["checks"], scaled_rules(convscope.rules.default(), score(record)))
