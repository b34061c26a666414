"""The page and the figure of the validity benchmark, from its records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks import validity_oracle
from benchmarks.measure import machine
from benchmarks.validity_figure import draw
from benchmarks.validity_tables import Records, by_model, of, spread, table


def write_report(records: Records, docs: Path) -> None:
    """Write docs/benchmarks-validity.md and docs/figures/validity.png."""
    (docs / "figures").mkdir(parents=True, exist_ok=True)
    watched = of(records, "watched")
    sections = [HEAD.format(machine=machine()), planted(records), random_labels(records), probes(watched)]
    sections += [difficulty(of(records, "difficulty")), ablation(watched)]
    sections += [validity_oracle.section(of(records, "oracle")), convergence(watched)]
    sections.append(not_reproduced(watched, of(records, "difficulty")))
    (docs / "benchmarks-validity.md").write_text("\n\n".join(sections) + "\n")
    draw(watched, of(records, "difficulty"), docs / "figures" / "validity.png")


HEAD = """# Do the numbers mean what they say?

Written by `python -m benchmarks.validity report` from the records of `python -m benchmarks.validity run`.
Machine: {machine}.

Where a cell has three numbers, they are the mean over seeds and, in brackets, the least and the greatest. Networks are
small (six to nine convolutions, 16 to 64 filters; see `benchmarks/validity_models.py`) and trained for minutes: what
holds here is not thereby shown for large networks.

![Probe accuracy, ablation, convergence and decision depth](figures/validity.png)"""


def planted(records: Records) -> str:
    carries, twice = of(records, "filter_that_carries_a_class"), of(records, "duplicates_and_dead")
    destroys = of(records, "layer_that_destroys")
    first = sum(set(r["ranks"].values()) == {1} for r in carries)
    rows = [
        ["a filter alone carries a class", "rank 1 under all seven criteria", f"{first} of {len(carries)} seeds"],
        ["", "recall of the class: whole, without it, without any other",
         " / ".join(spread(r[f"recall_{k}"] for r in carries) for k in ("before", "without", "without_another"))],
        ["two of ten filters doubled", "redundant pairs counted (2 planted)", [r["redundant_pairs"] for r in twice]],
        ["", "ρ of a doubled pair (1 planted)", [round(r["rho"], 4) for r in twice]],
        ["two filters never fire", "constant filters counted (2 planted)", [r["constant"] for r in twice]],
        ["the third of five layers lets nothing through", "probe accuracy by layer (output last), seed 0",
         " ".join(f"{a:.2f}" for a in destroys[0]["accuracy"]) + f"; chance {destroys[0]['chance']:.2f}"],
        ["", "share of samples decided at the third layer or later", spread(r["past"] for r in destroys)],
    ]  # fmt: skip
    return "## Planted facts\n\n" + table(["planted", "what is read", "found"], rows)


def random_labels(records: Records) -> str:
    runs = of(records, "random_labels")

    def last(name: str, quantity: str, check: int = -1) -> list[float]:
        return [mean(list(run[name][check]["values"][quantity].values())) for run in runs]

    rows = [
        ["trained on random labels", spread(last("random", "accuracy")), spread(last("random", "selectivity"))],
        ["never trained", spread(last("real", "accuracy", 0)), spread(last("real", "selectivity", 0))],
        ["trained", spread(last("real", "accuracy")), spread(last("real", "selectivity"))],
    ]
    chance = spread(run["random"][-1]["summary"]["chance"] for run in runs)
    return (
        "## Labels that mean nothing, and the untrained network\n\nVGG-BN on digits, mean over layers; chance "
        f"{chance}. The untrained network is the baseline of every probe: digits are read off random filters well "
        "above chance.\n\n" + table(["network", "probe accuracy", "selectivity"], rows)
    )


def accuracies(run: dict[str, Any], check: int) -> list[float]:
    """Probe accuracy by layer, convolutions that run beside the main path (skips) left out."""
    return [v for name, v in run["probe"][check]["values"]["accuracy"].items() if not name.endswith("skip")]


def rise(run: dict[str, Any], check: int) -> float:
    """Spearman of depth and probe accuracy, the output left out."""
    found = accuracies(run, check)[:-1]
    return float(spearmanr(range(len(found)), found).statistic)


def probes(watched: Records) -> str:
    columns: dict[str, Callable[[dict[str, Any]], float]] = {
        "first layer": lambda run: accuracies(run, -1)[0],
        "last layer": lambda run: accuracies(run, -1)[-2],
        "output": lambda run: accuracies(run, -1)[-1],
        "Spearman of depth and accuracy": lambda run: rise(run, -1),
        "the same, untrained": lambda run: rise(run, 0),
        "last layer, untrained": lambda run: accuracies(run, 0)[-2],
    }
    return "## Probe accuracy rises with depth (Alain & Bengio 2016)\n\nCIFAR-10 images, ridge probes.\n\n" + by_model(
        watched, columns
    )


def difficulty(runs: Records) -> str:
    columns: dict[str, Callable[[dict[str, Any]], float]] = {
        "depth, easy": lambda run: run["depth_easy_hard"][0],
        "depth, hard": lambda run: run["depth_easy_hard"][1],
        "Spearman of ease and depth": lambda run: run["spearman_ease"],
        "depth, rightly labelled": lambda run: run["depth_right_wrong"][0],
        "depth, mislabelled": lambda run: run["depth_right_wrong"][1],
        "AUC for mislabelled": lambda run: run["auc_wrong"],
        "mislabelled ones learned": lambda run: run["memorised"],
        "largest calibration error": lambda run: max(run["calibration_error"]),
    }
    return (
        "## Hard and mislabelled samples are decided later (Baldock et al. 2021)\n\nDigits, 10 % of the training "
        "labels wrong. Easy and hard held-out samples are the halves by a logistic regression on pixels. Mislabelled "
        "samples are decided later only where the network has learned their labels.\n\n" + by_model(runs, columns)
    )


def spearmans(run: dict[str, Any], check: int) -> dict[str, float]:
    """Mean over layers, by criterion."""
    summary = run["ablation"][check]["summary"]
    return {name.removeprefix("spearman_"): value for name, value in summary.items() if name.startswith("spearman_")}


def ablation(watched: Records) -> str:
    names = list(dict.fromkeys(name for run in watched for name in spearmans(run, -1)))
    checks = [check["epoch"] for check in watched[0]["ablation"]] if watched else []
    stages = []
    for place, epoch in enumerate(checks):
        found = [spearmans(run, place) for run in watched]
        label = "untrained" if epoch < 0 else f"after epoch {epoch + 1}"
        stages.append([label, *[spread(f[n] for f in found if n in f) for n in names]])
    columns: dict[str, Callable[[dict[str, Any]], float]] = {
        n: (lambda run, n=n: spearmans(run, -1).get(n, float("nan")))
        for n in names  # type: ignore[misc]
    }

    def rise(run: dict[str, Any], group: str) -> float:
        return mean(run["ablation"][-1]["values"][group].values())

    groups: dict[str, Callable[[dict[str, Any]], float]] = {
        group: (lambda run, g=group: rise(run, g))
        for group in ("top", "random", "bottom")  # type: ignore[misc]
    }
    return (
        "## Which cheap criterion predicts ablation?\n\nSpearman of a criterion with the rise of the loss when a "
        "filter is held at its mean, within each layer over filters that no criterion chose, mean over layers. "
        "This is what AblationOracle logs: signed, within layers and by rank. The next section has the measure of "
        "Molchanov et al. (2019).\n\n"
        + table(["stage", *names], stages) + "\n\nAt the end of training, by model:\n\n" + by_model(watched, columns)
        + "\n\nMean rise of the loss when one filter is ablated, filters ranked by Taylor, end of training:\n\n"
        + by_model(watched, groups)
    )  # fmt: skip


def convergence(watched: Records) -> str:
    def order(run: dict[str, Any]) -> float:
        layers = {name: values for name, values in run["cka_last"].items() if not name.endswith("skip")}
        return float(spearmanr(range(len(layers)), [np.mean(values[:-1]) for values in layers.values()]).statistic)

    columns: dict[str, Callable[[dict[str, Any]], float]] = {
        "Spearman of depth and nearness": order,
        "first layer, untrained to last": lambda run: next(iter(run["cka_last"].values()))[0],
        "last layer, untrained to last": lambda run: list(run["cka_last"].values())[-1][0],
    }
    return (
        "## Early layers converge first (SVCCA, Raghu et al. 2017)\n\nNearness: debiased linear CKA of a layer with "
        "itself at the end of training, mean over all earlier checks. A negative correlation with depth means that "
        "early layers are near their end first.\n\n" + by_model(watched, columns)
    )


def not_reproduced(watched: Records, runs: Records) -> str:
    """Failures; the limits (0.5, 0.6) were chosen with the runs in sight."""

    def named(found: Records) -> str:
        return ", ".join(f"{run['model']} seed {run['seed']}" for run in found) or "no run"

    flat = [run for run in watched if rise(run, -1) < 0.5]
    untold = [run for run in runs if run["auc_wrong"] < 0.6]
    taylor = [spearmans(run, -1)["taylor"] for run in watched]
    magnitude = [spearmans(run, -1)["weight_l1"] for run in watched]
    better = sum(t > m for t, m in zip(taylor, magnitude, strict=True))
    return (
        "## What did not reproduce\n\n"
        "- Molchanov's correlation above 0.93 is reproduced under their measure (the section above). It does not carry "
        f"over to the *signed* rise of the loss within a layer: {spread(taylor)} at the end of training. Taylor is "
        f"ahead of magnitude ({spread(magnitude)} for the L1 norm) in {better} of {len(taylor)} runs there, but "
        "neither settles which filters the network is better off with.\n"
        "- No criterion predicts ablation before training, nor after two epochs at a rising learning rate.\n"
        f"- Probe accuracy does not rise with depth (Spearman below 0.5) in: {named(flat)}. A network that has learned "
        "nothing has nothing to show; its output accuracy is in the table.\n"
        f"- Mislabelled samples cannot be recognised by depth (AUC below 0.6) in: {named(untold)}. "
        "These are runs that had not learned the wrong labels."
    )
