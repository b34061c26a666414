"""Free pass: what checks need of the held-out samples, read in the validation that runs them anyway.

It is as good as a pass of their own or it is not used. Whether every sample was seen, once over all processes, by the
content of its input, and whether a few of them give the same activations in a pass, is found out at every check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

from convscope.callbacks.engine import bridge
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.lockstep import together
from convscope.callbacks.engine.observer import Observer, Plan
from convscope.callbacks.engine.progress import Progress
from convscope.callbacks.engine.shared_pass import Bound, begin, conclude_pass
from convscope.capture.data.roster import MOST_TARGETS, Part, Roster, parts_of
from convscope.capture.network.trace import Layer
from convscope.capture.validation import ValidationWatch, obstacle


class FreePass:
    """The free pass of one plan.

    Args:
        plan: The plan; its held-out set has ``during_validation``.
        failures: Receiver of errors.
        say: Tells the user a sentence, once.

    Attributes:
        seconds: Time that observing the last validation took.
    """

    def __init__(self, plan: Plan, failures: Failures, say: Callable[[str], None]) -> None:
        self._plan, self._failures, self._say = plan, failures, say
        self._roster: Roster | None = None
        self._given_up = False
        self._owned: dict[int, int] = {}  # process that counts a sample which several run
        self._watch: ValidationWatch | None = None
        self._begun: list[Observer] = []
        self._watch_again = False  # a sample was counted twice; the next time it will not be
        self.seconds = 0.0

    def expect(self, due: list[Observer]) -> None:
        """Observe the validation that begins, for these observers; every process must call it."""
        self.stop()
        shared = [observer for observer in due if observer.name not in self._plan.own]
        if self._given_up or not shared:
            return
        reason = _own_pass(shared)
        if reason is not None:
            self._say(reason)
            return
        with torch.inference_mode(False), torch.no_grad():
            roster = self._known()
            if roster is None:
                return
            self._begun = begin(self._plan, shared, self._failures)
            together(lambda: self._start(roster))

    def usable(self, due: list[Observer]) -> dict[str, list[Layer]] | None:
        """Layers that went well, by observer's name, as a pass gives them; None if a pass is to be made.

        Every process must call it.
        """
        watch, self._watch, self.seconds = self._watch, None, 0.0
        if watch is None or self._roster is None:
            return None
        watch.stop()
        self.seconds = watch.seconds
        if {observer.name for observer in due} != {observer.name for observer in self._begun}:
            return None  # what is due has changed since
        if watch.error is not None:
            with self._failures.guard("observing the validation"):
                raise watch.error
        told = bridge.gather_objects((watch.reason, sorted(watch.taken)))
        reason = next((why for why, _ in told if why is not None), None) or self._miscount([seen for _, seen in told])
        if reason is None and self._watch_again:
            return None
        if reason is None:
            checked = together(lambda: watch.spot_check(self._plan.heldout))
            reason = next((why for why in bridge.gather_objects(checked) if why is not None), None)
        if reason is not None:
            self._give_up(reason)
            return None
        return conclude_pass(self._plan, due, self._begun, watch.report(), self._failures, bridge.gather_objects)

    def stop(self) -> None:
        """Observe no more; nothing stays on the network."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def _start(self, roster: Roster) -> None:
        chosen = [self._plan.layers[observer.name] for observer in self._begun]
        layers = {layer.id: layer for each in chosen for layer in each}
        silent = Progress()
        consumers = [Bound(o, each, False, silent) for o, each in zip(self._begun, chosen, strict=True)]
        here = bridge.rank()
        skipped = {number for number, owner in self._owned.items() if owner != here}
        self._watch = ValidationWatch(self._plan.subject, roster, skipped, list(layers.values()), consumers)
        self._watch.start()

    def _known(self) -> Roster | None:
        """The roster, once it is clear that this network's validation can be observed."""
        if self._roster is None and not self._given_up:
            plan = self._plan
            found = together(lambda: obstacle(plan.subject, plan.heldout))
            reason = next((why for why in bridge.gather_objects(found) if why is not None), None)
            parts = [] if reason is not None else self._parts()
            reason = reason or ("their targets are too large to be exchanged" if parts is None else None)
            if reason is None and parts is not None:
                self._roster = Roster(parts)
            else:
                self._give_up(reason or "")
        return self._roster

    def _parts(self) -> list[Part] | None:
        """The samples of all processes; None where their targets are too many bytes to exchange."""
        subject, heldout = self._plan.subject, self._plan.heldout
        arguments = subject.arguments
        mine: list[Part] = [] if arguments is None else together(lambda: parts_of(heldout, arguments))
        if bridge.processes() == 1:
            return mine
        sizes = bridge.gather_objects(
            sum(part.targets.numel() * part.targets.element_size() for part in mine if part.targets is not None)
        )
        if sum(sizes) > MOST_TARGETS:
            return None
        return [part for parts in bridge.gather_objects(mine) for part in parts]

    def _miscount(self, seen: list[list[int]]) -> str | None:
        """A reason if some sample was not seen, or counted by several processes twice in a row."""
        self._watch_again = False
        counts = Counter(number for numbers in seen for number in numbers)
        wanted = self._plan.heldout.total
        if not counts:
            return (
                "validation_step did not give the network the held-out samples as they were read (it may call another "
                "module than the one that checks run, change its input, or validate on other data)"
            )
        if len(counts) < wanted:
            return (
                f"validation ran {len(counts)} of {wanted} held-out samples as they were read (limit_val_batches, a "
                "shuffled loader of fewer samples, or transforms that differ each time?)"
            )
        self._watch_again = max(counts.values()) > 1
        if self._watch_again and self._owned:
            return "validation runs its samples on other processes each time, some of them on several"
        for process, numbers in enumerate(seen) if self._watch_again else ():
            for number in numbers:
                self._owned.setdefault(number, process)
        return None

    def _give_up(self, reason: str) -> None:
        self._given_up, self._roster = True, None
        self._say(f"HeldOut(during_validation=True) cannot be done here: {reason}; checks make a pass of their own")


def _own_pass(due: list[Observer]) -> str | None:
    """A sentence about callbacks for which a check makes its own pass all the same, which the others share."""
    backward = [observer.name for observer in due if observer.needs_gradient]
    if backward:
        return (
            f"HeldOut(during_validation=True): {', '.join(backward)} need gradients, so checks in which they are due "
            "make a pass of their own, which all callbacks share"
        )
    others = [observer.name for observer in due if observer.intervenes]
    if bridge.processes() > 1:
        others += [observer.name for observer in due if not observer.takes_any_share and observer.name not in others]
    if others:
        return (
            f"HeldOut(during_validation=True): {', '.join(others)} need the samples of their own process, so checks in "
            "which they are due make a pass of their own, which all callbacks share"
        )
    return None
