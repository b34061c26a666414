"""Prediction of each layer for each sample: calibrated read-outs, decision depth, predictions as they form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch

from convscope._arguments import one_of, whole_number_or_zero
from convscope.callbacks.engine.findings import Findings, LayerResult, MapSpec, Moment, Values
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.example_images import ExampleImages
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.per_layer import PerLayer
from convscope.callbacks.parts.prediction_path import PathSnapshot, PredictionPath, changed_table
from convscope.callbacks.parts.tasks import NoTaskError, Task, class_task
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.capture.outputs.choice import Outputs
from convscope.loggers import Backend
from convscope.loggers.predictions import prediction_strip
from convscope.loggers.record import Storable
from convscope.metrics import OutputReadout, RidgeProbe
from convscope.metrics.functional import calibrated_readout, calibration_error, information_gain, prediction_entropy
from convscope.metrics.probe import FeatureProbe


class LayerPrediction(LayerObserver):
    """The prediction of every layer for every held-out sample, and the depth at which it is decided.

    A layer's prediction is a calibrated linear read-out of its pooled activations: ridge regression, exact
    on samples left out, put on the scale of probabilities by one parameter that no sample fits for itself (see
    :func:`~convscope.metrics.functional.calibrated_readout`). The last layer is the model's own output. Source: a
    reconstruction of the Hybrid CNN-Interpreter's layer-specific prediction results (arXiv 2211.00185).

    Args:
        output: ``"logits"`` where the model returns one logit per class (or probabilities, or one logit for two
            classes); where it is not known to, the output is left out, and so is what is compared with it.
            ``"readout"`` to read it out like any other layer, for example for embeddings.
        examples: Number of held-out samples that get a picture at each check, from easy to hard, chosen at the
            first check; 0 for none.
        changed: Rows of the table of samples that changed most since the last check; 0 for no table.
        **arguments: See :class:`~convscope.LayerObserver`.

    Logged for each layer:
        ``prediction/true_probability/<layer>`` (mean probability of the true class, 0 to 1),
        ``prediction/entropy/<layer>`` (mean, nats), ``prediction/gain/<layer>`` (mean of ``log p_l(y) - log
        p_{l-1}(y)``, nats; the first layer is compared with the class shares), ``prediction/agreement/<layer>``
        (share of samples for which the layer predicts what the output does), ``prediction/calibration_error/
        <layer>`` (expected calibration error, 15 bins, 0 to 1).
    Logged once per check:
        ``prediction/decision_depth`` (mean place, counted from 1, of the first layer from which on all predict what
        the output does; its distribution is the histogram ``prediction/decision_depths``),
        ``prediction/lost_on_the_way`` (share of samples that at least half of the layers in the first half of depth
        have right and the output has wrong), ``prediction/found_late`` (the reverse), and from the second check on
        ``prediction/changed`` (share of samples whose final prediction changed).

    Pictures: ``prediction/example/<number>``, the image beside its layer × class strip. Text:
    ``prediction/changed_most``.
    """

    family = "prediction"
    charts: ClassVar[dict[str, str]] = {
        "true_probability": "probability of the true class",
        "entropy": "entropy of the prediction",
        "gain": "gain of each layer",
        "agreement": "agreement with the output",
        "calibration_error": "expected calibration error",
    }
    maps: ClassVar[dict[str, MapSpec]] = {
        "true_probability": MapSpec("Probability of the true class", "mean probability", 0.0, 1.0)
    }
    columns: ClassVar[dict[str, str]] = {"true_probability": "p(true)", "agreement": "agrees"}

    def __init__(
        self,
        *,
        output: Literal["logits", "readout"] = "logits",
        examples: int = 6,
        changed: int = 10,
        **arguments: Any,
    ) -> None:
        self.output = one_of("output", output, ("logits", "readout"))
        self.examples = whole_number_or_zero("examples", examples, "no pictures", "a whole number of samples")
        self.changed = whole_number_or_zero("changed", changed, "no table", "a whole number of rows")
        super().__init__(**arguments)
        self._metrics = PerLayer[FeatureProbe]()
        self._readouts: dict[str, torch.Tensor] = {}
        self._task = Task("classification")
        self._outputs = 0  # columns of the model's output, 0 where it is read out or left out
        self._verdict = Outputs()
        self._path: PredictionPath | None = None
        self._before: PathSnapshot | None = None
        self._latest: PathSnapshot | None = None
        self._images: ExampleImages | None = None
        self._chosen: list[int] = []
        self._class_label: Callable[[int], str] = str

    @property
    def includes_output(self) -> bool:
        return True

    @property
    def takes_output_as_logits(self) -> Literal[False, "too", "only"]:
        return "too" if self.output == "logits" else False

    @property
    def takes_targets_as(self) -> Literal["nothing", "inferred", "classes"]:
        return "classes"

    @property
    def latest(self) -> PathSnapshot | None:
        """The last check's predictions, sample by sample; None before the first.

        Its ``numbers`` ``(N,)`` are the samples' in the held-out set, its ``layers`` the L names in depth order,
        ``of_truth`` ``(L, N)`` the probability of the true class, ``final`` ``(N,)`` the class that the output says
        and ``depth`` ``(N,)`` the decision depth, counted from 1. The same on every process.
        """
        return self._latest

    def skips(self, heldout: HeldOut, no_loss: str | None) -> str | None:
        try:
            self._task = class_task(heldout)
        except NoTaskError as error:
            return str(error)
        return None

    def ready(self, plan: Plan) -> None:
        self._images = ExampleImages(plan.heldout)
        self._class_label = plan.heldout.class_label
        plan.messages += self._task.notes(self.name)
        self._verdict = plan.outputs
        has_output = any(layer.is_output for layer in plan.layers[self.name])
        self._outputs = plan.outputs.classes if self.output == "logits" and has_output else 0
        if self.output == "logits" and not has_output and plan.outputs.shape is not None:
            plan.messages.append(
                f"{self.name} leaves out the model's output: {plan.outputs.why_not}; LayerPrediction(output='readout') "
                "reads it out like any other layer"
            )

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._metrics.make(layers, self._metric)
        self._readouts, self._path = {}, None

    def on_activation(self, record: Record) -> None:
        if record.targets is None:  # without targets the callback is skipped
            return
        features = record.pooled
        if isinstance(self._metrics.of(record.layer), OutputReadout):
            features = self._verdict.logits(features)
        targets, (features, index) = self._task.counted(record.targets, features, record.index)
        if len(targets):
            self._metrics.update(record, features, targets, index)

    def compute(self, layer: Layer) -> LayerResult | None:
        readout = self._read(self._metrics.of(layer))
        previous = next(reversed(self._readouts.values()), None)
        self._readouts[layer.name] = readout
        if layer.is_output:
            self._path = self._assemble()
        return LayerResult(self._scalars(readout, previous))

    def summarise(self, values: Values) -> dict[str, float]:
        path = self._path
        if path is None:
            return {}
        summary = path.summary()
        # The pictures compare with the path that was remembered at the previous check.
        self._before, self._latest = self._latest, path.snapshot()
        if self._before is not None and not self._before.comparable(self._latest):
            self._before = None
        if self._before is not None:
            summary["changed"] = float((self._before.final != self._latest.final).double().mean())
        return summary

    def conclude(self, findings: Findings, check: Mapping[str, Findings]) -> None:
        """Add what compares each layer with the output, which is read last."""
        if (path := self._path) is not None:
            agreement = (path.predicted == path.predicted[-1]).double().mean(dim=1)
            for layer, share in zip(path.layers, agreement, strict=True):
                if layer in findings.layers:
                    findings.layers[layer].scalars["agreement"] = float(share)

    def draw(self, dashboard: Backend, when: Moment) -> None:
        if self._path is None:
            return
        dashboard.histogram(f"{self.name}/decision_depths", self._path.depth.numpy(), when.step)
        if self._before is not None and self.changed:
            table = changed_table(self._path, self._before, self.changed, self._class_label)
            dashboard.text(f"{self.name}/changed_most", table, when.step)
        if self._images is not None and self.examples:
            self._draw_examples(dashboard, self._path, self._images, when)

    def end(self) -> None:
        self._metrics.drop()
        self._readouts, self._path = {}, None

    def state(self) -> dict[str, Any]:
        latest = None if self._latest is None else self._latest._asdict()
        return super().state() | {"latest": latest, "chosen": list(self._chosen)}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        latest = state["latest"]
        self._latest = None if latest is None else PathSnapshot(**latest)
        self._chosen = list(state["chosen"])

    def restart(self) -> None:
        super().restart()
        self._before, self._latest, self._chosen = None, None, []

    def _metric(self, layer: Layer) -> FeatureProbe:
        return OutputReadout() if layer.is_output and self._outputs else RidgeProbe(n_controls=1)

    def _read(self, metric: FeatureProbe) -> torch.Tensor:
        """Log-probabilities ``(N, K)`` of one layer, a column for each of the model's classes, on the CPU."""
        result = metric.compute()
        self._target, self._present = result.target.cpu(), result.classes.cpu()
        self._numbers = metric.numbers().cpu()
        if isinstance(metric, OutputReadout):
            return metric.log_probabilities().float().cpu()
        readout = calibrated_readout(result.scores, result.target).float().cpu()
        if not self._outputs:
            return readout
        return readout.new_full((len(readout), self._outputs), -torch.inf).index_copy_(1, self._present, readout)

    def _scalars(self, readout: torch.Tensor, previous: torch.Tensor | None) -> dict[str, float]:
        truth = self._truth()
        gained = readout.gather(1, truth[:, None])[:, 0]
        prior = _log_shares(truth) if previous is None else previous.gather(1, truth[:, None])[:, 0]
        return {
            "true_probability": float(gained.exp().double().mean()),
            "entropy": float(prediction_entropy(readout).mean()),
            "gain": float(information_gain(gained[None], prior)),
            "calibration_error": float(calibration_error(readout, truth)),
        }

    def _truth(self) -> torch.Tensor:
        return self._target if self._outputs else torch.searchsorted(self._present, self._target)

    def _assemble(self) -> PredictionPath:
        stacked = torch.stack(list(self._readouts.values()))
        classes = torch.arange(self._outputs) if self._outputs else self._present
        return PredictionPath(list(self._readouts), stacked, self._truth(), classes, self._numbers)

    def arrays(self) -> Mapping[str, Storable]:
        """The examples' probabilities by layer, for their likeliest classes, and small images of them."""
        path, images = self._path, self._images
        if path is None or images is None or not self.examples or not (chosen := self._choose(path, images)):
            return {}
        kept: dict[str, Storable] = {"layers": path.layers, **path.strips(chosen)}
        thumbnails = [images.thumbnail(number) for number in chosen] if self.pictures else []
        known = [picture for picture in thumbnails if picture is not None]
        return {**kept, "thumbnails": known} if len(known) == len(chosen) else kept

    def _choose(self, path: PredictionPath, images: ExampleImages) -> list[int]:
        """The examples, the same at every check where they can be."""
        shown = [number for number in images.numbers if number in set(path.numbers.tolist())]  # ignored ones are not
        if shown and not (self._chosen and set(self._chosen) <= set(shown)):
            self._chosen = path.pick(shown, self.examples)
        return self._chosen if shown else []

    def _draw_examples(self, dashboard: Backend, path: PredictionPath, images: ExampleImages, when: Moment) -> None:
        for number in self._choose(path, images):
            row = path.place(number)
            truth, said = int(path.truth[row]), int(path.predicted[-1, row])
            names = [self._class_label(label) for label in path.classes.tolist()]
            title = f"sample {number}, {when.label}\nclass {names[truth]}, output says {names[said]}"
            picture = prediction_strip(
                images.picture(number), path.log_probability[:, row].exp().numpy(), path.layers, truth, title, names
            )
            dashboard.image(f"{self.name}/example/{number}", picture, when.step)


def _log_shares(truth: torch.Tensor) -> torch.Tensor:
    return (torch.bincount(truth)[truth].double() / len(truth)).log().float()
