"""Tables of the fault benchmark: aims, false alarms, detection, rivals at equal rates, causes, calibration."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.fault_calibration import calibration_rows, left_out_rows
from benchmarks.fault_causes import CAUSE_OF
from benchmarks.fault_effects import effect_rows, with_effects
from benchmarks.fault_incidents import (
    after_fault,
    has_learned,
    incident_rows,
    incidents,
    is_found,
    is_healthy,
    is_named,
    messages,
    says_nothing_is_learnt,
)
from benchmarks.fault_injection import LAYERED, LEVELS, NOTHING, SLOW, STRENGTHS
from benchmarks.fault_rivals import EVERYBODY, RIVALS, Rival, alarms_of, delay
from benchmarks.fault_statistics import bootstrap, counted, interval, section, share_of, yes
from benchmarks.measure import machine

RunRecord = dict[str, Any]
RATES = (0.02, 0.05, 0.1, 0.2)  # of false alarms, at which everybody is compared


def report(records: list[RunRecord], tuning: list[RunRecord]) -> str:
    """Markdown of everything; ``tuning`` is what the limits were set on."""
    healthy = [r for r in records if is_healthy(r) and has_learned(r)]
    idle = [r for r in records if is_healthy(r) and not has_learned(r)]
    faulty = [r for r in with_effects(records) if r["fault"] in LEVELS and not is_healthy(r)]
    hopeless = [r for r in records if r["fault"] in NOTHING]
    nothing = [r for r in hopeless if not has_learned(r)]
    twins = sum(bool(r.get("twin")) for r in healthy)
    parts = [
        f"{len(healthy)} healthy runs, {twins} of them twins ({len(idle)} more did not learn and are not counted), "
        f"{len(faulty)} with a fault, {len(nothing)} that learn nothing ({len(hopeless) - len(nothing)} more that "
        f"were meant to did learn); {machine()}.",
        section("Aims", _aims(healthy, faulty, nothing)),
        section(
            "Effect of each fault, as a difference from the healthy twin at the end of the run", effect_rows(records)
        ),
        section("Seen and unseen families", _unseen(healthy, faulty, tuning)),
        section("False alarms by family", _by_family(healthy)),
        section("Which rules fired in healthy runs", _culprits(healthy)),
        section("Detection by fault and strength", _detection(faulty)),
        section("Runs that learn nothing: said by the fifth check", _nothing(nothing)),
        section("Messages for a fault, and the layer that is named, medium strength", incident_rows(faulty, "medium")),
        section("Detection at equal rates of false alarms, medium strength", _curves(healthy, faulty)),
        section("Lead on the slow faults, medium strength", _leads(healthy, faulty)),
        section("Causes: true cause and those named first", _confusion(faulty)),
        section("Calibrated limits: runs with an alarm among new healthy ones", calibration_rows(healthy, faulty)),
        section("Calibrated on all families but one, and tried on that one", left_out_rows(healthy, faulty)),
        section("Which rule heads the first incident", _first_rules(faulty)),
    ]
    return "\n\n".join(parts)


# What the rules of an earlier round found on the third half, which judged them.
BEFORE = (
    "72 of 78 (92 %, 84 to 96)",
    "59 of 64 (92 %, 83 to 97)",
    "22 of 26 (85 %, 66 to 94)",
    "14 of 16 (88 %, 64 to 97)",
    "35 of 164 (21 %, 16 to 28)",
    "11 of 14 (79 %, 52 to 92)",
    "81 of 90 (90 %, 82 to 95)",
    "13 of 15 (87 %, 62 to 96)",
    "1",
    "5 (1 to 7)",
)


def _aims(healthy: list[RunRecord], faulty: list[RunRecord], nothing: list[RunRecord]) -> list[list[str]]:
    medium, weak = _of(faulty, strength="medium"), _of(faulty, strength="weak")
    alarmed = [bool(incidents(r)) for r in healthy]
    layered = [is_named(r) for r in medium if r["fault"] in LAYERED]
    causes = [cause in named[:2] for cause, named in _named_causes(faulty)]
    told = [count for r in medium if (count := sum(check >= r["begins"] for check in messages(r)))]
    said = [says_nothing_is_learnt(r) for r in nothing]
    leads = _lead_over_best(healthy, _slow(faulty))[1]
    middle = statistics.median(told) if told else 0
    rows = [
        *_detected("medium", medium, 0.95),
        *_detected("weak", weak, 0.6),
        ["healthy runs with a warning: ≤ 2 %, upper bound ≤ 5 %", counted(alarmed),
         yes(share_of(alarmed)[0] <= 0.02 and share_of(alarmed)[2] <= 0.05)],
        ["a run that learns nothing is said by the fifth check: 100 %", counted(said), yes(_at_least(said, 1.0))],
        ["fault's kind among the first two causes: ≥ 70 %", counted(causes), yes(_at_least(causes, 0.7))],
        ["faulty layer named first, faults that have one: ≥ 80 %", counted(layered), yes(_at_least(layered, 0.8))],
        ["messages per fault: median ≤ 2", f"{middle:g}", yes(bool(told) and middle <= 2)],
        ["lead over the best usable rival, slow faults: ≥ 5 checks, interval above 0", interval(leads),
         yes(share_of(alarmed)[0] <= 0.05 and _at_least_five(leads))],
    ]  # fmt: skip
    head = ["aim", "before", "found", "met"]
    return [head, *([aim, before, *rest] for (aim, *rest), before in zip(rows, BEFORE, strict=True))]


def _at_least_five(leads: list[int]) -> bool:
    return bool(leads) and statistics.median(leads) >= 5 and bootstrap(leads)[0] > 0


def _detected(strength: str, runs: list[RunRecord], rate: float) -> list[list[str]]:
    """All faults of a strength, and those that act."""
    aim, everyone = f"{strength} faults detected: ≥ {rate:.0%}".replace("%", " %"), [is_found(r) for r in runs]
    acting = [is_found(r) for r in runs if r["acts"]]
    return [
        [aim, counted(everyone), yes(_at_least(everyone, rate))],
        [f"{strength} faults that act on their run: ≥ {rate:.0%}".replace("%", " %"), counted(acting),
         yes(_at_least(acting, rate))],
    ]  # fmt: skip


def _at_least(answers: list[bool], rate: float) -> bool:
    return bool(answers) and sum(answers) >= rate * len(answers)


def _unseen(healthy: list[RunRecord], faulty: list[RunRecord], tuning: list[RunRecord]) -> list[list[str]]:
    """Balanced accuracy: mean of the share of medium faults found and of healthy runs without an alarm."""
    rows = [["families", "healthy runs without a warning", "medium faults found", "balanced accuracy"]]
    seen_healthy = [r for r in tuning if is_healthy(r) and has_learned(r)]
    seen_faulty = [r for r in tuning if r["fault"] in LEVELS and not is_healthy(r)]
    for name, sound, spoilt in (("of tuning", seen_healthy, seen_faulty), ("not seen before", healthy, faulty)):
        quiet = [not incidents(r) for r in sound]
        found = [is_found(r) for r in _of(spoilt, strength="medium")]
        balanced = (share_of(quiet)[0] + share_of(found)[0]) / 2
        rows.append([name, counted(quiet), counted(found), f"{balanced:.3f}"])
    return rows


def _by_family(healthy: list[RunRecord]) -> list[list[str]]:
    rows = [["family", "healthy runs with a warning"]]
    for family in dict.fromkeys(r["family"] for r in healthy):
        mine = [bool(incidents(r)) for r in healthy if r["family"] == family]
        rows.append([family, f"{sum(mine)} of {len(mine)}"])
    return rows


def _culprits(healthy: list[RunRecord]) -> list[list[str]]:
    counts: dict[tuple[str, str], set[str]] = {}
    for record in healthy:
        for alert in [alert for one in incidents(record) for alert in one.alerts]:
            counts.setdefault((alert.rule, alert.severity), set()).add(record["key"])
    rows = [["rule", "severity", "healthy runs"]]
    for (rule, severity), keys in sorted(counts.items(), key=lambda item: -len(item[1])):
        rows.append([rule, severity, f"{len(keys)} of {len(healthy)}"])
    return rows if len(rows) > 1 else [*rows, ["none", "", ""]]


def _detection(faulty: list[RunRecord]) -> list[list[str]]:
    rows = [["fault", *(f"{s}: detected, median delay" for s in STRENGTHS[:2]), "a message before the fault"]]
    for fault in [*LEVELS, "all"]:
        runs = faulty if fault == "all" else _of(faulty, fault)
        early = sum(any(a < r["begins"] for a in messages(r)) for r in runs)
        rows.append([fault, *(_found(_of(runs, strength=s)) for s in STRENGTHS[:2]), f"{early} of {len(runs)}"])
    return rows


def _found(runs: list[RunRecord]) -> str:
    delays = [delay(r, messages(r)) for r in runs]
    found = [d for d in delays if d is not None]
    return f"{len(found)} of {len(delays)}, {statistics.median(found) if found else '–'}"


def _nothing(runs: list[RunRecord]) -> list[list[str]]:
    rows = [["program", "said", "called a stalled layer"]]
    for kind in NOTHING:
        mine = [r for r in runs if r["fault"] == kind]
        stalled = [any("stalled_layer" in one.rules for one in incidents(r)) for r in mine]
        said = sum(says_nothing_is_learnt(r) for r in mine)
        rows.append([kind, f"{said} of {len(mine)}", f"{sum(stalled)} of {len(mine)}"])
    return rows


# Rivals.


def _curves(healthy: list[RunRecord], faulty: list[RunRecord]) -> list[list[str]]:
    medium = _of(faulty, strength="medium")
    rows = [["", *(f"≤ {rate:.0%} false alarms" for rate in RATES)]]
    for rival in EVERYBODY:
        cells = []
        for rate in RATES:
            setting = _setting(rival, healthy, rate)
            if setting is None:
                cells.append("–")
                continue
            found = [delay(r, alarms_of(rival, r, setting)) is not None for r in medium]
            cells.append(f"{share_of(found)[0]:.0%} (at {_rate(rival, healthy, setting):.1%})")
        rows.append([rival.name, *cells])
    return rows


def _rate(rival: Rival, healthy: list[RunRecord], setting: float) -> float:
    return share_of([bool(alarms_of(rival, r, setting)) for r in healthy])[0]


def _setting(rival: Rival, healthy: list[RunRecord], rate: float) -> float | None:
    """The most sensitive setting whose rate of false alarms is at most that, None if there is none."""
    return next((setting for setting in rival.settings if _rate(rival, healthy, setting) <= rate), None)


def _slow(faulty: list[RunRecord]) -> list[RunRecord]:
    return [r for r in _of(faulty, strength="medium") if r["fault"] in SLOW]


def _lead_over_best(healthy: list[RunRecord], runs: list[RunRecord], rate: float = 0.05) -> tuple[str, list[int]]:
    """The rival that is soonest on these runs at a rate of false alarms of at most that, and our lead over it."""
    delays = {
        rival.name: [_censored(r, alarms_of(rival, r, setting)) for r in runs]
        for rival in RIVALS
        if (setting := _setting(rival, healthy, rate)) is not None
    }
    if not delays or not runs:
        return "–", []
    best = min(delays, key=lambda name: statistics.fmean(delays[name]))
    ours = [_censored(r, messages(r)) for r in runs]
    return best, [theirs - mine for theirs, mine in zip(delays[best], ours, strict=True)]


def _leads(healthy: list[RunRecord], faulty: list[RunRecord]) -> list[list[str]]:
    rows = [["fault", "runs", "best rival at ≤ 5 % false alarms", "lead in checks (95 % interval)"]]
    slow = _slow(faulty)
    for fault in [*SLOW, "all"]:
        runs = slow if fault == "all" else _of(slow, fault)
        best, leads = _lead_over_best(healthy, runs)
        rows.append([fault, str(len(runs)), best, interval(leads)])
    return rows


def _censored(record: RunRecord, alarms: list[int]) -> int:
    """The delay; up to the end of the run where nothing was said."""
    found = delay(record, alarms)
    return len(record["checks"]) - record["begins"] if found is None else found


# Causes and rules.


def _named_causes(faulty: list[RunRecord]) -> list[tuple[str, list[str]]]:
    """True cause and those named, of runs in which an incident followed a fault whose cause is in the table."""
    runs = [r for r in faulty if r["fault"] in CAUSE_OF and after_fault(r)]
    return [(CAUSE_OF[r["fault"]], [cause.name for cause in after_fault(r)[0].causes]) for r in runs]


def _confusion(faulty: list[RunRecord]) -> list[list[str]]:
    rows = [["true cause", "runs", "named first", "first or second", "named first instead"]]
    found = _named_causes(faulty)
    for cause in [*dict.fromkeys(CAUSE_OF.values()), "all"]:
        mine = [(true, named) for true, named in found if cause in (true, "all")]
        first = [named[:1] == [true] for true, named in mine]
        second = [true in named[:2] for true, named in mine]
        wrong = _counts([named[0] for true, named in mine if named and named[0] != true]) if cause != "all" else ""
        rows.append([cause, str(len(mine)), str(sum(first)), counted(second), wrong])
    return rows


def _first_rules(faulty: list[RunRecord]) -> list[list[str]]:
    rows = [["fault", "rule that heads the first incident (runs)"]]
    for fault in LEVELS:
        heads = [after_fault(r)[0].rule for r in _of(faulty, fault, "medium") if after_fault(r)]
        rows.append([fault, _counts(heads)])
    return rows


def _counts(names: list[str]) -> str:
    ordered = sorted(dict.fromkeys(names), key=lambda name: -names.count(name))
    return ", ".join(f"{name} ({names.count(name)})" for name in ordered) or "–"


def _of(records: list[RunRecord], fault: str | None = None, strength: str | None = None) -> list[RunRecord]:
    return [r for r in records if fault in (None, r["fault"]) and strength in (None, r["strength"])]
