"""Histograms, heat-maps, learning maps and the chart layout of one run, for every logger that takes them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
import numpy.typing as npt

from convscope.callbacks.engine.bridge import backends, fast_dev_run
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.findings import Findings, Moment
from convscope.callbacks.engine.notices import Notices
from convscope.callbacks.engine.observer import Observer
from convscope.callbacks.engine.overview import OVERVIEW, Overview, map_title
from convscope.callbacks.engine.progress import Progress
from convscope.loggers import (
    Backend,
    correlation_heatmap,
    depth_charts,
    learning_map,
)
from convscope.loggers._canvas import require_matplotlib
from convscope.loggers.backend import Pixels
from convscope.loggers.scale import scale_of
from convscope.loggers.several import AllLoggers

SPARE = 64 << 20
"""Bytes of the disk that pictures leave free: once it is full, TensorBoard's writer is lost, and the run with it."""


class DrawnPictures(Backend):
    """Collects the pictures that callbacks draw themselves; others can be drawn again from the record's numbers."""

    def __init__(self) -> None:
        self._taken: dict[str, Pixels] = {}

    @classmethod
    def of(cls, logger: Any) -> Backend | None:
        return None

    def histogram(self, tag: str, values: npt.ArrayLike, step: int) -> None:
        return

    def image(self, tag: str, array: Pixels, step: int) -> None:
        if "/example/" not in tag:  # strips: their probabilities are in the record
            self._taken[tag] = array

    def text(self, tag: str, markdown: str, step: int) -> None:
        return

    def taken(self) -> dict[str, Pixels]:
        """The pictures since the last call, by tag."""
        taken, self._taken = self._taken, {}
        return taken


class Pictures:
    """Pictures of the observers' findings. One layout event per run holds the charts of all observers.

    Args:
        failures: Record of pictures that cannot be drawn: one costs the pictures of its observer alone.
        record: Collects the pictures that observers draw themselves, whatever the loggers.
    """

    def __init__(self, failures: Failures, record: DrawnPictures) -> None:
        self._failures, self._record = failures, record
        self._loggers = AllLoggers({}, self._report)
        self._known: dict[str, Backend] = {}
        self._charts: dict[str, dict[str, list[str]]] = {}
        self._notices = Notices()

    def draw(
        self, trainer: pl.Trainer, found: list[tuple[Observer, Findings]], when: Moment, progress: Progress
    ) -> None:
        """Draw one check's pictures once, on the main process, for all loggers."""
        found = [(observer, findings) for observer, findings in found if findings.layers]
        if not trainer.is_global_zero or fast_dev_run(trainer) or not found:
            return
        with self._failures.guard("looking for loggers"):
            self._begin(trainer)
        for observer, findings in found:
            with self._failures.guard(f"naming the charts of {observer.name}"):
                self._charts[observer.name] = _charts(observer, findings)
        if not self._known and any(observer.pictures for observer, _ in found):
            self._notices.say("no logger takes pictures, so there are none; scalars go to the loggers there are")
        if not self._known or self._loggers.usable:
            self._draw_all(found, when, progress)

    def _begin(self, trainer: pl.Trainer) -> None:
        if not self._known:
            self._known = backends(trainer)
            self._loggers = AllLoggers(self._known, self._report)
        self._loggers.begin()
        for name, free in self._loggers.spaces.items():
            if free < SPARE:
                self._loggers.drop(name)
                self._notices.say(
                    f"less than {SPARE >> 20} MiB are free where the files of {name} are: histograms and pictures are "
                    "skipped, so that there is room for scalars and checkpoints"
                )

    def _report(self, logger: str, error: Exception) -> None:
        self._failures.record(f"writing pictures to {logger}", error)

    def _draw_all(self, found: list[tuple[Observer, Findings]], when: Moment, progress: Progress) -> None:
        with self._failures.guard("arranging charts"):
            self._loggers.layout(self._charts)
        for observer, findings in found:
            with self._failures.guard(f"drawing pictures of {observer.name}"):
                if observer.pictures:
                    self._draw(observer, findings, when)
            progress.advance()

    def _draw(self, observer: Observer, findings: Findings, when: Moment) -> None:
        dashboard = self._loggers
        for layer, result in findings.layers.items():
            if result.distribution is not None:
                values = observer.shown(result.distribution)
                dashboard.histogram(f"{findings.family}/filters/{layer}", values, when.step)
        try:
            require_matplotlib()
        except ImportError as error:
            self._notices.say(str(error))
            return
        for layer, result in findings.layers.items():
            if result.clustered is not None and self._known:
                matrix, order = result.clustered
                picture = correlation_heatmap(matrix, f"{layer}, {when.label}", order)
                dashboard.image(f"{findings.family}/matrix/{layer}", picture, when.step)
        if self._known:
            self._draw_maps(dashboard, observer, list(findings.layers), when)
        observer.draw(AllLoggers({"loggers": dashboard, "the record": self._record}, self._report), when)

    def _draw_maps(self, dashboard: Backend, observer: Observer, layers: list[str], when: Moment) -> None:
        history = observer.history
        if not history.epochs:  # nothing could be remembered
            return
        x, x_label = history.axis()
        for quantity, spec in observer.maps.items():
            values, title = history.table(quantity, layers), map_title(observer, spec)
            scale = scale_of(values, spec.vmin, spec.vmax, spec.start, spec.start_name)
            ends = (scale.low_name, scale.high_name)
            picture = learning_map(values, layers, x, title, spec.unit, scale.low, scale.high, x_label, ends)
            dashboard.image(f"{observer.name}/map/{quantity}", picture, when.step)

    def draw_overview(
        self, trainer: pl.Trainer, observers: list[Observer], order: list[str], alerts: list[tuple[int, str]], step: int
    ) -> None:
        """Draw all learning maps in one picture, once the alerts of their last check are known."""
        if not trainer.is_global_zero or fast_dev_run(trainer):
            return
        with self._failures.guard("drawing the overview"), suppress(ImportError):  # reported when maps were to be drawn
            require_matplotlib()
            picture = Overview(observers).picture(order, alerts) if self._known and self._loggers.usable else None
            if picture is not None:
                self._loggers.image(f"{OVERVIEW}/all_maps", picture, step)


def _charts(observer: Observer, findings: Findings) -> dict[str, list[str]]:
    """Titles and tags of the charts that show all layers of a quantity, in depth order."""
    charts: dict[str, list[str]] = {}
    for quantity, title in observer.charts.items():
        if not observer.is_logged(quantity):
            continue
        charts |= depth_charts(title, [f"{findings.family}/{quantity}/{layer}" for layer in findings.layers])
    return charts
