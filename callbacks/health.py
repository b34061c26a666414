"""Filter health: dead, saturated and constant filters, sizes of signals and gradients, layers that do not learn."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from convscope._arguments import callable_or_none, flag
from convscope.callbacks.engine.findings import Findings, LayerResult, MapSpec, Moment, Values, Vector
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.deaths import Death, Deaths
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.norm_changes import NormChanges
from convscope.callbacks.parts.per_layer import PerLayer
from convscope.callbacks.parts.weight_changes import WeightChanges
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.activation_bounds import bounds_of, is_rectified, off_range
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.capture.outputs.loss import Loss
from convscope.loggers import Backend
from convscope.metrics import FilterActivity, SignalResult, SignalRMS
from convscope.metrics.functional import ActivityResult
from convscope.metrics.functional._precision import as_double


class FilterHealth(LayerObserver):
    """Dead, saturated and constant filters, sizes of signals and gradients, NaN counts, layers that do not learn.

    All of it is a reconstruction: the quantities are the field's, the exact definitions are given here.

    Args:
        gradients: Measure the loss gradient too, at the cost of a backward pass unless another callback needs it.
        loss: ``loss(outputs, targets)``, as for :class:`~convscope.FilterImportance`.
        **arguments: See :class:`~convscope.LayerObserver`.

    Logged for each layer, over the whole held-out set:
        ``health/dead_filters/<layer>``: share of filters never active: after a rectifier always where that is
        flat (ReLU: never above zero; GELU, SiLU: on the flat tail, not in the dip), otherwise always exactly zero;
        ``health/constant_filters/<layer>``: share of the others that give one value everywhere;
        ``health/saturated_filters/<layer>``: share with 95 % of their values within 1 % of a bound of the activation
        function, for layers where that has a known bound (sigmoid, tanh, ReLU6, ELU, …);
        ``health/activation_rms/<layer>``, ``health/gradient_rms/<layer>``: root mean square of the activation, and of
        each sample's loss gradient there;
        ``health/activation_ratio/<layer>``: RMS here divided by that of the previous observed layer, in the order in
        which they run; ``health/gradient_ratio/<layer>``: gradient RMS of the previous layer divided by that here. Far
        below 1 the signal vanishes on its way through this layer, far above 1 it explodes;
        ``health/nonfinite/<layer>``, ``health/nonfinite_gradients/<layer>``: counts of NaN and infinite values. Where
        there are some, the numbers that they would spoil are left out;
        ``health/weight_norm/<layer>``: L2 norm of the layer's weights, biases left out.
    From the second check on, compared with the previous check:
        ``health/died/<layer>``, ``health/revived/<layer>``: counts of filters;
        ``health/update_ratio/<layer>``: ``‖Δw‖/‖w‖`` of the layer's weights, biases left out;
        ``health/statistics_change/<layer>``: movement of BatchNorm's running mean and standard deviation, relative to
        the standard deviation, where the layer has them;
        ``health/not_learning/<layer>``: 1 where weights that require a gradient, or learned earlier in the run, did
        not turn while those of other layers did; pure weight decay does not count as learning.
    Logged once per check:
        ``health/dead_total``, ``health/nonfinite_total``: sums over layers.

    Each filter's share of active values is a histogram, ``health/filters/<layer>``; :attr:`deaths` and the text
    ``health/deaths`` say which filters died when, and which came back.
    """

    family = "health"
    charts: ClassVar[dict[str, str]] = {
        "dead_filters": "share of dead filters",
        "activation_rms": "RMS of activations",
        "activation_ratio": "activation RMS / previous layer",
        "gradient_rms": "RMS of gradients",
        "gradient_ratio": "gradient RMS, previous layer / here",
        "update_ratio": "weight update / weights",
        "not_learning": "does not learn though it should",
        "nonfinite": "NaN and infinite activations",
    }
    maps: ClassVar[dict[str, MapSpec]] = {"dead_filters": MapSpec("Dead filters", "share of filters", 0.0, 1.0)}
    columns: ClassVar[dict[str, str]] = {"dead_filters": "dead", "update_ratio": "Δw/w"}
    # Rules watch these; in a sound run they are zero throughout, or say again what the logged ones say.
    details: ClassVar[frozenset[str]] = frozenset(
        {
            "constant_filters",
            "saturated_filters",
            "activation_ratio",
            "gradient_ratio",
            "nonfinite",
            "nonfinite_gradients",
            "nonfinite_total",
            "died",
            "revived",
            "not_learning",
            "weight_norm",
            "statistics_change",
        }
    )
    overview: ClassVar[dict[str, Literal["highest", "lowest", "mean"]]] = {"dead_filters": "highest"}

    def __init__(self, *, gradients: bool = True, loss: Loss | None = None, **arguments: Any) -> None:
        self.gradients = flag("gradients", gradients)
        self._loss = callable_or_none("loss", loss, "loss(outputs, targets)", "to infer it")
        super().__init__(**arguments)
        if not gradients:
            self.charts = {key: title for key, title in self.charts.items() if "gradient" not in key}  # type: ignore[misc]
        self._activity = PerLayer[FilterActivity]()
        self._gradients = PerLayer[SignalRMS]()
        self._masks: dict[str, torch.Tensor] = {}
        self._rms: dict[str, tuple[float, float | None]] = {}
        self._before: dict[str, str] = {}
        self._has_loss = False
        self._forget()

    def _forget(self) -> None:
        self._deaths, self._changes, self._norms = Deaths(), WeightChanges(), NormChanges()

    @property
    def deaths(self) -> list[Death]:
        """Every filter that was found dead in this run, with the time of its death and of its return."""
        return self._deaths.listed()

    @property
    def needs_gradient(self) -> bool:
        return self.gradients

    @property
    def takes_nonfinite(self) -> bool:
        return True

    @property
    def loss(self) -> Loss | None:
        return self._loss

    def skips(self, heldout: HeldOut, no_loss: str | None) -> str | None:
        if self.gradients and no_loss:
            rank_zero_info(f"convscope: {self.name} measures no gradients: {no_loss}")
        return None

    def ready(self, plan: Plan) -> None:
        self._changes.resume(plan.subject.module)
        # Without a loss no gradient ever comes, and metrics without a value would fail when computed.
        self._has_loss = self.gradients and plan.subject.loss is not None

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._activity.make(layers, _activity_of)
        self._gradients.make(layers if self._has_loss else [], lambda layer: SignalRMS())
        names = [layer.name for layer in layers]
        self._before = dict(zip(names[1:], names, strict=False))
        self._rms, self._masks = {}, {}
        self._changes.measure(layers)
        self._norms.measure(layers)

    def on_activation(self, record: Record) -> None:
        self._activity.update(record, record.activation)

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        mine = record.counted
        gradient = gradient if mine is None else gradient[mine]
        if len(gradient):
            self._gradients.update(record, gradient)

    def drop_gradients(self) -> bool:
        self._gradients.drop()
        return True

    def compute(self, layer: Layer) -> LayerResult:
        activity: ActivityResult = self._activity.compute(layer)
        found = _read(activity, self._gradient(layer))
        scalars = {"nonfinite": found.nonfinite} | self._changes.scalars(layer.name) | self._norms.scalars(layer.name)
        if found.nonfinite > 0:
            return LayerResult(scalars)
        scalars |= self._of_filters(layer, found)
        scalars |= {"activation_rms": found.rms} | found.of_gradient
        self._rms[layer.name] = (found.rms, scalars.get("gradient_rms"))
        return LayerResult(scalars | self._ratios(layer.name), found.active_share)

    def _gradient(self, layer: Layer) -> SignalResult | None:
        if layer not in self._gradients:
            return None
        try:
            found: SignalResult = self._gradients.compute(layer)
        except ValueError:  # no gradient ever came: the layer does not reach the loss
            return None
        return found

    def _of_filters(self, layer: Layer, found: _OnHost) -> dict[str, float]:
        dead = torch.from_numpy(found.dead)
        scalars = {"dead_filters": float(found.dead.mean()), "constant_filters": found.constant}
        if bounds_of(layer) != (None, None):
            scalars["saturated_filters"] = found.saturated
        changed = self._deaths.died_and_revived(layer.name, dead)
        if changed is not None:
            scalars["died"], scalars["revived"] = map(float, changed)
        self._masks[layer.name] = dead
        return scalars

    def _ratios(self, name: str) -> dict[str, float]:
        """Ratios of this layer's sizes to those of the previous layer, if both are known and not zero."""
        activation, gradient = self._rms[name]
        activation_before, gradient_before = self._rms.get(self._before.get(name, ""), (None, None))
        scalars = {}
        if activation_before:
            scalars["activation_ratio"] = activation / activation_before
        if gradient and gradient_before is not None:
            scalars["gradient_ratio"] = gradient_before / gradient
        return scalars

    def summarise(self, values: Values) -> dict[str, float]:
        counts = [*values.get("nonfinite", {}).values(), *values.get("nonfinite_gradients", {}).values()]
        return {
            "dead_total": float(sum(int(mask.sum()) for mask in self._masks.values())),
            "nonfinite_total": sum(counts, 0.0),
        }

    def remember(self, findings: Findings, when: Moment) -> None:
        super().remember(findings, when)
        for layer, dead in self._masks.items():
            self._deaths.record(layer, dead, when)

    def draw(self, dashboard: Backend, when: Moment) -> None:
        if table := self._deaths.markdown():
            dashboard.text(f"{self.name}/deaths", table, when.step)

    def end(self) -> None:
        self._activity.drop()
        self._gradients.drop()

    # State.

    def restart(self) -> None:
        super().restart()
        self._forget()

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "deaths": self._deaths.state_dict(),
            "weights": self._changes.state_dict(),
            "norms": self._norms.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._deaths.load_state_dict(state["deaths"])
        self._changes.load_state_dict(state["weights"])
        self._norms.load_state_dict(state.get("norms", {}))  # there were none in earlier versions


class _OnHost(NamedTuple):
    """One layer's results on the host."""

    dead: npt.NDArray[np.bool_]
    active_share: Vector
    constant: float
    saturated: float
    rms: float
    nonfinite: float
    of_gradient: dict[str, float]


def _read(activity: ActivityResult, gradient: SignalResult | None) -> _OnHost:
    """Results of one layer in one exchange with its device, in float64, in which counts are exact too."""
    masks = torch.stack([activity.dead, activity.constant, activity.saturated, activity.active_share])
    scalars = torch.stack([as_double(each) for each in (activity.rms, activity.nonfinite, *(gradient or ()))])
    packed = torch.cat([scalars, as_double(masks).flatten()]).cpu().numpy()
    rms, nonfinite, *of_gradient = map(float, packed[: len(scalars)])
    dead, constant, saturated, share = packed[len(scalars) :].reshape(len(masks), -1)
    return _OnHost(
        dead > 0, share.copy(), float(constant.mean()), float(saturated.mean()), rms, nonfinite, _named(of_gradient)
    )


def _named(of_gradient: list[float]) -> dict[str, float]:
    if not of_gradient:
        return {}
    rms, nonfinite = of_gradient
    return {"nonfinite_gradients": nonfinite} | ({} if nonfinite > 0 else {"gradient_rms": rms})


def _activity_of(layer: Layer) -> FilterActivity:
    return FilterActivity(layer.channels, is_rectified(layer), bounds_of(layer), off=off_range(layer))
