"""Ready lists of callbacks: light, standard, full."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any, Literal

from convscope._arguments import one_of, refuse
from convscope.callbacks.ablation import AblationOracle
from convscope.callbacks.class_filters import ClassFilters
from convscope.callbacks.correlation import FilterCorrelation
from convscope.callbacks.drift import RepresentationDrift
from convscope.callbacks.filter_pictures import FilterPictures
from convscope.callbacks.forward import ForwardFromLayer
from convscope.callbacks.health import FilterHealth
from convscope.callbacks.importance import FilterImportance
from convscope.callbacks.multi_scale import MultiScaleInterpretation
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.prediction import LayerPrediction
from convscope.callbacks.probe import LayerProbe
from convscope.callbacks.similarity import LayerSimilarity
from convscope.capture.data.heldout import HeldOut, HeldOutLike, as_heldout

SuiteName = Literal["light", "standard", "full"]

# What is in each suite: class and its own arguments. Data, so that a suite can be read at a glance.
_SUITES: dict[str, list[tuple[type[LayerObserver], dict[str, Any]]]] = {
    "light": [(LayerProbe, {"pictures": False}), (FilterCorrelation, {"pictures": False})],
    "standard": [(LayerProbe, {}), (FilterImportance, {}), (FilterCorrelation, {})],
    "full": [
        (LayerProbe, {}),
        (LayerProbe, {"probe": "logistic"}),
        (LayerProbe, {"probe": "knn"}),
        (FilterImportance, {}),
        (FilterImportance, {"criterion": "weight_l1"}),
        (FilterImportance, {"criterion": "output_correlation"}),
        (FilterCorrelation, {}),
        (RepresentationDrift, {}),
        (FilterHealth, {}),
        (LayerPrediction, {}),
        (LayerSimilarity, {}),
        (ClassFilters, {}),
        (FilterPictures, {"every_n_epochs": 5}),
        (ForwardFromLayer, {"every_n_epochs": 5}),
        (AblationOracle, {"every_n_epochs": 5}),
        (MultiScaleInterpretation, {"every_n_epochs": 5}),
    ],
}


def suite(name: SuiteName = "standard", heldout: HeldOutLike = None, **arguments: Any) -> list[LayerObserver]:
    """A list of callbacks that share one held-out set and one pass.

    ============  ===========================================================================================
    ``light``     probe accuracy and correlation, forward only, no pictures
    ``standard``  probe accuracy, Taylor importance and correlation, with pictures
    ``full``      besides: logistic and kNN probes, importance by weight norm and by output correlation, drift
                  and health of each layer, its prediction, similarity of layers, filters by class; every fifth
                  epoch, on at most 256 samples, removal curves and ablation, pictures of filters, and where the
                  network looks in 8 images
    ============  ===========================================================================================

    Args:
        name: Which suite.
        heldout: The held-out set of all callbacks, or what ``HeldOut(...)`` reads one from: a loader, a data set,
            tensors; by default 1,024 samples of the validation loader.
        **arguments: Given to every callback: ``layers``, ``every_n_epochs``, ``max_layers``, ``max_overhead``, … as
            in :class:`~convscope.LayerObserver`. What only some of them take (``probe``, ``criterion``, …) is refused:
            add such a callback to the list.

    Raises:
        ValueError: if there is no such suite, or an argument is out of range or not taken by every callback.

    Example:
        >>> [type(callback).__name__ for callback in suite("standard", every_n_epochs=2)]
        ['LayerProbe', 'FilterImportance', 'FilterCorrelation']
    """
    one_of("name", name, _SUITES)
    for argument, value in arguments.items():
        _check_shared(argument, value)
    shared = as_heldout(heldout) or HeldOut()
    return [kind(**{"heldout": shared, **own, **arguments}) for kind, own in _SUITES[name]]


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
