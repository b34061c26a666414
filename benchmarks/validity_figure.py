"""The one figure of the validity benchmark: four published behaviours, as found here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Records = list[dict[str, Any]]


def draw(watched: Records, difficulty: Records, path: Path) -> None:
    """Draw the four panels to ``path``."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = figure.subplots(2, 2)
    _probes(panels[0][0], watched)
    _ablation(panels[0][1], watched)
    _convergence(panels[1][0], watched)
    _depths(panels[1][1], difficulty)
    figure.savefig(path, dpi=90)


def _runs(records: Records) -> dict[str, Records]:
    models = dict.fromkeys(record["model"] for record in records)
    return {model: [record for record in records if record["model"] == model] for model in models}


def _probes(axes: Axes, watched: Records) -> None:
    for number, (model, runs) in enumerate(_runs(watched).items()):
        for check, style in ((-1, "-"), (0, ":")):
            rows = [list(run["probe"][check]["values"]["accuracy"].values()) for run in runs]
            depth = np.linspace(0, 1, len(rows[0]))
            axes.plot(depth, np.mean(rows, 0), style, color=f"C{number}", label=model if check else None)
    axes.set(title="Probe accuracy (dotted: untrained)", xlabel="depth (0: first layer, 1: output)", ylabel="accuracy")
    axes.legend()


def _ablation(axes: Axes, watched: Records) -> None:
    names = list(dict.fromkeys(name for run in watched for name in run["ablation"][-1]["summary"]))
    for name in names:
        checks = range(len(watched[0]["ablation"]))
        rows = [[run["ablation"][c]["summary"].get(name, np.nan) for c in checks] for run in watched]
        epochs = [check["epoch"] + 1 for check in watched[0]["ablation"]]
        axes.plot(epochs, np.nanmean(rows, 0), "o-", label=name.removeprefix("spearman_"))
    axes.axhline(0, color="grey", lw=0.5)
    axes.set(title="Spearman with ablation, all models", xlabel="epochs trained", ylabel="Spearman, within layers")
    axes.legend(fontsize=8)


def _convergence(axes: Axes, watched: Records) -> None:
    for number, (model, runs) in enumerate(_runs(watched).items()):
        layers = [name for name in runs[0]["cka_last"] if not name.endswith("skip")]
        rows = [[np.mean(run["cka_last"][name][:-1]) for name in layers] for run in runs]
        axes.plot(np.linspace(0, 1, len(layers)), np.mean(rows, 0), "o-", color=f"C{number}", label=model)
    axes.set(title="CKA with the end of training, mean over checks", xlabel="depth (1: last conv)", ylabel="CKA")
    axes.legend()


def _depths(axes: Axes, difficulty: Records) -> None:
    places = np.arange(len(_runs(difficulty)))
    groups = {"easy": ("depth_easy_hard", 0), "hard": ("depth_easy_hard", 1),
              "rightly labelled": ("depth_right_wrong", 0), "mislabelled": ("depth_right_wrong", 1)}  # fmt: skip
    for number, (label, (key, side)) in enumerate(groups.items()):
        heights = [np.mean([run[key][side] / run["layers"] for run in runs]) for runs in _runs(difficulty).values()]
        axes.bar(places + 0.2 * number - 0.3, heights, 0.2, label=label)
    axes.set_xticks(places, list(_runs(difficulty)))
    axes.set(title="Decision depth", ylabel="mean depth / number of layers")
    axes.legend(fontsize=8)
