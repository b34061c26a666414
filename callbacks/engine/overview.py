"""Overview of the run: one curve over all layers per leading quantity, and one picture of all learning maps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from convscope.callbacks.engine.findings import BEFORE, Findings, MapSpec
from convscope.callbacks.engine.observer import Observer
from convscope.loggers._canvas import Picture
from convscope.loggers.overview import Marker, Panel, overview_picture
from convscope.loggers.scale import scale_of

OVERVIEW = "0_overview"
"""First part of the overview's tags: a digit sorts before all letters, and no logger hides or renames it."""


def overview_scalars(found: Iterable[tuple[Observer, Findings]]) -> dict[str, float]:
    """One number over all layers for each quantity that an observer names in ``overview``."""
    ways: dict[str, Callable[[Collection[float]], float]] = {"highest": max, "lowest": min, "mean": _mean}
    return {
        f"{OVERVIEW}/{observer.name}_{quantity}_{which}": float(ways[which](values.values()))
        for observer, findings in found
        for quantity, which in observer.overview.items()
        if (values := findings.values.get(quantity))
    }


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values)


def map_title(observer: Observer, spec: MapSpec) -> str:
    """Title of a learning map: its quantity and, among several callbacks of a kind, which one: "… (taylor)"."""
    return spec.title if observer.variant == observer.family else f"{spec.title} ({observer.variant})"


class Overview:
    """All learning maps of a run, on one time axis.

    Observers may have had checks at different times: a column is a moment at which any of them had one.
    """

    def __init__(self, observers: list[Observer]) -> None:
        self.observers = [observer for observer in observers if observer.pictures and observer.history.steps]

    def picture(self, order: list[str], alerts: list[tuple[int, str]]) -> Picture | None:
        """The picture, or None if there is no map.

        Args:
            order: All layers in depth order.
            alerts: Step and severity of each alert.
        """
        moments = self._moments()
        panels = [panel for observer in self.observers for panel in self._panels(observer, order, list(moments))]
        if not panels:
            return None
        steps, labels = [step for step, _ in moments], list(moments.values())
        markers = {Marker(_column(steps, step), severity) for step, severity in alerts}
        counted = "training step" if self._by_step else "epoch"
        x_label = f"{counted}  ({BEFORE}: before training)" if BEFORE in labels else counted
        return overview_picture(panels, labels, x_label, sorted(markers))

    @property
    def _by_step(self) -> bool:
        return any(observer.history.axis()[1].startswith("training step") for observer in self.observers)

    def _moments(self) -> dict[tuple[int, int], float | str]:
        """Step and epochs trained of every check, with its label."""
        by_step = self._by_step
        found: dict[tuple[int, int], float | str] = {}
        for observer in self.observers:
            history = observer.history
            for moment, label in zip(zip(history.steps, history.epochs, strict=True), history.axis()[0], strict=True):
                found[moment] = moment[0] if by_step and label != BEFORE else label
        return dict(sorted(found.items()))

    def _panels(self, observer: Observer, order: list[str], moments: list[tuple[int, int]]) -> list[Panel]:
        history, panels = observer.history, []
        places = [moments.index(moment) for moment in zip(history.steps, history.epochs, strict=True)]
        for quantity, spec in observer.maps.items():
            known = {layer for row in history.rows for layer in row.get(quantity, {})}
            layers = [layer for layer in order if layer in known]
            if layers:
                values = history.table(quantity, layers)
                scale = scale_of(values, spec.vmin, spec.vmax, spec.start, spec.start_name)
                panels.append(Panel(map_title(observer, spec), values, places, layers, scale))
        return panels


def _column(steps: list[int], step: int) -> int:
    """The first check at or after an alert's step, else the last one."""
    return next((place for place, known in enumerate(steps) if known >= step), len(steps) - 1)
