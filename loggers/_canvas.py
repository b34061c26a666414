"""Matplotlib without side effects: the object API only, and the same picture whatever style the user has set.

pyplot is never imported. rcParams are never written and, where they would change the picture, not read: a
training script may have its own style, backend and open figures.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = npt.NDArray[np.uint8]

DPI = 100
FONT = "DejaVu Sans"  # comes with matplotlib, so it is always there
TEXT_SIZE, TITLE_SIZE = 8.5, 10.0
INK = "#222222"
MISSING_FACE, MISSING_EDGE = "#d9d9d9", "#a0a0a0"


def require_matplotlib() -> None:
    """Raise the one message about the missing extra; callers turn it into one warning a run.

    Raises:
        ImportError: if matplotlib cannot be imported.
    """
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError(
            "heat-maps and learning maps need matplotlib, which is missing: pip install 'convscope[plot]'"
        ) from error


def new_figure(width: int, height: int) -> Figure:
    """An empty white figure of `width` x `height` pixels with an Agg canvas."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white", edgecolor="white")
    figure.set_layout_engine("none")
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in pixels, `top` counted downwards as in the picture."""
    page_width, page_height = figure.get_size_inches() * DPI
    box = (left / page_width, 1 - (top + height) / page_height, width / page_width, height / page_height)
    axes = figure.add_axes(box)
    axes.grid(False)
    axes.set_facecolor("white")
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set(color=INK, linewidth=0.8, visible=True)
    axes.minorticks_off()
    return axes


def mark_missing(axes: Axes) -> None:
    """Hatch the background, which shows wherever the picture on top has no value."""
    axes.patch.set(facecolor=MISSING_FACE, edgecolor=MISSING_EDGE, hatch="////", linewidth=0.0)


def missing_legend(figure: Figure, label: str, left: float, bottom: float) -> None:
    """A hatched square with its meaning, `left` and `bottom` in pixels from the lower left corner."""
    from matplotlib.patches import Rectangle

    page_width, page_height = figure.get_size_inches() * DPI
    figure.add_artist(
        Rectangle(
            (left / page_width, bottom / page_height),
            14 / page_width,
            11 / page_height,
            transform=figure.transFigure,
            facecolor=MISSING_FACE,
            edgecolor=MISSING_EDGE,
            hatch="////",
            linewidth=0.8,
        )
    )
    figure.text((left + 20) / page_width, (bottom + 1) / page_height, label, va="bottom", **text_style())


def text_style(size: float = TEXT_SIZE) -> dict[str, Any]:
    """What every text is set to: no mathtext or TeX, as a `$` or `_` in a name is no formula."""
    return {
        "fontsize": size,
        "color": INK,
        "family": FONT,
        "weight": "normal",
        "style": "normal",
        "stretch": "normal",
        "variant": "normal",
        "parse_math": False,
        "usetex": False,
    }


def label_axis(axes: Axes, which: str, positions: list[float], labels: list[str], name: str, **extra: Any) -> None:
    """Ticks at `positions` with `labels`, and the axis's name."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    side = "bottom" if which == "x" else "left"
    axis.set_ticks_position(side)
    axis.set_label_position(side)
    axis.set_ticks(positions, labels=labels, **text_style(), **extra)
    axis.set_tick_params(length=3 if labels else 0, width=0.8, color=INK, direction="out", pad=2)
    axis.set_label_text(name, **text_style())
    axis.labelpad = 3


def render(figure: Figure) -> Picture:
    """Draw the figure; `(H, W, 3)` uint8."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def text_width(figure: Figure, labels: list[str]) -> float:
    """Pixels that the widest label takes at the normal text size."""
    from matplotlib.font_manager import FontProperties

    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    font = FontProperties(family=FONT, size=TEXT_SIZE)
    widths = [renderer.get_text_width_height_descent(label, font, False)[0] for label in labels]
    return max(widths, default=0.0)
