"""The summary says what the numbers say, and nothing of what was not measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convscope.dashboard import Run, form, read_run
from convscope.dashboard.story import sentences
from convscope.loggers.record import TensorWriter

SAMPLE = Path(__file__).parent / "sample_v1"
LAYERS = ["conv1", "conv2", "conv3"]
Tables = dict[str, list[list[float]]]


def recorded(folder: Path, kind: str, tables: Tables, incidents: Any = (), summary: Any = None) -> Run:
    """A record of one callback with these tables ``(checks, layers)``."""
    layers = [{"name": name, "kind": "Conv2d", "channels": 4, "spatial": [4, 4]} for name in LAYERS]
    numbers = summary or {}
    described: dict[str, Any] = {"kind": kind, "layers": LAYERS, "quantities": {}, "summary": list(numbers)}
    manifest = {"version": 1, "versions": {}, "layers": layers, "families": {"it": described}, "heldout": []}
    writer = TensorWriter(form.PLUGIN, folder)
    writer.write(form.MANIFEST, json.dumps(manifest), 0)
    for check in range(max(map(len, tables.values()), default=1)):
        for quantity, table in tables.items():
            writer.write(form.values_tag("it", quantity), np.array(table[check], dtype=np.float32), check)
        if numbers:
            writer.write(form.summary_tag("it"), np.array(list(numbers.values()), dtype=np.float32), check)
        writer.write(form.INCIDENTS, json.dumps(list(incidents)), check)
        writer.write(form.CHECK, np.array([check - 1, check, 0 if check == 0 else 2], dtype=np.int64), check)
    writer.close()
    return Run(folder)


def test_the_summary_of_a_real_run() -> None:
    run = read_run(SAMPLE)
    told = sentences(run, "sample")
    assert told[0] == "sample: 2 checks of 7 layers from before training to epoch 0, measured on 30 held-out samples."
    accuracy = run.values("probe", "accuracy")[-1]
    best = run.layers[int(accuracy.argmax())]
    assert f"The last check finds the best probe accuracy in {best}: {accuracy.max():.3f}; a guess gives 0.333." in told
    assert 8 <= len(told) <= 12
    assert all(sentence.endswith(".") and "nan" not in sentence for sentence in told)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ([[0.5, 0.5, 0.5], [0.6, 0.9, 0.5]], "Since before training conv2 (+0.400) gained most, conv3 (0) least."),
        (
            [[0.5, 0.5, 0.5], [0.4, 0.3, 0.45]],
            "No layer knows as much as before training: conv2 (−0.200) has lost most.",
        ),
        (
            [[0.3, 0.3, 0.3], [0.3, 0.8, 0.9]],
            "Nine tenths of what it has above a guess are there from conv3 (layer 3 of 3)",
        ),
        ([[0.3, 0.3, 0.9], [0.3, 0.8, 0.7]], "conv3 has fallen by 0.200 since 0.900 before training."),
        ([[0.8, 0.3, 0.9], [0.6, 0.8, 0.8]], "2 layers have fallen since their best, conv1 most: by 0.200 since 0.800"),
        ([[0.5, 0.5, 0.5], [np.nan, 0.9, np.nan]], "in conv2: 0.900; a guess gives 0.250."),
    ],
)
def test_what_layers_know(tmp_path: Path, table: list[list[float]], sentence: str) -> None:
    run = recorded(tmp_path, "probe", {"accuracy": table}, summary={"chance": 0.25})
    assert sentence in " ".join(sentences(run, "it"))


@pytest.mark.parametrize(
    ("kind", "tables", "sentence"),
    [
        ("health", {"dead_filters": [[0, 0, 0], [0, 0.3, 0], [0.1, 0.5, 0]]}, "conv2 (50 %, since epoch 0) and conv1"),
        ("health", {"dead_filters": [[0.04, 0, 0]]}, "No layer has more than one dead filter in twenty."),
        ("health", {"not_learning": [[0, 1, 0]]}, "The weights of conv2 stood still at the last check"),
        ("drift", {"cka_previous": [[1, 0.995, 0.5]]}, "conv1 and conv2 have settled; conv3 still changes most"),
        ("drift", {"cka_previous": [[1, 1, np.nan]]}, "All layers have settled"),
        ("importance", {"gini": [[0.1, 0.7, 0.2]], "top_share": [[0, 0.5, 0]]}, "a tenth of the filters hold 50 %"),
        ("correlation", {"redundant_share": [[0, 0, 0]]}, "No layer has pairs of redundant filters."),
        ("correlation", {"redundant_share": [[0, 0.2, 0]]}, "conv2 repeats itself most: 20 % of its pairs"),
        ("correlation", {"effective_rank_ratio": [[0.5, 0.2, 0.9]]}, "rank conv2 (20 %) uses the smallest share"),
    ],
)  # fmt: skip
def test_what_the_other_callbacks_found(tmp_path: Path, kind: str, tables: Tables, sentence: str) -> None:
    assert sentence in " ".join(sentences(recorded(tmp_path, kind, tables), "it"))


def test_the_worst_incident_is_told(tmp_path: Path) -> None:
    one: dict[str, Any] = {"severity": "warning", "message": "early", "step": 1, "closed": None}
    worst = {
        "severity": "critical",
        "message": "it broke",
        "likely": "the rate",
        "opened": {"epoch": 4},
        "closed": None,
    }
    run = recorded(tmp_path, "probe", {"accuracy": [[0.5, 0.5, 0.5]]}, [one, worst])
    assert "2 incidents, the worst (critical, epoch 4, still open): it broke. Likely: the rate." in sentences(run, "it")


@pytest.mark.parametrize("kind", ["probe", "health", "drift", "importance", "correlation", "mine"])
def test_what_was_never_measured_is_not_told(tmp_path: Path, kind: str) -> None:
    nothing = [[np.nan] * 3] * 2
    names = (
        "accuracy",
        "dead_filters",
        "cka_previous",
        "gini",
        "redundant_share",
        "effective_rank_ratio",
        "not_learning",
    )
    run = recorded(tmp_path, kind, dict.fromkeys(names, nothing))
    told = sentences(run, "it")
    assert told[0] == "it: 2 checks of 3 layers from before training to epoch 0."
    assert told[1:] in ([], ["The record holds no incident."])
