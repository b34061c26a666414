"""Ablation oracle: remove filters one by one and compare every cheap criterion of importance with the effect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from convscope._arguments import one_of, whole_number
from convscope.callbacks.engine.findings import LayerResult, MapSpec, Moment, Values
from convscope.callbacks.parts.criteria import Criterion
from convscope.callbacks.parts.intervening import InterveningObserver, fixed_random_order, keep_all_but
from convscope.capture.intervention import Baseline
from convscope.capture.network.trace import Layer
from convscope.capture.outputs.loss import Loss
from convscope.loggers import Backend
from convscope.loggers.classes import class_table
from convscope.metrics.functional import OutcomeResult, rank_stability

CHEAP: tuple[Criterion, ...] = (
    "taylor", "gradient_activation", "activation", "weight_l1", "weight_l2", "batchnorm", "output_correlation",
)  # fmt: skip


class AblationOracle(InterveningObserver):
    """Loss after ablating single filters, overall and by class, and how well cheap criteria predict it.

    Each chosen filter is held at a baseline while the rest of the network runs as it is: the top and the bottom
    filters of one criterion, and filters drawn at random, the same ones at every check. The rank correlation of a
    criterion with ablation is taken over the random ones alone (over all filters where all are ablated): top and
    bottom filters of one criterion would flatter it. Source: Molchanov et al. 2019 (arXiv 1906.10771) for the
    oracle; as part of the Hybrid CNN-Interpreter (arXiv 2211.00185) a reconstruction.

    Args:
        criteria: The cheap criteria to judge. One is left out where the layer lacks what it needs (BatchNorm).
        rank_by: The criterion that decides which filters are top and bottom.
        ends: Number of filters from the top, and as many from the bottom, of each layer.
        random: Number of filters drawn at random. With ``2 · ends + random`` filters or fewer, all are ablated.
        loss: As in :class:`~convscope.FilterImportance`.
        baseline: What takes a filter's place: ``"mean"``, its mean activation over the held-out set, or ``"zero"``.
        samples: Run the filter sets on at most so many held-out samples, drawn once. Importance is measured on all.
        max_forwards: At most so many forward passes of those samples a check; a filter takes one, a layer
            two more. Where all would take more, fewer filters a layer are ablated, then fewer layers.
        **arguments: See :class:`~convscope.LayerObserver`. By default ``every_n_epochs`` is 5 and ``on_start`` False:
            of an untrained network the numbers mean little, and they are the longest wait of a run.

    Logged for each layer, in units of the loss:
        ``ablation/top/<layer>``, ``ablation/bottom/<layer>``, ``ablation/random/<layer>`` (mean rise of the loss
        when one such filter is ablated), ``ablation/spearman_<criterion>/<layer>`` (-1 to 1).
    Logged once per check:
        ``ablation/spearman_<criterion>``, the mean over layers.

    The rises are a histogram, ``ablation/filters/<layer>``; by class a picture, ``ablation/classes/<layer>``.
    """

    family = "ablation"
    fewest_sets = 6
    charts: ClassVar[dict[str, str]] = {
        "top": "loss rise without a top filter",
        "bottom": "loss rise without a bottom filter",
        "random": "loss rise without a random filter",
        **{f"spearman_{criterion}": f"Spearman of {criterion} with ablation" for criterion in CHEAP},
    }
    maps: ClassVar[dict[str, MapSpec]] = {
        "spearman_taylor": MapSpec("Does Taylor importance predict ablation?", "Spearman", -1.0, 1.0)
    }
    columns: ClassVar[dict[str, str]] = {"spearman_taylor": "ρ taylor"}

    def __init__(
        self,
        *,
        criteria: Sequence[Criterion] = CHEAP,
        rank_by: Criterion = "taylor",
        ends: int = 4,
        random: int = 16,
        loss: Loss | None = None,
        baseline: Baseline = "mean",
        samples: int = 256,
        max_forwards: int = 400,
        **arguments: Any,
    ) -> None:
        self.ends = whole_number("ends", ends, "a whole number of filters")
        self.random = whole_number("random", random, "a whole number of filters", least=3)
        super().__init__(criteria, loss, baseline, samples, max_forwards, **arguments)
        self.criteria = self._criteria.names
        self.rank_by = one_of("rank_by", rank_by, self.criteria)
        self._chosen: dict[str, _Chosen] = {}
        self._by_class: dict[str, torch.Tensor] = {}

    def suits(self, layer: Layer) -> bool:
        return layer.is_output or self._criteria.measures(layer, self.rank_by)

    def most_sets(self, layer: Layer) -> int:
        return min(layer.channels, 2 * self.ends + self.random)

    def choose(self, layer: Layer, importance: dict[str, torch.Tensor], most: int) -> torch.Tensor:
        chosen = _Chosen.of(layer, importance, self.rank_by, self.ends, min(most, self.most_sets(layer)))
        self._chosen[layer.name] = chosen
        return keep_all_but([*chosen.filters[:, None]], layer.channels)

    def judge(self, layer: Layer, untouched: OutcomeResult, outcome: OutcomeResult) -> LayerResult:
        chosen, rise = self._chosen[layer.name], (outcome.loss - untouched.loss).cpu()
        scalars = {name: float(rise[places].mean()) for name, places in chosen.groups().items()}
        rises = rise[chosen.neutral]
        for criterion, values in chosen.importance.items():
            if _have_order(importance := values[chosen.neutral], rises):
                scalars[f"spearman_{criterion}"] = float(rank_stability(importance, rises))
        if self._classes:
            self._by_class[layer.name] = (outcome.class_loss - untouched.class_loss).cpu()
        scalars = {name: value for name, value in scalars.items() if not math.isnan(value)}
        return LayerResult(scalars, distribution=rise.double().numpy())

    def summarise(self, values: Values) -> dict[str, float]:
        found = {name: list(row.values()) for name, row in values.items() if name.startswith("spearman_")}
        return {name: sum(row) / len(row) for name, row in found.items()}

    def draw(self, dashboard: Backend, when: Moment) -> None:
        for name, rises in self._by_class.items():
            chosen = self._chosen[name]
            order = chosen.importance[self.rank_by].argsort(descending=True, stable=True)
            labels = [str(int(number)) for number in chosen.filters[order]]
            title = f"{name}, {when.label}\nfilters by {self.rank_by}, top first"
            names = [self._class_label(number) for number in range(rises.shape[1])]
            picture = class_table(rises[order].numpy(), labels, title, "loss rise", classes=names)
            dashboard.image(f"{self.name}/classes/{name}", picture, when.step)

    def end(self) -> None:
        super().end()
        self._chosen, self._by_class = {}, {}


def _have_order(*vectors: torch.Tensor) -> bool:
    """Return whether there are enough values to rank that differ: a constant has no rank correlation."""
    return all(len(values) > 2 and bool(values.max() > values.min()) for values in vectors)


class _Chosen:
    """The filters of one layer that are ablated.

    Attributes:
        filters: ``(S,)`` their numbers.
        importance: ``(S,)`` by each criterion.
        neutral: ``(S,)`` bool, those that no criterion helped to choose.
    """

    def __init__(self, filters: torch.Tensor, importance: dict[str, torch.Tensor], rank_by: str, ends: int) -> None:
        self.filters, self._ends = filters, ends
        self.importance = {name: values[filters] for name, values in importance.items()}
        self._order = self.importance[rank_by].argsort(descending=True, stable=True)
        self.neutral = torch.ones(len(filters), dtype=torch.bool)

    @classmethod
    def of(cls, layer: Layer, importance: dict[str, torch.Tensor], rank_by: str, ends: int, most: int) -> _Chosen:
        """The top and bottom by ``rank_by`` and random ones, ``most`` filters at most; all where there are no more."""
        if layer.channels <= most:
            ends = min(ends, max(1, layer.channels // 2))
            return cls(torch.arange(layer.channels), importance, rank_by, ends)
        ends = min(ends, max(1, most // 3))
        order, random = importance[rank_by].argsort(descending=True, stable=True), fixed_random_order(layer)
        # Random ones first: rank correlations are taken over these alone, and duplicates below keep the first place.
        neutral = random[: most - 2 * ends]
        both = torch.cat([neutral, order[:ends], order[-ends:]])
        filters = torch.tensor(list(dict.fromkeys(both.tolist())))
        chosen = cls(filters, importance, rank_by, ends)
        chosen.neutral[len(neutral) :] = False
        return chosen

    def groups(self) -> dict[str, torch.Tensor]:
        """Places of the top, bottom and random filters among those chosen."""
        return {
            "top": self._order[: self._ends],
            "bottom": self._order[-self._ends :],
            "random": self.neutral.nonzero().flatten(),
        }
