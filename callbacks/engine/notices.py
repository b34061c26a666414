"""Sentences for the user: each once per fit, and the one that says what is being watched."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from convscope.callbacks.engine.observer import Plan
from convscope.capture.network.trace import Layer


class Notices:
    """Says each sentence once, on the main process, whichever observer it comes from.

    Attributes:
        reasons: Sentences that several others may give as their reason: in full the first time, then as a reference.
    """

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._said: set[str] = set()

    def say(self, sentence: str) -> None:
        """Tell a fact."""
        if self._is_new(sentence):
            rank_zero_info(f"convscope: {self._shortened(sentence)}")

    def warn(self, sentence: str) -> None:
        """Warn of what may be wrong; raises if the user has made warnings errors."""
        if self._is_new(sentence):
            rank_zero_warn(f"convscope: {self._shortened(sentence)}")

    def _is_new(self, sentence: str) -> bool:
        new = sentence not in self._said
        self._said.add(sentence)
        return new

    def _shortened(self, sentence: str) -> str:
        for reason in self.reasons:
            if reason in sentence and reason != sentence and reason in self._said:
                sentence = sentence.replace(reason, "for the reason said above")
            elif reason in sentence:
                self._said.add(reason)
        return sentence


def shared_answers(plans: Sequence[Plan]) -> list[str]:
    """Sentences of answers to observers, one for all that got the same answer."""
    answers: dict[str, list[str]] = {}
    for plan in plans:
        for observer, given in plan.answers.items():
            for answer in given:
                answers.setdefault(answer, []).append(observer)
    everyone = sum(len(plan.observers) for plan in plans)
    return [f"{_names(names, everyone)} {answer}" for answer, names in answers.items()]


def _names(names: list[str], everyone: int) -> str:
    """The subject of a sentence, in the singular: an answer is written for one observer."""
    if len(names) == 1:
        return names[0]
    if len(names) == everyone:
        return f"each of the {everyone} callbacks"
    return f"each of {', '.join(names)}"


def watching(plans: Sequence[Plan], network: str, seconds: float, alerts: bool) -> str:
    """The sentence about a run: layers that are watched, samples, cost of a check, and whether alerts are on."""
    layers = {layer.name: layer for plan in plans for chosen in plan.layers.values() for layer in chosen}
    inner = [layer for layer in layers.values() if not layer.is_output]
    total = len({name for plan in plans for name in plan.available})
    many = f"{len(inner)} of {total}" if len(inner) < total else str(len(inner))
    sizes = " and ".join(f"{plan.heldout.total:,}" for plan in plans if plan.observers)
    return (
        f"watching {many} {_kind(inner)} of {network} with {sizes} held-out samples; "
        f"a check takes {_seconds(seconds)}; alerts {'on' if alerts else 'off'}"
    )


def _kind(layers: list[Layer]) -> str:
    kind = "conv layer" if layers and all("conv" in layer.kind.lower() for layer in layers) else "layer"
    return kind if len(layers) == 1 else f"{kind}s"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
