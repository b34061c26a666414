"""Causes: ranking of what may be behind an incident, by the likeness of its symptoms to signatures in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from convscope.alerts.symptoms import BROKEN

LEAST_KNOWN = 6  # symptoms; fewer of them cannot tell fourteen causes apart


@dataclass(frozen=True)
class Cause:
    """A likely cause of an incident.

    Attributes:
        name: Its name in the table, such as ``wrong_targets``.
        text: The cause in words.
        ask: The question, or the look, that would tell it from others.
        share: Its share of the evidence, in [0, 1]: all causes of the table together have 1. Not a probability that was
            calibrated.
    """

    name: str
    text: str
    ask: str
    share: float


@dataclass(frozen=True)
class Signature:
    """One way in which a cause shows: symptoms that it had on average, in the runs that the table was learnt on.

    A cause may have several: inverted and blurred inputs are both changed inputs, and do not look alike.
    """

    name: str
    text: str
    ask: str
    symptoms: Mapping[str, float]


@dataclass(frozen=True)
class CauseTable:
    """Signatures, and by how much each symptom differs between runs with the same cause (standard deviations)."""

    signatures: tuple[Signature, ...]
    spread: Mapping[str, float]

    def rank(self, symptoms: Mapping[str, float]) -> list[Cause]:
        """All causes, the likeliest first.

        A symptom counts by its squared distance from the signature, in spreads, as in a linear discriminant with a
        diagonal covariance; one that is not known on either side counts nothing. A cause has the evidence of all its
        signatures together.

        Args:
            symptoms: By name, in [-1, 1], as :class:`~convscope.alerts.symptoms.Symptoms` gives them. Fewer than six of
                them give no cause, unless there is a NaN.
        """
        # A NaN says enough by itself, and leaves hardly anything else to be measured.
        if sum(name in self.spread for name in symptoms) < LEAST_KNOWN and not symptoms.get(BROKEN):
            return []
        weights = [-0.5 * self._distance(symptoms, one) for one in self.signatures]
        top = max(weights, default=0.0)
        shares: dict[str, float] = {}
        for one, weight in zip(self.signatures, weights, strict=True):
            shares[one.name] = shares.get(one.name, 0.0) + math.exp(weight - top)
        total, words = sum(shares.values()), {one.name: one for one in self.signatures}
        found = [Cause(name, words[name].text, words[name].ask, share / total) for name, share in shares.items()]
        return sorted(found, key=lambda cause: -cause.share)

    def _distance(self, symptoms: Mapping[str, float], signature: Signature) -> float:
        known = [name for name in symptoms if name in signature.symptoms and name in self.spread]
        return sum(((symptoms[name] - signature.symptoms[name]) / self.spread[name]) ** 2 for name in known)


@lru_cache
def default_table() -> CauseTable:
    """The table that convscope ships, ``alerts/causes.yaml``, learnt on injected faults.

    Example:
        >>> sorted({one.name for one in default_table().signatures})[:2]
        ['batch_statistics', 'broken_numbers']
    """
    text = resources.files("convscope.alerts").joinpath("causes.yaml").read_text(encoding="utf-8")
    return table_of(yaml.safe_load(text))


def table_of(found: Mapping[str, Any]) -> CauseTable:
    """A table from the plain values of its file: by cause its words, and signatures by the way in which it shows."""
    rows = tuple(
        Signature(name, row["text"], row["ask"], symptoms)
        for name, row in found["causes"].items()
        for symptoms in (row.get("signatures") or {}).values()
    )
    return CauseTable(rows, found.get("spread") or {})
