"""TensorBoard writer for histograms, pictures, text and one layout of charts."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from convscope.loggers.backend import Backend, Layout, check_picture, claim, finite
from convscope.loggers.png import png_bytes
from convscope.loggers.writers import summary_writer

HISTOGRAM_BINS = 64
MARKERS = 5  # all that a custom-scalars chart has; its lines share the colour of their run

# Python-Markdown, which TensorBoard renders with, knows backslash escapes for these only.
_BACKSLASH_ESCAPED = re.compile(r"([\\`*_{}\[\]()>#+\-.!])")
# Entities for characters without a backslash escape: HTML, table cells, and marks of addresses and code.
_ENTITIES = {"&": "&amp;", "<": "&lt;", "|": "&#124;"}


def escape_markdown(text: str) -> str:
    """Escape `text`, so that TensorBoard's Markdown shows it as it is written.

    Layer and class names come from users and may hold `_`, `*`, `<` or `|`. Line breaks and runs of blanks
    become one blank, so that the text stays in its line or table cell.

    >>> escape_markdown("layer_1.conv*")
    'layer\\\\_1\\\\.conv\\\\*'
    """
    line = " ".join(text.split())
    line = "".join(_ENTITIES.get(character, character) for character in line)
    return _BACKSLASH_ESCAPED.sub(r"\\\1", line)


def depth_charts(title: str, tags: Sequence[str]) -> dict[str, list[str]]:
    """Charts for one quantity of many layers: all of them in one, then groups small enough to distinguish lines.

    The lines of a custom-scalars chart differ by five markers only, so groups are of five neighbours at most and of
    nearly equal size. Titles name the layers: the first and the last.

    Args:
        title: what the charts show, e.g. "probe accuracy".
        tags: exact scalar tags in depth order, input first; a layer's name follows the second slash.

    >>> list(depth_charts("Gini", [f"importance/gini/conv{i}" for i in range(1, 8)]))
    ['Gini, all 7 layers', 'Gini, layers 1–3: conv1 … conv3', 'Gini, layers 4–7: conv4 … conv7']
    >>> depth_charts("Gini", ["importance/gini/conv"])
    {'Gini: conv': ['importance/gini/conv']}
    """
    count, layers = len(tags), _layers_of(tags)
    if count <= MARKERS:
        return {f"{title}: {_span(layers)}": list(tags)} if tags else {}
    groups = -(-count // MARKERS)
    bounds = [group * count // groups for group in range(groups + 1)]
    charts = {f"{title}, all {count} layers": list(tags)}
    for start, stop in pairwise(bounds):
        charts[f"{title}, layers {start + 1}–{stop}: {_span(layers[start:stop])}"] = list(tags[start:stop])
    return charts


def _layers_of(tags: Sequence[str]) -> list[str]:
    """The part of a tag after the family and the quantity."""
    return [tag.split("/", 2)[-1] for tag in tags]


def _span(layers: Sequence[str]) -> str:
    return layers[0] if len(layers) == 1 else f"{layers[0]} … {layers[-1]}"


class TensorBoardDashboard(Backend):
    """Writer of histograms, pictures, text and the custom-scalars layout of one TensorBoard run.

    It keeps no values, only the kind of each tag: TensorBoard reads a tag as the kind that came first and does
    not show the others, so a second kind is refused here.

    Errors of the writer (a full disk, a closed file) are not caught.

    Args:
        writer: the run's `SummaryWriter`, for instance `TensorBoardLogger.experiment`.

    >>> import tempfile
    >>> from torch.utils.tensorboard import SummaryWriter
    >>> with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
    ...     dashboard = TensorBoardDashboard(writer)
    ...     dashboard.text("convscope/about", "held-out set: 512 images", step=0)
    ...     dashboard.layout({"probe": {"accuracy": ["probe/accuracy/conv1", "probe/accuracy/conv2"]}})
    """

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer
        self._kinds: dict[str, str] = {}
        self._layout: dict[str, dict[str, list[str]]] | None = None

    @classmethod
    def of(cls, logger: Any) -> Backend | None:
        """For any logger whose ``experiment`` is a ``SummaryWriter``, or offers what one does."""
        writer = summary_writer(logger)
        return None if writer is None else cls(writer)

    @property
    def free_space(self) -> float:
        """Free bytes where the run is written; infinite if that is not a local folder."""
        try:
            return float(shutil.disk_usage(self._writer.log_dir).free)
        except (OSError, AttributeError):  # tensorboardX's writer has no log_dir
            return math.inf

    def histogram(self, tag: str, values: npt.ArrayLike, step: int) -> None:
        """Write the distribution of `values`, any shape, in 64 equal bins between their least and greatest.

        NaN and infinite values are left out; with no finite value nothing is written.

        Raises:
            ValueError: if `tag` was written as another kind.
        """
        claim(self._kinds, tag, "histogram")
        kept = finite(values)
        if kept.size:
            self._writer.add_histogram(tag, kept, global_step=step, bins=_bin_edges(kept))

    def image(self, tag: str, array: npt.NDArray[np.uint8], step: int) -> None:
        """Write one picture, `(H, W, 3)` of uint8, as `correlation_heatmap` and `learning_map` return it.

        Raises:
            ValueError: if `array` is not such a picture, or `tag` was written as another kind.
        """
        check_picture(tag, array)
        claim(self._kinds, tag, "image")
        if getattr(type(self._writer), "add_image", None) is SummaryWriter.add_image:
            self._writer._get_file_writer().add_summary(_picture(tag, array), step)
        else:  # a writer of another package
            self._writer.add_image(tag, array, global_step=step, dataformats="HWC")

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Write Markdown; put names from outside through `escape_markdown` first.

        Raises:
            ValueError: if `tag` was written as another kind.
        """
        claim(self._kinds, tag, "text")
        self._writer.add_text(tag, markdown, global_step=step)

    def layout(self, charts: Layout) -> None:
        """Arrange scalars in charts of the Custom Scalars tab: category -> chart title -> exact scalar tags.

        One event is written for a layout; the same layout again writes nothing, another replaces the first.
        TensorBoard lists the lines of a chart in the order in which their tags were first logged, so log
        layers in depth order. Charts without tags, and categories without charts, are left out.

        Raises:
            ValueError: if a tag was written as a histogram, picture or text.
        """
        wanted = _without_empty(charts)
        if not wanted or wanted == self._layout:
            return
        for tag in (tag for chart in wanted.values() for tags in chart.values() for tag in tags):
            claim(self._kinds, tag, "scalar")
        self._writer.add_custom_scalars(_as_multiline(wanted))
        self._layout = wanted


def _picture(tag: str, array: npt.NDArray[np.uint8]) -> Summary:
    """The event of a picture as torch writes it, but for the level of compression."""
    height, width, colours = array.shape
    image = Summary.Image(height=height, width=width, colorspace=colours, encoded_image_string=png_bytes(array))
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def _bin_edges(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Equal bins, or one where the values lie too close together to divide their range."""
    low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
    if np.all(np.diff(edges) > 0):
        return edges
    half = max(abs(low), abs(high), 1.0) * 1e-6
    return np.array([low - half, high + half])


def _without_empty(charts: Layout) -> dict[str, dict[str, list[str]]]:
    kept = {
        category: {title: list(tags) for title, tags in group.items() if tags} for category, group in charts.items()
    }
    return {category: group for category, group in kept.items() if group}


def _as_multiline(charts: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, dict[str, list[object]]]:
    """Argument of `add_custom_scalars`, with tags as anchored patterns: the plugin reads tags as regexes."""
    return {
        category: {title: ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]] for title, tags in group.items()}
        for category, group in charts.items()
    }
