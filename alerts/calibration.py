"""Calibration: limits of rules for a chosen rate of false alarms, set from a user's own healthy runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from convscope._arguments import share
from convscope.alerts.judge import Judge
from convscope.alerts.rules import Condition, Rule, default_rules, load_rules
from convscope.alerts.series import read_series

Checks = Sequence[Mapping[str, float]]
"""One run: what was logged at each check, by tag."""

FACTORS = tuple(2.0 ** (step / 8) for step in range(-16, 41))  # from a quarter of every limit to 32 times
_DIGITS = 6


@dataclass(frozen=True)
class Calibration:
    """Rules with limits for a chosen rate of false alarms.

    Attributes:
        rules: The rules, with all limits moved by one factor.
        factor: That factor: above 1 they are wider than before, below 1 narrower.
        false_alarms: The rate that was asked for.
        scores: Of each run, in the order given, the least factor at which it has no alarm; infinite where none helps.
    """

    rules: list[Rule]
    factor: float
    false_alarms: float
    scores: list[float]

    @property
    def runs(self) -> int:
        """Number of healthy runs that it rests on."""
        return len(self.scores)

    @property
    def sentence(self) -> str:
        """What was found, and what it promises."""
        return (
            f"limits are {self.factor:.2f} times as wide as before; of new healthy runs of the kind of these "
            f"{self.runs}, at most {self.false_alarms:.0%} have an alarm (on average over calibrations)"
        )

    def save(self, path: str | Path) -> None:
        """Write the rules as YAML, for ``DriftAlert(rules=path)``, with what they promise in the first lines."""
        head = f"# Calibrated on {self.runs} healthy runs: {self.sentence}.\n"
        body = yaml.safe_dump([rule.as_dict() for rule in self.rules], sort_keys=False, allow_unicode=True, width=120)
        Path(path).write_text(head + body, encoding="utf-8")


def calibrate(
    runs: Iterable[Checks], false_alarms: float = 0.05, rules: Iterable[Rule | Mapping[str, Any]] | None = None
) -> Calibration:
    r"""Rules whose limits give a chosen rate of false alarms on runs like those given.

    Split conformal prediction over runs. The score of a run is the least factor on all limits at which it has no alarm
    at all: all its checks, layers and rules are one family, so the promise is per run. With the :math:`n` scores in
    order, the factor is the :math:`\lceil (n + 1)(1 - \alpha) \rceil`-th. Then

    .. math:: P(\text{a new healthy run has an alarm}) \le \alpha

    over the draw of the calibration runs and the new one, whatever the distribution, as long as they are exchangeable:
    same kind of program, data, schedule and number of checks. It is broken by new runs that are longer, of another
    architecture or on other data, by choosing which runs to give after having seen their alarms, and by faults in the
    runs given. With one calibration at hand the rate can be above or below :math:`\alpha`, less so the more runs
    there are.

    Args:
        runs: Healthy runs: of each one mapping of tags to values per check.
        false_alarms: :math:`\alpha`, in (0, 1).
        rules: The rules to calibrate; the default ones if None. An alarm is an incident of severity ``warning`` or
            above.

    Raises:
        ValueError: if there are too few runs for that rate, or if too many of them have alarms that no limit prevents.

    Source: Vovk et al. 2005, Papadopoulos et al. 2002 (split conformal prediction); the score is ours.

    Example:
        >>> rule = {"name": "high", "when": [{"metric": "x", "detector": {"kind": "threshold", "limit": 1.0}}]}
        >>> found = calibrate([[{"x": peak}] for peak in (0.5, 1.2, 1.4, 1.9)], 0.2, [rule])
        >>> round(found.factor, 2), found.rules[0].conditions[0].detector["limit"] >= 1.9
        (2.0, True)
    """
    false_alarms = share("false_alarms", false_alarms, "a rate of false alarms per run", below_one=True)
    given = default_rules() if rules is None else load_rules(rules)
    scores = [alarm_factor(checks, given) for checks in runs]
    place = math.ceil((len(scores) + 1) * (1 - false_alarms) - 1e-9)
    if place > len(scores):
        raise ValueError(_too_few(len(scores), false_alarms))
    factor = sorted(scores)[place - 1]
    if math.isinf(factor):
        raise ValueError(_no_limit_helps(scores, false_alarms))
    return Calibration(scaled_rules(given, factor), factor, false_alarms, scores)


def alarm_factor(checks: Checks, rules: Iterable[Rule]) -> float:
    """Least of :data:`FACTORS` at which a run has no alarm; infinite if it has one at all of them."""
    given = [rule for rule in rules if rule.severity != "info"]
    low, high = -1, len(FACTORS)  # an alarm at `low`, none at `high`, both beyond the ends to begin with
    while high - low > 1:
        middle = (low + high) // 2
        if has_alarm(checks, scaled_rules(given, FACTORS[middle])):
            low = middle
        else:
            high = middle
    return FACTORS[high] if high < len(FACTORS) else math.inf


def has_alarm(checks: Checks, rules: Iterable[Rule]) -> bool:
    """Return whether a run has an incident of severity ``warning`` or above; judges no further than the first."""
    judge = Judge(rules)
    told = (one for epoch, values in enumerate(checks) for one in judge.update(values, epoch).told)
    return any(incident.severity != "info" for incident in told)


def scaled_rules(rules: Iterable[Rule], factor: float) -> list[Rule]:
    """Rules with all limits moved by a factor; above 1 they fire less. Rules with ``calibrated="wait"`` judge that much
    later instead. Excuses, and rules with ``calibrated=False``, stay as they are."""
    return [_scaled_rule(rule, factor) if rule.calibrated and factor != 1 else rule for rule in rules]


def _scaled_rule(rule: Rule, factor: float) -> Rule:
    scaled = _later_condition if rule.calibrated == "wait" else _scaled_condition
    return replace(rule, when=[scaled(condition, factor) for condition in rule.conditions])


def _later_condition(condition: Condition, factor: float) -> Condition:
    """A condition that takes ``factor`` times as many checks to hold."""
    arguments, detector = dict(condition.detector), condition.make_detector()
    for name in ("warm_up", "persistence", "out_of", "until"):
        if (checks := getattr(detector, name, None)) is not None:
            arguments[name] = math.ceil(checks * factor)
    return replace(condition, detector=arguments)


def _scaled_condition(condition: Condition, factor: float) -> Condition:
    arguments = dict(condition.detector)
    detector = condition.make_detector()
    for name in ("limit", "least", "least_of_first", "noise"):
        if name in arguments or hasattr(detector, name):
            value = _moved(str(arguments["kind"]), name, getattr(detector, name), detector.direction, factor)
            arguments[name] = float(f"{value:.{_DIGITS}g}")
    alpha = None if condition.alpha is None else min(condition.alpha / factor, 0.999)
    return replace(condition, detector=arguments, alpha=alpha)


def _moved(kind: str, name: str, value: float, direction: str, factor: float) -> float:
    """A limit that is ``factor`` times as far from what is usual."""
    if kind == "no_progress":
        return value / factor
    if kind == "relative_drop" and name == "limit" and direction != "both":
        # Shares of a fall cannot pass 1: what is left of the value, or what it has grown to, is raised to a power.
        return float((1 + value) ** factor - 1 if direction == "up" else 1 - max(1 - value, 0.0) ** factor)
    towards_zero = kind == "threshold" and ((direction == "down" and value > 0) or (direction == "up" and value < 0))
    return value / factor if towards_zero else value * factor


def needed_runs(false_alarms: float) -> int:
    """Least number of runs from which that rate can be promised.

    Example:
        >>> needed_runs(0.05), needed_runs(0.2)
        (19, 4)
    """
    return math.ceil(1 / false_alarms - 1e-9) - 1


def _too_few(count: int, false_alarms: float) -> str:
    possible = f", or ask for false_alarms={math.ceil(1000 / (count + 1)) / 1000:g}" if count else ""
    return (
        f"runs: {count} healthy runs cannot promise false_alarms={false_alarms:g}: give at least "
        f"{needed_runs(false_alarms)}{possible}"
    )


def _no_limit_helps(scores: list[float], false_alarms: float) -> str:
    places = [str(place) for place, score in enumerate(scores, 1) if math.isinf(score)]
    return (
        f"runs: {len(places)} of {len(scores)} have an alarm whatever the limits ({', '.join(places[:10])} in the "
        f"order given), too many for false_alarms={false_alarms:g}: look at what judge_run says of them, and give "
        "healthy runs, or leave out the rules that fire"
    )


def calibrate_files(
    paths: Sequence[str | Path], false_alarms: float, output: str | Path, rules: str | Path | None = None
) -> str:
    """Calibrate on recorded runs and write the rules; returns a sentence that says what was done.

    Args:
        paths: Folders of runs (or folders that hold such), or files ``alert_series.jsonl``, as
            ``DriftAlert(series=True)`` writes them.
        false_alarms: As for :func:`calibrate`.
        output: YAML file to write.
        rules: YAML file of the rules to calibrate; the default ones if None.

    Raises:
        ValueError: as :func:`calibrate`, or if no series is there.
        FileNotFoundError: if there is no such path.
    """
    found = [run for path in paths for run in read_series(path)]
    done = calibrate(found, false_alarms, None if rules is None else load_rules(rules))
    done.save(output)
    return f"{output}: {done.sentence}"
