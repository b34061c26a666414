"""Inter-filter correlation: Pearson matrix of a layer's filters, and the number of directions they use."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from convscope._arguments import share, whole_number_or_none
from convscope.callbacks.engine.findings import LayerResult, MapSpec, Moment
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.per_layer import Correlations, positions_each
from convscope.callbacks.parts.reading import read
from convscope.callbacks.parts.redundancy import Pairs, copied_share, redundancy_text, redundant_pairs
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.loggers import Backend
from convscope.metrics import ChannelCorrelation
from convscope.metrics.functional import CorrelationSummary

# Below this a share of pairs is one of hardly any: two outputs that answer one question are one redundant pair of one.
LEAST_FILTERS = 4


class FilterCorrelation(LayerObserver):
    """Inter-filter correlation of each layer over the held-out set's positions.

    Source: within-layer feature correlation of the Hybrid CNN-Interpreter (arXiv 2211.00185), a reconstruction;
    effective rank: Roy & Vetterli 2007.

    Args:
        redundant_threshold: A pair of filters counts as redundant above this ``|ρ|``, in (0, 1).
        max_observations: Values per filter, over samples and positions: where a layer has more positions
            than that, an equal number of them is taken from every sample. None for all positions.
        **arguments: See :class:`~convscope.LayerObserver`.

    Logged for each layer of ``C`` filters:
        ``correlation/mean_abs/<layer>``: mean ``|ρ|`` of pairs, 0 to 1;
        ``correlation/redundant_share/<layer>``: share of pairs with ``|ρ|`` above the threshold, of four filters or
        more;
        ``correlation/effective_rank/<layer>``, ``correlation/participation_ratio/<layer>``: directions, 1 to C,
        both also as ``…_ratio``, divided by C;
        ``correlation/constant_filters/<layer>``: count of filters that do not vary; they are left out of the rest;
        ``correlation/copied_filters/<layer>``: share of filters that are copies of another: ``|ρ|`` of the activations
        and ``|cosine|`` of the weights both at least 0.99; where filters have weights of their own.

    Pictures: ``correlation/matrix/<layer>``. Text: ``correlation/redundant_pairs``, which filters of each layer say the
    same, the most alike first.
    """

    family = "correlation"
    charts: ClassVar[dict[str, str]] = {
        "mean_abs": "mean |correlation| of filter pairs",
        "redundant_share": "share of redundant pairs",
        "effective_rank_ratio": "effective rank / filters",
        "constant_filters": "constant filters",
    }
    maps: ClassVar[dict[str, MapSpec]] = {"effective_rank_ratio": MapSpec("Effective rank", "rank / filters", 0.0, 1.0)}
    columns: ClassVar[dict[str, str]] = {"mean_abs": "mean |ρ|", "effective_rank": "eff. rank"}
    # Other forms of the effective rank, and counts that stay at zero in most layers of most runs.
    details: ClassVar[frozenset[str]] = frozenset(
        {
            "redundant_share",
            "effective_rank",
            "participation_ratio",
            "participation_ratio_ratio",
            "constant_filters",
            "copied_filters",
        }
    )
    overview: ClassVar[dict[str, Literal["highest", "lowest", "mean"]]] = {"effective_rank_ratio": "mean"}

    def __init__(
        self, *, redundant_threshold: float = 0.9, max_observations: int | None = 16384, **arguments: Any
    ) -> None:
        self.redundant_threshold = share("redundant_threshold", redundant_threshold, "a correlation", below_one=True)
        self.max_observations = whole_number_or_none("max_observations", max_observations, "all positions")
        super().__init__(**arguments)
        self._metrics = Correlations[ChannelCorrelation]()
        self._pairs: dict[str, Pairs] = {}

    @property
    def takes_any_share(self) -> bool:
        return True

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._pairs = {}
        most, threshold = positions_each(self.max_observations, samples), self.redundant_threshold
        self._metrics.make(
            layers, lambda layer: ChannelCorrelation(layer.channels, most, redundant_threshold=threshold)
        )

    def on_activation(self, record: Record) -> None:
        self._metrics.take(record)

    def compute(self, layer: Layer) -> LayerResult:
        found = self._metrics.finish(layer)
        scalars = read({name: getattr(found, name) for name in CorrelationSummary._fields})
        scalars["constant_filters"] = scalars.pop("constant")
        if layer.channels < LEAST_FILTERS:
            scalars["redundant_share"] = math.nan
        matrix = found.matrix.cpu().numpy()
        self._pairs[layer.name] = redundant_pairs(matrix, self.redundant_threshold)
        scalars["copied_filters"] = copied_share(layer, matrix)
        return LayerResult(scalars, matrix=matrix)

    def draw(self, dashboard: Backend, when: Moment) -> None:
        if self._pairs:
            text = redundancy_text(self._pairs, self.redundant_threshold, when.label)
            dashboard.text(f"{self.name}/redundant_pairs", text, when.step)

    def end(self) -> None:
        self._metrics.drop()
        self._pairs = {}
