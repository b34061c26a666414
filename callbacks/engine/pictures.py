"""Histograms, heat-maps, learning maps and the chart layout of one run, where its logger is TensorBoard."""

from __future__ import annotations

from contextlib import suppress

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.tensorboard import SummaryWriter

from convscope.callbacks.engine.bridge import fast_dev_run, tensorboard_writers
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.findings import Findings, Moment
from convscope.callbacks.engine.observer import Observer
from convscope.callbacks.engine.overview import OVERVIEW, Overview, map_title
from convscope.callbacks.engine.progress import Progress
from convscope.loggers import (
    TensorBoardDashboard,
    correlation_heatmap,
    depth_charts,
    learning_map,
)
from convscope.loggers._canvas import require_matplotlib
from convscope.loggers.scale import scale_of

SPARE = 64 << 20
"""Bytes of the disk that pictures leave free: once it is full, TensorBoard's writer is lost, and the run with it."""


class Pictures:
    """Pictures of what observers found. One layout event per run holds the charts of all observers.

    Args:
        failures: Record of pictures that cannot be drawn: one costs the pictures of its observer alone.
    """

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self._dashboards: dict[SummaryWriter, TensorBoardDashboard] = {}
        self._charts: dict[str, dict[str, list[str]]] = {}
        self._said: set[str] = set()

    def draw(
        self, trainer: pl.Trainer, found: list[tuple[Observer, Findings]], when: Moment, progress: Progress
    ) -> None:
        """Draw one check's pictures, on the main process, to every TensorBoard logger."""
        found = [(observer, findings) for observer, findings in found if findings.layers]
        if not trainer.is_global_zero or fast_dev_run(trainer) or not found:
            return
        writers = tensorboard_writers(trainer)
        if not writers and any(observer.pictures for observer, _ in found):
            self._say_once(
                "there is no TensorBoard logger, so pictures are skipped; scalars go to the loggers there are"
            )
        for observer, findings in found:
            with self._failures.guard(f"naming the charts of {observer.name}"):
                self._charts[observer.name] = _charts(observer, findings)
        for writer in writers:
            with self._failures.guard("drawing pictures"):
                self._draw_all(writer, found, when, progress)

    def _draw_all(
        self, writer: SummaryWriter, found: list[tuple[Observer, Findings]], when: Moment, progress: Progress
    ) -> None:
        dashboard = self._dashboards.setdefault(writer, TensorBoardDashboard(writer))
        if dashboard.free_space < SPARE:
            self._say_once(
                f"less than {SPARE >> 20} MiB are free where TensorBoard's files are: histograms and pictures are "
                "skipped, so that there is room for scalars and checkpoints"
            )
            return
        dashboard.layout(self._charts)
        for observer, findings in found:
            with self._failures.guard(f"drawing pictures of {observer.name}"):
                if observer.pictures:
                    self._draw(dashboard, observer, findings, when)
            progress.advance()

    def _draw(self, dashboard: TensorBoardDashboard, observer: Observer, findings: Findings, when: Moment) -> None:
        for layer, result in findings.layers.items():
            if result.distribution is not None:
                values = observer.shown(result.distribution)
                dashboard.histogram(f"{findings.family}/filters/{layer}", values, when.step)
        try:
            require_matplotlib()
        except ImportError as error:
            self._say_once(str(error))
            return
        for layer, result in findings.layers.items():
            if result.matrix is not None:
                title = f"{layer}, {when.label}"
                dashboard.image(
                    f"{findings.family}/matrix/{layer}", correlation_heatmap(result.matrix, title), when.step
                )
        self._draw_maps(dashboard, observer, list(findings.layers), when)
        observer.draw(dashboard, when)

    def _draw_maps(self, dashboard: TensorBoardDashboard, observer: Observer, layers: list[str], when: Moment) -> None:
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
        dashboards = [dashboard for dashboard in self._dashboards.values() if dashboard.free_space >= SPARE]
        with self._failures.guard("drawing the overview"), suppress(ImportError):  # said where maps were to be drawn
            require_matplotlib()
            picture = Overview(observers).picture(order, alerts) if dashboards else None
            if picture is not None:
                for dashboard in dashboards:
                    dashboard.image(f"{OVERVIEW}/all_maps", picture, step)

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            rank_zero_info(f"convscope: {message}")


def _charts(observer: Observer, findings: Findings) -> dict[str, list[str]]:
    """Titles and tags of the charts that show all layers of a quantity, in depth order."""
    charts: dict[str, list[str]] = {}
    for quantity, title in observer.charts.items():
        if not observer.is_logged(quantity):
            continue
        charts |= depth_charts(title, [f"{findings.family}/{quantity}/{layer}" for layer in findings.layers])
    return charts
