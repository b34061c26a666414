"""Prediction of every layer for every held-out sample in one check, and the changes since the last one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from convscope.loggers import escape_markdown
from convscope.metrics.functional import decision_depth, lost_and_found


@dataclass(frozen=True)
class PredictionPath:
    """Predictions over depth.

    Attributes:
        layers: L names in depth order, the output last.
        log_probability: ``(L, N, K)``.
        truth: ``(N,)`` column of each sample's class.
        classes: ``(K,)`` the classes that the columns stand for.
        numbers: ``(N,)`` each sample's number in the held-out set, sorted.
    """

    layers: list[str]
    log_probability: Tensor
    truth: Tensor
    classes: Tensor
    numbers: Tensor

    @cached_property
    def predicted(self) -> Tensor:
        """``(L, N)`` columns."""
        return self.log_probability.argmax(dim=2)

    @cached_property
    def of_truth(self) -> Tensor:
        """``(L, N)`` probability of the true class."""
        places = self.truth.expand(len(self.layers), -1)[:, :, None]
        return self.log_probability.gather(2, places)[:, :, 0].exp()

    @cached_property
    def depth(self) -> Tensor:
        """``(N,)`` decision depth, counted from 1."""
        return decision_depth(self.predicted) + 1

    def summary(self) -> dict[str, float]:
        """Mean decision depth, and the shares of samples lost on the way and found late."""
        found = {"decision_depth": float(self.depth.double().mean())}
        if len(self.layers) > 2:
            lost, late = lost_and_found(self.predicted == self.truth)
            found |= {"lost_on_the_way": float(lost), "found_late": float(late)}
        return found

    def snapshot(self) -> PathSnapshot:
        """The part that the next check compares itself with."""
        final = self.classes[self.predicted[-1]]
        return PathSnapshot(self.layers, self.numbers, self.of_truth.float(), final, self.depth)

    def pick(self, among: list[int], count: int) -> list[int]:
        """``count`` sample numbers from the easiest to the hardest, evenly over the ranks of difficulty.

        A sample is easy if the layers give its class a high probability, on average over depth.
        """
        ease = self.of_truth.mean(dim=0)
        places = torch.searchsorted(self.numbers, torch.tensor(among))
        ordered = places[ease[places].argsort(descending=True, stable=True)]
        # Evenly over ranks and not over values: most samples are easy late in training, and all would look alike.
        chosen = torch.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().long()
        return [int(self.numbers[ordered[place]]) for place in chosen]

    def strips(self, chosen: list[int], most: int = 10) -> dict[str, npt.NDArray[Any]]:
        """Predictions for a few samples at every layer, as arrays of at most S samples, L layers and K classes.

        ``samples`` ``(S,)``, ``truth`` ``(S,)`` labels, ``classes`` ``(S, K)`` labels, of each sample the true one and
        those that some layer finds likeliest; ``probability`` ``(S, L, K)`` float16.
        """
        rows = torch.tensor([self.place(number) for number in chosen])
        probability = self.log_probability[:, rows].exp().transpose(0, 1)
        wanted = probability.amax(dim=1).scatter(1, self.truth[rows][:, None], 2.0)  # the true class always
        columns = wanted.topk(min(most, wanted.shape[1]), dim=1).indices.sort(dim=1).values
        kept = probability.gather(2, columns[:, None].expand(-1, len(self.layers), -1))
        return {
            "samples": np.array(chosen, dtype=np.int64),
            "truth": self.classes[self.truth[rows]].numpy(),
            "classes": self.classes[columns].numpy(),
            "probability": kept.numpy().astype(np.float16),
        }

    def place(self, number: int) -> int:
        """Row of a sample."""
        return int(torch.searchsorted(self.numbers, number))


class PathSnapshot(NamedTuple):
    """The part of a check that is kept: ``of_truth`` ``(L, N)``, final classes and decision depths ``(N,)``."""

    layers: list[str]
    numbers: Tensor
    of_truth: Tensor
    final: Tensor
    depth: Tensor

    def comparable(self, other: PathSnapshot) -> bool:
        """Return whether both are of the same layers and samples."""
        return self.layers == other.layers and torch.equal(self.numbers, other.numbers)

    def change(self, other: PathSnapshot) -> Tensor:
        """``(N,)`` mean over layers of the change of the true class's probability, in [0, 1]."""
        return (self.of_truth - other.of_truth).abs().mean(dim=0)


def changed_table(
    path: PredictionPath, before: PathSnapshot, rows: int, class_label: Callable[[int], str] = str
) -> str:
    """Markdown table of the samples whose prediction moved most since the previous check."""
    now = path.snapshot()
    change = now.change(before)
    lines = [
        "| sample | class | output said | says now | p(true), output | decision depth | mean change over layers |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for i in change.argsort(descending=True, stable=True)[:rows].tolist():
        cells: list[Any] = [
            int(path.numbers[i]),
            class_label(int(path.classes[path.truth[i]])),
            class_label(int(before.final[i])),
            class_label(int(now.final[i])),
            f"{before.of_truth[-1, i]:.2f} → {now.of_truth[-1, i]:.2f}",
            f"{int(before.depth[i])} → {int(now.depth[i])}",
            f"{change[i]:.2f}",
        ]
        lines.append("| " + " | ".join(escape_markdown(str(cell)) for cell in cells) + " |")
    return "\n".join(lines)
