"""``convscope rules``: list rules, try them on a recorded run, and calibrate them on healthy ones."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from convscope._outputs import writable
from convscope._recorded_runs import opened
from convscope._terminal import columns, show
from convscope.alerts.alert import sentence
from convscope.alerts.calibration import calibrate_files
from convscope.alerts.context import LEARNING_RATE
from convscope.alerts.judge import Judge
from convscope.alerts.rules import Rule, default_rules, load_rules
from convscope.dashboard import Run
from convscope.dashboard.logged import logged_checks
from convscope.dashboard.scalars import curves


def add_to(commands: Any) -> None:
    """Add the command to those of the parser."""
    rules = commands.add_parser("rules", help="list rules of alerts, try them on a recorded run, calibrate them")
    kinds = rules.add_subparsers(dest="kind", required=True, metavar="COMMAND")
    _add_list(kinds)
    _add_test(kinds)
    _add_calibrate(kinds)


def _add_list(kinds: Any) -> None:
    listed = kinds.add_parser("list", help="names, severities and metrics of the default rules, or of a file's")
    listed.add_argument("rules", nargs="?", metavar="RULES.yaml", help="default: the rules that convscope ships")
    listed.set_defaults(run=_list)


def _add_test(kinds: Any) -> None:
    tested = kinds.add_parser("test", help="the incidents that rules find in a recorded run")
    tested.add_argument("rules", metavar="RULES.yaml", help="a file with rules, or 'default'")
    tested.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or one with several runs")
    tested.set_defaults(run=_test)


def _add_calibrate(kinds: Any) -> None:
    calibrated = kinds.add_parser(
        "calibrate", help="set the limits of rules from your own healthy runs, to a rate of false alarms"
    )
    calibrated.add_argument("runs", nargs="+", metavar="RUN", help="folders with runs of DriftAlert(series=True)")
    calibrated.add_argument("--false-alarms", type=float, default=0.05, help="share of healthy runs (default 0.05)")
    calibrated.add_argument("-o", "--output", default="rules.yaml", help="file to write (default rules.yaml)")
    calibrated.add_argument("--rules", metavar="RULES.yaml", help="rules to calibrate (default: those that come along)")
    calibrated.set_defaults(run=_calibrate)


def _list(options: argparse.Namespace) -> int:
    rows = [(rule.name, rule.severity, _watched(rule)) for rule in _rules(options.rules or "default")]
    show(columns([("name", "severity", "watches"), *rows]))
    return 0


def _watched(rule: Rule) -> str:
    return _shortened(dict.fromkeys(glob for condition in rule.conditions for glob in condition.globs))


def _shortened(found: Iterable[str]) -> str:
    globs = list(dict.fromkeys(found))
    return ", ".join(globs[:3]) + (", …" if len(globs) > 3 else "")


def _rules(source: str) -> list[Rule]:
    if source == "default":
        return default_rules()
    try:
        return load_rules(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{source}: there is no such file; give a YAML file of rules, or 'default' for those that convscope ships"
        ) from error
    except OSError as error:
        raise ValueError(_unreadable(source, error.strerror or "")) from error
    except ValueError as error:
        if isinstance(error, UnicodeError) or isinstance(error.__cause__, UnicodeError):
            raise ValueError(_unreadable(source, "not text in UTF-8")) from error
        raise


def _unreadable(source: str, why: str) -> str:
    return f"{source}: this cannot be read ({why}); give a YAML file of rules, or 'default' for those of convscope"


def _test(options: argparse.Namespace) -> int:
    rules = _rules(options.rules)
    for name, run in opened(options.runs).items():
        show(_judged(name, run, rules))
    return 0


def _judged(name: str, run: Run, rules: list[Rule]) -> str:
    """Incidents of a run, and rules that had nothing to watch."""
    judge, rated = Judge(rules), False
    for epoch, step, values in logged_checks(run, curves(run.folder)):
        judge.update(values, epoch, step)
        rated = rated or LEARNING_RATE in values
    lines = [f"{name}: {judge.watch.checks} checks, {len(judge.incidents)} incidents"]
    lines += [f"  {one.duration}: [{one.severity}] {one.rule}: {sentence(one.text)}" for one in judge.incidents]
    return "\n".join([*lines, *_not_judged(judge.watch.inactive(), rules), *([] if rated else _unrated(rules))])


def _not_judged(idle: dict[str, list[str]], rules: list[Rule]) -> list[str]:
    """What is missing: a line for each rule that insists on its metrics, one line for the others."""
    optional = {rule.name for rule in rules if rule.optional}
    lines = [f"  {rule} cannot fire: nothing matches {', '.join(idle[rule])}" for rule in idle if rule not in optional]
    rest = [f"{rule} ({_shortened(globs)})" for rule, globs in idle.items() if rule in optional]
    return [*lines, *([f"  not judged, nothing of this was logged: {', '.join(rest)}"] if rest else [])]


def _unrated(rules: list[Rule]) -> list[str]:
    """The rules that look at the learning rate, in a record that has none."""
    names = [rule.name for rule in rules if any(LEARNING_RATE in c.globs for c in (*rule.conditions, *rule.excuses))]
    older = "which records of an earlier version and of replays do not have"
    return [f"  judged without the learning rate, {older}: {', '.join(names)}"] if names else []


def _calibrate(options: argparse.Namespace) -> int:
    writable(Path(options.output), "-o")
    show(calibrate_files(options.runs, options.false_alarms, options.output, options.rules))
    return 0
