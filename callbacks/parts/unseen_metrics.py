"""Metrics that rules watch and nobody logs: named once, and only when they are certain not to come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from convscope.alerts.context import ACCURACIES
from convscope.alerts.watch import Watch
from convscope.callbacks.parts import training_batches, training_gradients
from convscope.callbacks.parts.layer_observer import LayerObserver

# The callback that logs a family of tags. Tags that start with none of these are the user's own.
FAMILIES = {
    "probe": "LayerProbe",
    "importance": "FilterImportance",
    "correlation": "FilterCorrelation",
    "drift": "RepresentationDrift",
    "health": "FilterHealth",
}
# Families of companion methods. Rules on them are for those who add the method: without it nothing is missing.
COMPANIONS = {"resampling": "InputResampling", "multi_scale": "MultiScaleInterpretation"}
OWN = "zz_convscope"  # logged by any observer
LOOKED_AT = ({training_batches.FAMILY}, {training_gradients.FAMILY})  # by DriftAlert itself
PATIENCE = 3  # checks; some tags compare with the previous check and begin at the second


class UnseenMetrics:
    """Reports the rules that are inactive, and the globs that match nothing."""

    def __init__(self) -> None:
        self._checks = 0
        self._logged: Counter[str] = Counter()  # checks at which something of a family was logged
        self._said: set[str] = set()  # rules

    def look(self, trainer: pl.Trainer, watch: Watch, values: Mapping[str, float], of_a_suite: bool = False) -> None:
        """Take in one check, on every process.

        A family whose callback the trainer lacks never comes. A callback that is there may still log its metrics: it is
        given a few checks. The user's own metrics are named at the first check if a rule insists on them, else after a
        few checks.

        Args:
            trainer: The trainer.
            watch: Its rules.
            values: What was logged since the last check.
            of_a_suite: The rules are those of a suite, which chose its callbacks: nothing is wrong then.
        """
        self._checks += 1
        self._logged.update({tag.split("/")[0] for tag in values})
        there = {callback.name for callback in trainer.callbacks if isinstance(callback, LayerObserver)}  # type: ignore[attr-defined]
        idle = watch.inactive() | _left_behind(watch, there)
        unwanted = {name for name, globs in idle.items() if _families(globs) & COMPANIONS.keys() - there}
        # A rule on a difference is for runs that have both of its parts: a regression has no accuracy above chance.
        unwanted |= idle.keys() & {r.name for r in watch.given if any(c.others for c in r.conditions)}
        # A rule on accuracy alone has nothing to say of a run that logs none: a regression, or the user's choice.
        unwanted |= {name for name, globs in idle.items() if set(globs) <= set(ACCURACIES)}
        # DriftAlert itself looks at training; where it finds no images or no gradients there, nobody can add any.
        unwanted |= {name for name, globs in idle.items() if _families(globs) in LOOKED_AT}
        count = len(watch.given) - len(unwanted)
        inactive = {n: globs for n, globs in idle.items() if n not in self._said | unwanted}
        optional = {rule.name for rule in watch.given if rule.optional}
        absent = {name: globs for name, globs in inactive.items() if _absent(globs, there)}
        self._say_absent({n: globs for n, globs in absent.items() if n in optional}, there, count, of_a_suite)
        rest = {name: globs for name, globs in inactive.items() if not (name in absent and name in optional)}
        self._warn({name: globs for name, globs in rest.items() if name not in optional}, there, watch, values)
        if self._checks == PATIENCE:
            self._say_own({name: globs for name, globs in rest.items() if name in optional}, there, count)

    def _say_absent(
        self, rules: Mapping[str, list[str]], there: set[str], count: int, of_a_suite: bool = False
    ) -> None:
        if not rules:
            return
        self._said |= rules.keys()
        missing = {family for globs in rules.values() for family in _families(globs)} - there
        families = sorted(missing & FAMILIES.keys() or {OWN})
        if of_a_suite:
            rank_zero_info(
                f"convscope: alerts: {count - len(rules)} of {count} rules judge what these callbacks measure; for the "
                f"others add {_calls(families)}, or take suite('standard')"
            )
            return
        tags = ", ".join(f"{family}/*" for family in families)
        rank_zero_info(f"{_inactive(rules, count)} {tags}; add {_calls(families)}")

    def _say_own(self, rules: Mapping[str, list[str]], there: set[str], count: int) -> None:
        own = {name: globs for name, globs in rules.items() if not _of_callbacks(globs, there)}
        if own:
            self._said |= own.keys()
            globs = ", ".join(dict.fromkeys(glob for globs in own.values() for glob in globs))
            rank_zero_info(f"{_inactive(own, count)} {globs}; log one of them, or name your own in a copy of the rules")

    def _warn(self, rules: Mapping[str, list[str]], there: set[str], watch: Watch, keys: Iterable[str]) -> None:
        certain = {
            name: globs
            for name, globs in rules.items()
            if not any(f in there and self._logged[f] < PATIENCE for f in _families(globs))
        }
        if certain:
            self._said |= certain.keys()
            nearest = {glob: near for globs in certain.values() for glob, near in watch.nearest(globs, keys).items()}
            shown = "; ".join(f"{glob!r} (nearest: {', '.join(near) or 'none'})" for glob, near in nearest.items())
            rank_zero_warn(f"convscope: no logged metric matches these globs of DriftAlert's rules: {shown}")

    def state_dict(self) -> dict[str, Any]:
        """Plain values, so that nothing is said again after a resume."""
        return {"checks": self._checks, "logged": dict(self._logged), "said": sorted(self._said)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; without one, start over."""
        self._checks = state.get("checks", 0)
        self._logged, self._said = Counter(state.get("logged", {})), set(state.get("said", ()))


def _inactive(rules: Mapping[str, list[str]], count: int) -> str:
    are = "rule is" if count == 1 else "rules is" if len(rules) == 1 else "rules are"
    return f"convscope: DriftAlert: {len(rules)} of {count} {are} inactive because nothing logs"


def _calls(families: Iterable[str]) -> str:
    return ", ".join(f"{FAMILIES.get(family, 'LayerProbe')}()" for family in families)


def _left_behind(watch: Watch, there: set[str]) -> dict[str, list[str]]:
    """Rules that matched before a resume what no callback of this run logs, with the globs."""
    return {
        rule.name: globs
        for rule in watch.given
        for globs in [[glob for condition in rule.conditions for glob in _without_source(condition.globs, there)]]
        if globs
    }


def _without_source(globs: Iterable[str], there: set[str]) -> list[str]:
    """The globs of a condition, if each of them is on tags of callbacks that are not there."""
    known = list(globs)
    own = [glob for glob in known if _families([glob]) & FAMILIES.keys() - there]
    return own if len(own) == len(known) else []


def _families(globs: Iterable[str]) -> set[str]:
    return {glob.split("/")[0] for glob in globs if "/" in glob}


def _absent(globs: list[str], there: set[str]) -> bool:
    """Return whether a metric that the rule needs is logged by a callback that is not there."""
    missing = _families(globs) & FAMILIES.keys() - there
    return bool(missing) or (OWN in _families(globs) and not there)


def _of_callbacks(globs: list[str], there: set[str]) -> bool:
    return bool(_families(globs) & (FAMILIES.keys() | {OWN} | there))
