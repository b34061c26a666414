"""Figures of the learning process: maps of one seed, curves of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.learning_process_read import Array, Watched, learned

_CRITERIA = {"taylor": "Taylor", "weight_l1": "weight norm", "activation": "mean activation",
             "output_correlation": "output correlation"}  # fmt: skip

_OVERLAP = {"overlap": "overlap", "overlap_chance": "by chance"}
_DELETION = {"deletion": "two-scale explanation", "deletion_gradient": "gradient × activation",
             "deletion_random": "random super-pixels"}  # fmt: skip


def draw(runs: list[Watched], folder: Path) -> list[str]:
    """Draw all figures; their file names."""
    made = {"learning-process-layers.png": _layers, "learning-process-samples.png": _samples,
            "learning-process-filters.png": _filters, "learning-process-companions.png": _companions}  # fmt: skip
    for name, drawn in made.items():
        drawn(runs).savefig(folder / name, dpi=80)
    return list(made)


def _panels(columns: int, width: float = 4.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * columns, 4.2), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def _layers(runs: list[Watched]) -> Figure:
    """Three maps, layer by epoch, of the first seed."""
    first = runs[0]
    figure, (probe, cka, rank) = _panels(3)
    chance = float(np.asarray(first.run.summary("probe")["chance"])[-1])
    _map(figure, probe, first, first.values("probe", "accuracy"), "Probe accuracy", chance, None)
    cka_map = np.vstack([np.full(first.to_last.shape[1], np.nan), first.to_last])
    _map(figure, cka, first, cka_map[:, first.main_path], "CKA with the end of training", 0.0, 1.0)
    ratio = first.values("correlation", "effective_rank_ratio")
    _map(figure, rank, first, ratio, "Effective rank / filters", 0.0, None)
    probe.set_yticks(range(len(first.main_path)), [_short(first.run.layers[n]) for n in first.main_path], fontsize=7)
    return figure


def _map(figure: Figure, axes: Axes, run: Watched, values: Array, title: str, low: float, high: float | None) -> None:
    image = axes.imshow(values.T, aspect="auto", cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
    axes.set(title=title, xlabel="epochs trained", yticks=[])
    figure.colorbar(image, ax=axes, shrink=0.8)


def _short(name: str) -> str:
    return name.removeprefix("net.")


def _samples(runs: list[Watched]) -> Figure:
    """Accuracy, and at which layer samples are decided."""
    figure, (accuracy, depth, order) = _panels(3)
    for run in runs:
        label = {"label": "test"} if run is runs[0] else {}
        accuracy.plot(1 + np.arange(len(run.scalars["val_accuracy"])), run.scalars["val_accuracy"], "C0", **label)
        label = {"label": "training"} if run is runs[0] else {}
        accuracy.plot(1 + np.arange(len(run.scalars["val_accuracy"])), run.scalars["train_accuracy"], "C1:", **label)
        epochs = 1 + np.arange(len(run.samples.depth))
        for colour, name, which in (("C2", "right", run.samples.right), ("C3", "wrong", ~run.samples.right)):
            rows = [row[kept].mean() for row, kept in zip(run.samples.depth, which, strict=True)]
            depth.plot(epochs, rows, colour, **({"label": name} if run is runs[0] else {}))
        _learning_order(order, run)
    accuracy.set(title="Accuracy", xlabel="epochs trained")
    depth.set(title="Mean layer at which samples are decided", xlabel="epochs trained", ylabel="layer, from 1")
    order.set(title="Decided where, learned when", xlabel="epoch from which on it is right", ylabel="decision depth")
    for axes in (accuracy, depth):
        axes.legend()
    return figure


def _learning_order(axes: Axes, run: Watched) -> None:
    epoch, last = learned(run.samples.right), run.samples.depth[-1]
    edges = np.unique(np.quantile(epoch, np.linspace(0, 1, 7)))
    places = np.digitize(epoch, edges[1:-1])
    found = [(epoch[places == n].mean(), last[places == n].mean()) for n in np.unique(places)]
    axes.plot(*zip(*found, strict=True), "o-", label=f"seed {run.seed}")
    axes.legend()


def _mean(row: Array) -> float:
    """Mean of what was measured; NaN where nothing was."""
    return float(np.nanmean(row)) if np.isfinite(row).any() else float("nan")


def _filters(runs: list[Watched]) -> Figure:
    """Ranking of filters over training, which criterion predicts ablation, and what repeats at which depth."""
    figure, (stability, oracle, repeats) = _panels(3)
    for number, run in enumerate(runs):
        rows = run.values("importance", "rank_stability")
        stability.plot(run.run.epochs, [_mean(row) for row in rows], label=f"seed {run.seed}")
        for colour, (name, label) in enumerate(_CRITERIA.items()):
            epochs, found = run.over_depth("ablation", f"spearman_{name}")
            oracle.plot(epochs, found, f"C{colour}o-", label=None if number else label)
        ratio = run.values("correlation", "effective_rank_ratio")
        for check, style in ((0, ":"), (-1, "-")):
            name = f"seed {run.seed}" if check else None
            repeats.plot(np.linspace(0, 1, ratio.shape[1]), ratio[check], style, color=f"C{number}", label=name)
    stability.set(title="Importance: rank correlation with the previous check", xlabel="epochs trained", ylim=(0, 1))
    oracle.axhline(0, color="grey", lw=0.5)
    oracle.set(title="Spearman with ablation, within layers", xlabel="epochs trained")
    repeats.set(title="Effective rank / filters (dotted: untrained)", xlabel="depth (1: last conv)")
    for axes in (stability, oracle, repeats):
        axes.legend(fontsize=8)
    return figure


def _companions(runs: list[Watched]) -> Figure:
    """Input resampling against chance, the two-scale explanation against random, parts."""
    figure, (overlap, deletion, parts) = _panels(3)
    for number, run in enumerate(runs):
        once = number == 0
        for name, style in (("overlap", "C0o-"), ("overlap_chance", "C7:")):
            overlap.plot(*run.over_depth("resampling", name), style, label=_OVERLAP[name] if once else None)
        for name, style in (("deletion", "C0o-"), ("deletion_gradient", "C1s--"), ("deletion_random", "C7:")):
            deletion.plot(*run.over_depth("multi_scale", name), style, label=_DELETION[name] if once else None)
        pure = run.values("parts", "pure_filters")
        for check, style in ((0, ":"), (-1, "-")):
            known = np.flatnonzero(np.isfinite(pure).any(1))[check]
            name = f"seed {run.seed}" if check else None
            parts.plot(np.linspace(0, 1, pure.shape[1]), pure[known], style, color=f"C{number}", label=name)
    overlap.set(title="Input resampling: influence and precision", xlabel="epochs trained")
    deletion.set(title="Deletion area of explanations (less is better)", xlabel="epochs trained")
    parts.set(title="Share of filters for one class (dotted: untrained)", xlabel="depth (1: last conv)")
    for axes in (overlap, deletion, parts):
        axes.legend(fontsize=8)
    return figure
