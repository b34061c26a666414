"""Alert: a rule that fired at one check, and the moment of that check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class When:
    """Moment of a check.

    Attributes:
        epoch: Epoch, counted from 0: the one that had just been trained.
        step: Training step, on the axis that ``self.log`` uses.
        check: Number of the check, counted from 1.
    """

    epoch: int
    step: int
    check: int

    @property
    def label(self) -> str:
        """The moment for people: "epoch 3", as in the table."""
        return f"epoch {self.epoch}"


@dataclass(frozen=True)
class Alert:
    """A rule that fired.

    Attributes:
        rule: Name of the rule.
        severity: ``info``, ``warning`` or ``critical``.
        message: The sentence.
        likely: Probable cause.
        look_at: Place to look first.
        epoch: Epoch, counted from 0.
        step: Training step, on the axis that ``self.log`` uses.
        check: Number of the check, counted from 1.
        values: Value by tag of the series that the rule found, worst first.
        expected: Value that the detector would have expected of each, in the same unit.
        incident: Number of the incident that the alert belongs to, None before it is grouped.
    """

    rule: str
    severity: str
    message: str
    likely: str
    look_at: str
    epoch: int
    step: int
    check: int
    values: dict[str, float] = field(default_factory=dict)
    expected: dict[str, float] = field(default_factory=dict)
    incident: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Alert:
        """An alert from its plain values, including those of another version."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in state.items() if name in known})

    @property
    def text(self) -> str:
        """The alert in one line: the sentence, the probable cause, and the place to look."""
        return " ".join(part for part in (sentence(self.message), self.advice) if part)

    @property
    def advice(self) -> str:
        """Probable cause and place to look, in one line; empty if the rule gives neither."""
        likely = f"Likely: {sentence(self.likely)}" if self.likely else ""
        look_at = f"Look at: {sentence(self.look_at)}" if self.look_at else ""
        return " ".join(part for part in (likely, look_at) if part)

    @property
    def when(self) -> When:
        """The moment of its check."""
        return When(self.epoch, self.step, self.check)

    @property
    def layers(self) -> list[str]:
        """Layers of the series that the rule found, worst first; empty if none of them belongs to a layer."""
        return list(dict.fromkeys(layer for tag in self.values if (layer := layer_in(tag)) is not None))


def sentence(text: str) -> str:
    """``text`` with a full stop at its end, unless it ends like a sentence already.

    Example:
        >>> sentence("conv1 is dead"), sentence("Is conv1 dead?"), sentence("")
        ('conv1 is dead.', 'Is conv1 dead?', '')
    """
    text = text.strip()
    return text if not text or text[-1] in ".!?…" else f"{text}."


def layer_in(tag: str) -> str | None:
    """The layer in ``<family>/<quantity>/<layer>``, None if the tag does not belong to a layer."""
    parts = tag.split("/", 2)
    return parts[2] if len(parts) == 3 else None


def layer_of(tag: str) -> str:
    """The layer in ``<family>/<quantity>/<layer>``; the tag itself if there is none."""
    return layer_in(tag) or tag
