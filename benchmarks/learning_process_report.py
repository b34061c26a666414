"""The page of the learning process: a table of claims, what was found for each seed, and figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.learning_process_figures import draw
from benchmarks.learning_process_read import Watched, learned, rank, read, settled
from benchmarks.measure import machine
from benchmarks.pages import DOCS, write_tables

PAGE = DOCS / "learning-process.md"


@dataclass(frozen=True)
class Claim:
    """A published claim, the number that tests it, and the least value with which it holds in a seed."""

    says: str
    source: str
    number: str
    found: Callable[[Watched, list[Watched]], float]
    least: float
    form: str = "{:.2f}"


def _depth(run: Watched) -> np.ndarray:
    return np.arange(len(run.main_path))


def _probe_by_depth(run: Watched, _: list[Watched]) -> float:
    return rank(_depth(run), run.values("probe", "accuracy")[-1])


def _settles_in_order(run: Watched, _: list[Watched]) -> float:
    return rank(_depth(run), settled(run.to_last[:, run.main_path]))


def _hard_is_late(run: Watched, runs: list[Watched]) -> float:
    others = [other.samples.right[-10:].mean(0) for other in runs if other is not run]
    return rank(run.samples.depth[-1], -np.mean(others, 0)) if others else float("nan")


def _late_is_deep(run: Watched, _: list[Watched]) -> float:
    return rank(run.samples.depth[-1], learned(run.samples.right))


def _wrong_is_deep(run: Watched, _: list[Watched]) -> float:
    right, depth = run.samples.right[-1], run.samples.depth[-1]
    return float(depth[~right].mean() - depth[right].mean())


def _taylor(run: Watched, _: list[Watched]) -> float:
    return float(run.over_depth("ablation", "spearman_taylor")[1][-1])


def _overlap_rises(run: Watched, _: list[Watched]) -> float:
    overlap = run.over_depth("resampling", "overlap")[1]
    return float(overlap[-1] - overlap[0])


def _explained(run: Watched, _: list[Watched]) -> float:
    return float(
        run.over_depth("multi_scale", "deletion_random")[1][-1] - run.over_depth("multi_scale", "deletion")[1][-1]
    )


def _specialised(run: Watched, _: list[Watched]) -> float:
    pure = run.values("parts", "pure_filters")
    return rank(_depth(run), pure[np.flatnonzero(np.isfinite(pure).any(1))[-1]])


CLAIMS = (
    Claim("Probe accuracy rises with depth", "Alain & Bengio 2016", "Spearman of depth and probe accuracy at the end",
          _probe_by_depth, 0.8),
    Claim("Layers converge from the input on", "SVCCA, Raghu et al. 2017",
          "Spearman of depth and the epoch from which CKA with the end is at least 0.9", _settles_in_order, 0.5),
    Claim("Hard samples are decided in later layers", "Baldock et al. 2021",
          "Spearman of decision depth and how often the *other* seeds were wrong in their last ten epochs",
          _hard_is_late, 0.3),
    Claim("Samples that are learned late are decided late", "Baldock et al. 2021",
          "Spearman of decision depth and the epoch from which a sample is always right", _late_is_deep, 0.3),
    Claim("Samples taken for the wrong class are decided later", "Baldock et al. 2021",
          "mean decision depth of wrong minus right samples, in layers", _wrong_is_deep, 0.5),
    Claim("Taylor importance predicts ablation", "Molchanov et al. 2019",
          "mean over layers of Spearman with ablation, random filters, at the end", _taylor, 0.5),
    Claim("Influential and precise filters become the same", "Lengerich et al. 2017",
          "rise of overlap (their own: .16 to .43; chance .05 to .1)", _overlap_rises, 0.1),
    Claim("Two-scale explanations find what the output rests on", "Cui et al. 2019",
          "deletion area of random super-pixels minus that of the explanation", _explained, 0.02, "{:.3f}"),
    Claim("Filters specialise with depth", "Zhang et al. 2017",
          "Spearman of depth and the share of filters with purity above .8", _specialised, 0.5),
)  # fmt: skip


def write(folder: Path) -> None:
    """Draw the figures and write the tables of the page; what is written by hand stays."""
    runs = [read(one) for one in sorted(folder.glob("seed_*"))]
    draw(runs, DOCS / "figures")
    tables = "\n\n".join([_outcome(runs), _claims(runs), _table(runs), f"Machine: {machine()}."])
    write_tables(PAGE, tables)
    print(tables)


def _outcome(runs: list[Watched]) -> str:
    rows = ["| seed | epochs | test accuracy: end, best | training accuracy | minutes | checks | s per check |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for run in runs:
        test = run.scalars["val_accuracy"]
        seconds = np.asarray(run.run.summary("convscope")["seconds"], dtype=float)
        rows.append(
            f"| {run.seed} | {len(test)} | {test[-1]:.1%}, {test.max():.1%} | "
            f"{run.scalars['train_accuracy'][-1]:.1%} | "
            f"{run.minutes:.0f} | {np.nansum(seconds) / 60:.0f} | {np.nanmedian(seconds):.1f} |"
        )
    return "\n".join(rows)


def _claims(runs: list[Watched]) -> str:
    seeds = " | ".join(f"seed {run.seed}" for run in runs)
    rows = [f"| claim | source | number | {seeds} | at least | held |", "|---" * (5 + len(runs)) + "|"]
    for claim in CLAIMS:
        found = [claim.found(run, runs) for run in runs]
        held = sum(value >= claim.least for value in found)
        values = " | ".join(claim.form.format(value) for value in found)
        said = "yes" if held == len(runs) else "**no**" if held == 0 else f"in {held} of {len(runs)}"
        rows.append(f"| {claim.says} | {claim.source} | {claim.number} | {values} | {claim.least} | {said} |")
    return "\n".join(rows)


def _table(runs: list[Watched]) -> str:
    """Means over seeds by stage of the network, untrained and at the end."""
    stages = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    quantities = (("probe", "accuracy", "probe accuracy"),
                  ("correlation", "effective_rank_ratio", "effective rank / filters"),
                  ("correlation", "redundant_share", "pairs with abs(ρ) > .9"),
                  ("importance", "gini", "Gini of importance"),
                  ("health", "dead_filters", "dead filters"))  # fmt: skip
    rows = ["| mean over seeds, untrained → end | " + " | ".join(stages) + " |", "|---" * (1 + len(stages)) + "|"]
    for family, quantity, title in quantities:
        cells = []
        for stage in stages:
            ends = np.mean([_of_stage(run, family, quantity, stage) for run in runs], 0)
            cells.append(f"{ends[0]:.2f} → {ends[1]:.2f}")
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _of_stage(run: Watched, family: str, quantity: str, stage: str) -> tuple[float, float]:
    names = [run.run.layers[n] for n in run.main_path]
    columns = [n for n, name in enumerate(names) if name.split(".")[1] == stage]
    values = run.values(family, quantity)[:, columns]
    known = np.flatnonzero(np.isfinite(values).any(1))
    return float(np.nanmean(values[known[0]])), float(np.nanmean(values[known[-1]]))
