"""Layer-wise probes: accuracy of a linear (or kNN, or centroid) read-out of the targets from each layer."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, log, prod
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torchmetrics import Metric

from convscope._arguments import one_of, one_of_or_none, whole_number
from convscope.callbacks.engine.findings import LayerResult, MapSpec, Values
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.answer_bias import AnswerBias
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.per_layer import PerLayer
from convscope.callbacks.parts.probe_tasks import PROBE_TASKS, PROBES, ProbeTask, make_probe, too_few_for
from convscope.callbacks.parts.tasks import TASKS, NoTaskError, Task, TaskName, settle_task
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.metrics.functional import best_layer, depth_monotonicity, probe_depth

ProbeName = Literal["ridge", "logistic", "knn", "centroid"]


class LayerProbe(LayerObserver):
    """Layer-wise probes: accuracy with which the targets can be read from each layer's activations.

    A probe is fitted on the held-out activations of every layer. Each sample is predicted by a probe that has not
    seen it (five folds for ``"logistic"``), and a layer without information about the targets gives chance. The
    model is never touched. The model's output is the last layer, ``output``. Classes with fewer than two held-out
    samples are left out, and so are those beyond the thousand most frequent. Source: linear probes, Alain & Bengio
    2016 (arXiv 1610.01644); as the Hybrid CNN-Interpreter's layer-specific prediction (arXiv 2211.00185) they are a
    reconstruction.

    Args:
        probe: ``"ridge"`` (exact, cheapest), ``"logistic"``, ``"knn"`` or ``"centroid"``. Only ridge
            takes targets that are not classes; with another probe the callback is skipped.
        pooling: How an activation map becomes features: ``"mean"``, ``"max"``, or a number ``p`` for the means of a
            p × p grid (``p``² · C features). Masks are probed position by position, without pooling.
        task: ``"classification"``, ``"multilabel"``, ``"regression"`` or ``"segmentation"``; None to infer it from
            the targets (see :func:`~convscope.callbacks.parts.tasks.settle_task`).
        max_positions: Masks: positions that are read, over all held-out samples (at least one per sample). Memory is
            ``max_positions`` · C numbers per layer.
        **arguments: See :class:`~convscope.LayerObserver`.

    Logged for each layer, by task:
        Classes: ``probe/accuracy/<layer>`` and ``probe/balanced_accuracy/<layer>`` (mean recall of the classes), shares
        in [0, 1]. Several labels: ``probe/mean_average_precision/<layer>``, in (0, 1]. Quantities:
        ``probe/r2/<layer>``, at most 1. Masks: ``probe/miou/<layer>`` and ``probe/pixel_accuracy/<layer>``, in [0, 1],
        whole samples left out. In each task ``probe/selectivity/<layer>``: the first of these minus that of the same
        probe on permuted targets.
    Logged once per check:
        ``probe/chance`` (score of a guess without the image: share of the largest class; mean average precision of
        a random ranking; 0; mean IoU of the largest class everywhere), ``probe/classes`` (number of classes that the
        probe tells apart, where that is not all of them), ``probe/guess_loss`` (cross-entropy of an even guess among
        the ``K`` classes of the held-out set, ``log K``; classes and masks), ``probe/answer_bias`` (how far the mean
        probabilities that the network gives the classes are from their shares of the targets, in [0, 1], where its
        output has a score per class), ``probe/depth`` (place, counted from 1, of the first layer within 5 % of the
        best), ``probe/best_layer`` (place of the best), ``probe/monotonicity`` (Spearman of depth and the first
        quantity, in [-1, 1]).

    With a probe other than ridge the tags begin with ``probe_<probe>/``.

    Raises:
        ValueError: if an argument is out of range, or a probe of classes is wanted for another task.
    """

    family = "probe"
    charts: ClassVar[dict[str, str]] = PROBE_TASKS["classification"].charts
    maps: ClassVar[dict[str, MapSpec]] = {"accuracy": PROBE_TASKS["classification"].map}
    columns: ClassVar[dict[str, str]] = PROBE_TASKS["classification"].columns

    def __init__(
        self,
        *,
        probe: ProbeName = "ridge",
        pooling: Literal["mean", "max"] | int = "mean",
        task: TaskName | None = None,
        max_positions: int = 8192,
        **arguments: Any,
    ) -> None:
        self.probe = one_of("probe", probe, PROBES)
        self.pooling: Literal["mean", "max"] | int = (
            pooling
            if isinstance(pooling, str) and pooling in ("mean", "max")
            else whole_number("pooling", pooling, "'mean', 'max', or a whole grid size")
        )
        self.task: TaskName | None = one_of_or_none("task", task, TASKS, "to infer it")
        _check_together(self.task, self.probe, self.pooling)
        self.max_positions = whole_number("max_positions", max_positions, "a whole number of positions")
        super().__init__(**arguments)
        self._metrics = PerLayer[Metric]()
        self._chance, self._classes, self._known = float("nan"), 0, 0
        self._answers, self._bias, self._scored = PerLayer[AnswerBias](), float("nan"), False
        self._adopt(Task("classification"))

    def default_name(self) -> str:
        return self.family if self.probe == "ridge" else f"{self.family}_{self.probe}"

    @property
    def variant(self) -> str:
        return self.probe if self.name == self.default_name() else self.name

    @property
    def takes_any_share(self) -> bool:
        return True

    @property
    def includes_output(self) -> bool:
        return True

    @property
    def takes_targets_as(self) -> Literal["nothing", "inferred", "classes"]:
        if self.task is None:
            return "inferred"
        return "classes" if self.task in ("classification", "segmentation") else "nothing"

    def skips(self, heldout: HeldOut, no_loss: str | None) -> str | None:
        try:
            task = settle_task(heldout, self.task)
        except NoTaskError as error:
            return str(error)
        if task.name != "classification" and self.probe != "ridge":
            return f"probe={self.probe!r} predicts classes, but this is {task.name}; probe='ridge' does that"
        _check_together(task.name, self.probe, self.pooling)
        self._adopt(task)  # here, since suits() depends on the task
        self._scored = task.name == "classification" and heldout.logits is not False and no_loss is None
        return too_few_for(self.probe, task.samples) if task.name == "classification" else None

    def suits(self, layer: Layer) -> bool:
        return self._task.name != "segmentation" or len(layer.spatial) == len(self._task.positions)

    def ready(self, plan: Plan) -> None:
        plan.answers.setdefault(self.name, []).extend(self._task.notes())

    def begin(self, layers: list[Layer], samples: int) -> None:
        positions = max(1, min(self.max_positions // samples, prod(self._task.positions)))
        self._metrics.make(layers, lambda layer: make_probe(self._task.name, self.probe, positions))
        answers = [layer for layer in layers if layer.is_output and not layer.spatial and layer.channels > 1]
        self._answers.make(answers if self._scored else (), lambda layer: AnswerBias(layer.channels))
        self._bias = float("nan")

    def on_activation(self, record: Record) -> None:
        features = record.activation if self._task.name == "segmentation" else self._pool(record)
        if record.targets is None:  # without targets the callback is skipped
            return
        targets, (features, index) = self._task.counted(record.targets, features, record.index)
        if len(targets):
            self._metrics.update(record, features, targets, index)
        if record.layer in self._answers:
            self._answers.update(record, features, targets.to(features.device))

    def compute(self, layer: Layer) -> LayerResult:
        result = self._metrics.finish(layer)
        scalars = self._measures.scalars(result)
        self._chance = scalars.pop("chance")
        if layer in self._answers:
            self._bias = float(self._answers.finish(layer))
        self._known = _count_of_classes(result, self._task.name)
        self._classes = self._known if self._task.left_out else 0
        return LayerResult(scalars)

    def summarise(self, values: Values) -> dict[str, float]:
        reached = torch.tensor(list(values.get(self._measures.leading, {}).values()))
        if len(reached) == 0:
            return {}
        spec = self._measures.map
        self.maps = {self._measures.leading: replace(spec, start=self._chance, start_name="chance")}  # type: ignore[misc]
        classes = {"classes": float(self._classes)} if self._task.left_out else {}
        guess = {"guess_loss": log(self._known)} if self._known > 1 else {}
        return classes | {
            "chance": self._chance,
            **guess,
            **({"answer_bias": self._bias} if isfinite(self._bias) else {}),
            "depth": float(probe_depth(reached)) + 1,
            "best_layer": float(best_layer(reached)) + 1,
            "monotonicity": float(depth_monotonicity(reached)),
        }

    def end(self) -> None:
        self._metrics.drop()
        self._answers.drop()

    def _adopt(self, task: Task) -> None:
        self._task, self._measures = task, PROBE_TASKS[task.name]
        measures: ProbeTask = self._measures
        self.charts, self.columns = measures.charts, measures.columns  # type: ignore[misc]
        self.maps = {measures.leading: measures.map}  # type: ignore[misc]
        self.overview = {measures.leading: "highest"}  # type: ignore[misc]
        # Where every class has as many samples, balanced accuracy is accuracy.
        self.details = frozenset({"selectivity"} | ({"balanced_accuracy"} if task.balanced else set()))  # type: ignore[misc]

    def _pool(self, record: Record) -> torch.Tensor:
        activation = record.activation
        if self.pooling == "mean" or activation.dim() == 2:
            return record.pooled
        if self.pooling == "max":
            return activation.flatten(2).amax(-1).to(record.pooled.dtype)
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[activation.dim() - 3]
        return pool(activation.to(record.pooled.dtype), self.pooling).flatten(1)


def _count_of_classes(result: Any, task: TaskName) -> int:
    """Number of classes of the held-out targets; 0 where they are none."""
    if task == "classification":
        return len(result.classes)
    return len(torch.unique(result.target[result.target >= 0])) if task == "segmentation" else 0


def _check_together(task: TaskName | None, probe: ProbeName, pooling: Literal["mean", "max"] | int) -> None:
    if task not in (None, "classification") and probe != "ridge":
        raise ValueError(f"probe={probe!r} predicts classes, but task={task!r}; leave probe out, or give probe='ridge'")
    if task == "segmentation" and pooling != "mean":
        raise ValueError(f"pooling={pooling!r}: masks are probed position by position; leave pooling out")
