"""The making of a check: passes, every observer's values, and its conclusions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convscope.callbacks.engine import bridge
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.findings import Findings, Moment
from convscope.callbacks.engine.groups import Group
from convscope.callbacks.engine.lockstep import together
from convscope.callbacks.engine.observer import Observer
from convscope.callbacks.engine.progress import Progress
from convscope.callbacks.engine.shared_pass import run_pass
from convscope.callbacks.engine.stopwatch import Stopwatch

Results = list[tuple[Observer, Findings]]


@dataclass
class Measuring:
    """Measures what is due. A failure costs an observer or a layer."""

    failures: Failures
    stopwatch: Stopwatch
    progress: Progress

    def measure(self, group: Group, due: list[Observer]) -> Results:
        """Values of a group's observers that are due: one pass for all, and one for each with samples of its own."""
        found: Results = []
        plan = group.plan
        if plan is None:
            return found
        for part, mine in plan.passes([observer for observer in plan.observers if observer in due]):
            with self.failures.guard("a check"):
                with self.stopwatch.part("passes"):
                    usable = self._read_validation(group, mine) if part is plan else None
                    if usable is None:
                        usable = run_pass(part, mine, self.failures, bridge.gather_objects, self.progress)
                self.progress.phase("solving", sum(map(len, usable.values())))
                with self.stopwatch.part("solving"):
                    found += [(observer, self._compute(observer, usable[observer.name])) for observer in mine]
        return found

    def _read_validation(self, group: Group, due: list[Observer]) -> dict[str, list[Any]] | None:
        """What the validation that has just run gave for this plan; None where a pass is to be made."""
        if group.free is None:
            return None
        found = group.free.usable(due)
        self.stopwatch.count_before("passes", group.free.seconds)
        return found

    def _compute(self, observer: Observer, layers: list[Any]) -> Findings:
        findings = Findings(observer.name, kind=observer.family)
        for layer in layers:
            with self.failures.guard(f"{observer.name}, layer {layer.name}"):
                result = together(lambda layer=layer: observer.compute(layer))  # type: ignore[misc]
                if result is not None:
                    findings.layers[layer.name] = result
            self.progress.advance()
        with self.failures.guard(f"the summary of {observer.name}"):
            findings.summary = together(lambda: observer.summarise(findings.values))
        return findings

    def conclude(self, found: Results, when: Moment) -> None:
        """Let observers conclude from the values of all, then remember."""
        check = {observer.name: findings for observer, findings in found}
        for observer, findings in found:
            with self.failures.guard(f"the conclusions of {observer.name}"):
                together(lambda o=observer, f=findings: o.conclude(f, check))  # type: ignore[misc]
        for observer, findings in found:
            with self.failures.guard(f"the history of {observer.name}"):
                observer.remember(findings, when)
