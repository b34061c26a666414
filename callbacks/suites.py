"""Ready lists of callbacks: light, standard, full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl

from convscope._arguments import one_of, refuse
from convscope.alerts.rules import Rule
from convscope.callbacks.ablation import AblationOracle
from convscope.callbacks.alerts import DriftAlert
from convscope.callbacks.class_filters import ClassFilters
from convscope.callbacks.correlation import FilterCorrelation
from convscope.callbacks.drift import RepresentationDrift
from convscope.callbacks.filter_pictures import FilterPictures
from convscope.callbacks.forward import ForwardFromLayer
from convscope.callbacks.health import FilterHealth
from convscope.callbacks.importance import FilterImportance
from convscope.callbacks.multi_scale import MultiScaleInterpretation
from convscope.callbacks.part_interpretability import PartInterpretability
from convscope.callbacks.parts.actions import ActionSpec
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.prediction import LayerPrediction
from convscope.callbacks.probe import LayerProbe
from convscope.callbacks.resampling import InputResampling
from convscope.callbacks.similarity import LayerSimilarity
from convscope.callbacks.table import LayerTable
from convscope.capture.data.heldout import HeldOut, HeldOutLike, as_heldout

SuiteName = Literal["light", "standard", "full"]

Alerts = bool | str | Path | Sequence[Rule | dict[str, Any]] | Mapping[str, Sequence[ActionSpec]]

# The callbacks of each suite: class and its own arguments. Data, so that a suite can be read at a glance.
_STANDARD: list[tuple[type[LayerObserver], dict[str, Any]]] = [
    (LayerProbe, {}),
    (FilterImportance, {}),
    (FilterCorrelation, {}),
    (RepresentationDrift, {}),
    (FilterHealth, {}),
]
_SUITES: dict[str, list[tuple[type[LayerObserver], dict[str, Any]]]] = {
    "light": [(LayerProbe, {"pictures": False}), (FilterCorrelation, {"pictures": False})],
    "standard": _STANDARD,
    "full": [
        *_STANDARD,
        (LayerProbe, {"probe": "logistic"}),
        (LayerProbe, {"probe": "knn"}),
        (FilterImportance, {"criterion": "weight_l1"}),
        (FilterImportance, {"criterion": "output_correlation"}),
        (LayerPrediction, {}),
        (LayerSimilarity, {}),
        (ClassFilters, {}),
        (PartInterpretability, {"every_n_epochs": 5}),
        (FilterPictures, {"every_n_epochs": 5}),
        (ForwardFromLayer, {"every_n_epochs": 5}),
        (AblationOracle, {"every_n_epochs": 5}),
        (InputResampling, {"every_n_epochs": 5}),
        (MultiScaleInterpretation, {"every_n_epochs": 5}),
    ],
}


def suite(
    name: SuiteName = "standard", heldout: HeldOutLike = None, *, alerts: Alerts = True, **arguments: Any
) -> list[pl.Callback]:
    """A list of callbacks that share one held-out set and one pass, with alerts on what they measure.

    ============  ===========================================================================================
    ``light``     probe accuracy and correlation, forward only, no pictures and no table
    ``standard``  probe accuracy, Taylor importance, correlation, drift and health of each layer, with pictures and a
                  printed table
    ``full``      also logistic and kNN probes, importance by weight norm and by output correlation, each layer's
                  prediction, similarity of layers, filters by class; every fifth epoch, on at most 256 samples,
                  removal curves and ablation, pictures of filters, part scores, input resampling, and
                  multi-scale interpretation of 8 images
    ============  ===========================================================================================

    A callback of your own in the same list replaces the suite's callback of the same class and name:
    ``[*suite(), RepresentationDrift(reference=...)]``. So does a :class:`~convscope.DriftAlert` or a
    :class:`~convscope.LayerTable`.

    Args:
        name: Name of the suite.
        heldout: The held-out set of all callbacks, or what ``HeldOut(...)`` reads one from: a loader, a data set,
            tensors; by default 1,024 samples of the validation loader.
        alerts: True for the default rules, False for no alerts; the path of a YAML file, or a list, for rules of your
            own; ``{"warning": ["log"], "critical": ["log", "stop"]}`` for the actions, by severity, when a default
            rule fires. For rules and actions of your own add a ``DriftAlert``.
        **arguments: Given to every callback that measures: ``layers``, ``every_n_epochs``, ``max_layers``,
            ``max_overhead``, … as in :class:`~convscope.LayerObserver`. What only some of them take (``probe``,
            ``criterion``, …) is refused: add such a callback to the list, under a ``name`` if it is to stand beside
            the suite's own.

    Raises:
        ValueError: if there is no such suite, or an argument is out of range or not taken by every callback.
        FileNotFoundError: if there is no such YAML file.

    Example:
        >>> [type(callback).__name__ for callback in suite("light", every_n_epochs=2)]
        ['LayerProbe', 'FilterCorrelation', 'DriftAlert']
        >>> [type(callback).__name__ for callback in suite(alerts=False)][-3:]
        ['RepresentationDrift', 'FilterHealth', 'LayerTable']
    """
    one_of("name", name, _SUITES)
    for argument, value in arguments.items():
        _check_shared(argument, value)
    shared = as_heldout(heldout) or HeldOut()
    observers = [kind(**{"heldout": shared, **own, **arguments}) for kind, own in _SUITES[name]]
    table = [] if name == "light" else [LayerTable()]
    # Behind what they read from, the alert last: its messages belong under the numbers that they are about.
    callbacks: list[LayerObserver | LayerTable | DriftAlert] = [*observers, *table, *_alert(alerts)]
    for callback in callbacks:
        callback.by_default = True
    return list(callbacks)


def _alert(alerts: Any) -> list[DriftAlert]:
    if isinstance(alerts, bool):
        return [DriftAlert()] if alerts else []
    if isinstance(alerts, Mapping):
        return [DriftAlert(actions=alerts)]
    if isinstance(alerts, str | Path):
        return [DriftAlert(rules=str(alerts))]
    if isinstance(alerts, Sequence) and all(isinstance(one, Rule | Mapping) for one in alerts):
        return [DriftAlert(rules=alerts)]
    raise refuse(
        "alerts", alerts, "True, False, the path of a YAML file, a list of rules, or actions by severity such as "
        "{'critical': ['log', 'stop']}; a DriftAlert of your own stands beside the suite in Trainer(callbacks=...)",
    )  # fmt: skip


def _check_shared(argument: str, value: Any) -> None:
    """Refuse an argument that not every callback takes: given to all, it would mean something in a few."""
    shared = [each for each in _arguments_of(LayerObserver) if each not in ("heldout", "name")]
    if argument in shared:
        return
    owners = [kind.__name__ for kind in dict.fromkeys(kind for kind, _ in _SUITES["full"]) if _own(kind, argument)]
    if not owners:
        raise refuse(f"suite({argument}", value, f"some of {', '.join(shared)}; no callback of a suite takes this")
    raise refuse(
        f"suite({argument}",
        value,
        f"it to a callback that takes it ({', '.join(owners)}), in a list of your own: "
        f"[*suite(...), {owners[0]}({argument}=..., name=...)]",
    )


def _arguments_of(kind: type) -> list[str]:
    return [name for name, one in signature(kind).parameters.items() if one.kind is not Parameter.VAR_KEYWORD]


def _own(kind: type, argument: str) -> bool:
    return argument in _arguments_of(kind) and argument not in _arguments_of(LayerObserver)
