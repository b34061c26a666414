"""Explanations of one check, small enough for a checkpoint, and what changed since an earlier one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convscope.metrics.functional import rank_stability


@dataclass(frozen=True)
class Explanations:
    """What the images of one check are explained by.

    Attributes:
        when: For people: "epoch 3".
        coarse: ``(B, p)`` float32 importance of coarse super-pixels, 0 where an image has fewer.
        fine: ``(B, q)`` of fine ones.
        chosen: ``(B,)`` class that is explained, -1 where the image has none.
        probability: ``(B,)`` its probability.
    """

    when: str
    coarse: Tensor
    fine: Tensor
    chosen: Tensor
    probability: Tensor

    def since(self, previous: Explanations, counts: list[tuple[int, int]]) -> dict[str, float]:
        """Comparison with an earlier check: means over images, without what cannot be compared.

        Args:
            previous: Of the same images.
            counts: Numbers of coarse and fine super-pixels of each image.
        """
        rows: dict[str, list[float]] = {"top1_stability": [], "iou": [], "rank_correlation": []}
        for place, (coarse, fine) in enumerate(counts):
            if self.chosen[place] < 0 or previous.chosen[place] < 0:
                continue
            tops = [_top(each.coarse[place, :coarse]) for each in (self, previous)]
            if None not in tops:
                rows["top1_stability"].append(float(tops[0] == tops[1]))
            now, before = self.fine[place, :fine], previous.fine[place, :fine]
            either = int(((now > 0) | (before > 0)).sum())
            if either:
                rows["iou"].append(int(((now > 0) & (before > 0)).sum()) / either)
            correlation = float(rank_stability(now, before))
            rows["rank_correlation"] += [correlation] if correlation == correlation else []
        return {name: sum(row) / len(row) for name, row in rows.items() if row}

    def comparable(self, other: Explanations) -> bool:
        """Whether both have as many images and super-pixels."""
        return self.coarse.shape == other.coarse.shape and self.fine.shape == other.fine.shape

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors."""
        return dict(vars(self))


def _top(importance: Tensor) -> int | None:
    """The super-pixel with most evidence for the class, None where there is none."""
    return int(importance.argmax()) if bool((importance > 0).any()) else None


def spread_rows(rows: list[Explanations], most: int) -> list[Explanations]:
    """At most ``most`` of the checks, evenly over training, the first and the last among them."""
    if len(rows) <= most:
        return rows
    places = torch.linspace(0, len(rows) - 1, most).round().long().tolist()
    return [rows[place] for place in places]
