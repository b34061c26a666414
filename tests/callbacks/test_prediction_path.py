"""Paths of predictions over depth, their snapshots and their table, against plain Python."""

from __future__ import annotations

import math
import re

import pytest
import torch

from convscope.callbacks.parts.prediction_path import PathSnapshot, PredictionPath, changed_table

CLASSES = [2, 5, 9]
NUMBERS = [1, 4, 6, 7, 30]
TRUTH = [0, 1, 2, 1, 0]
# Probabilities by layer and sample; the output is the last layer.
BEFORE = [
    [[0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.6, 0.2, 0.2], [0.9, 0.05, 0.05]],
    [[0.3, 0.4, 0.3], [0.1, 0.7, 0.2], [0.5, 0.1, 0.4], [0.5, 0.3, 0.2], [0.8, 0.15, 0.05]],
    [[0.2, 0.7, 0.1], [0.2, 0.6, 0.2], [0.6, 0.1, 0.3], [0.4, 0.5, 0.1], [0.7, 0.25, 0.05]],
]
NOW = [
    [[0.6, 0.1, 0.3], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.8, 0.1, 0.1], [0.9, 0.05, 0.05]],
    [[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7], [0.7, 0.2, 0.1], [0.8, 0.15, 0.05]],
    [[0.9, 0.1, 0.0], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8], [0.5, 0.4, 0.1], [0.6, 0.35, 0.05]],
]


def path(probabilities: list[list[list[float]]], layers: int = 3) -> PredictionPath:
    log = torch.tensor(probabilities[:layers]).log()
    names = ["a", "b", "output"][-layers:]
    return PredictionPath(names, log, torch.tensor(TRUTH), torch.tensor(CLASSES), torch.tensor(NUMBERS))


def said(probabilities: list[list[list[float]]]) -> list[list[int]]:
    return [[row.index(max(row)) for row in layer] for layer in probabilities]


def depth(probabilities: list[list[list[float]]]) -> list[int]:
    """One more than the last layer that says something else than the output."""
    found = []
    for column in zip(*said(probabilities), strict=True):
        others = [place for place, one in enumerate(column) if one != column[-1]]
        found.append(2 + others[-1] if others else 1)
    return found


def of_truth(probabilities: list[list[list[float]]]) -> list[list[float]]:
    return [[row[true] for row, true in zip(layer, TRUTH, strict=True)] for layer in probabilities]


def mean_change() -> list[float]:
    pairs = zip(zip(*of_truth(BEFORE), strict=True), zip(*of_truth(NOW), strict=True), strict=True)
    return [math.fsum(abs(b - n) for b, n in zip(before, now, strict=True)) / 3 for before, now in pairs]


@pytest.mark.parametrize("probabilities", [BEFORE, NOW])
def test_what_a_path_says_is_what_plain_loops_find(probabilities: list[list[list[float]]]) -> None:
    found = path(probabilities)
    assert found.predicted.tolist() == said(probabilities)
    torch.testing.assert_close(found.of_truth, torch.tensor(of_truth(probabilities)))
    assert found.depth.tolist() == depth(probabilities)
    assert found.summary()["decision_depth"] == pytest.approx(sum(depth(probabilities)) / 5)
    assert [found.place(number) for number in NUMBERS] == [0, 1, 2, 3, 4]


def test_lost_and_found_need_layers_before_the_output() -> None:
    hits = [[one == true for one, true in zip(layer, TRUTH, strict=True)] for layer in said(BEFORE)]
    early, last = hits[0], hits[-1]  # of two layers the first is the early half
    summary = path(BEFORE).summary()
    assert summary["lost_on_the_way"] == pytest.approx(sum(e and not o for e, o in zip(early, last, strict=True)) / 5)
    assert summary["found_late"] == pytest.approx(sum(o and not e for e, o in zip(early, last, strict=True)) / 5)
    assert set(path(BEFORE, layers=2).summary()) == {"decision_depth"}


def test_the_table_of_changes_shows_the_most_changed_first_with_both_times() -> None:
    change = mean_change()
    order = sorted(range(5), key=lambda sample: -change[sample])
    before, after = (of_truth(probabilities)[-1] for probabilities in (BEFORE, NOW))
    head, _, *rows = changed_table(path(NOW), path(BEFORE).snapshot(), 4).split("\n")
    assert head.count("|") == 8
    assert len(rows) == 4
    for row, i in zip(rows, order, strict=False):
        cells = [cell.strip() for cell in re.sub(r"\\(.)", r"\1", row).strip("|").split("|")]
        assert cells == [
            str(NUMBERS[i]),
            str(CLASSES[TRUTH[i]]),
            str(CLASSES[said(BEFORE)[-1][i]]),
            str(CLASSES[said(NOW)[-1][i]]),
            f"{before[i]:.2f} → {after[i]:.2f}",
            f"{depth(BEFORE)[i]} → {depth(NOW)[i]}",
            f"{change[i]:.2f}",
        ]
    assert change[order[0]] > change[order[-1]] == 0.0


def test_change_is_in_the_unit_interval_and_the_same_both_ways() -> None:
    one, other = path(BEFORE).snapshot(), path(NOW).snapshot()
    torch.testing.assert_close(one.change(other), torch.tensor(mean_change()))
    assert torch.equal(one.change(other), other.change(one))
    never, ever = torch.zeros(2, 1), torch.ones(2, 1)
    ends = [
        PathSnapshot(["a", "output"], torch.tensor([0]), p, torch.tensor([0]), torch.tensor([1])) for p in (never, ever)
    ]
    assert ends[0].change(ends[1]).tolist() == [1.0]


def test_only_checks_of_the_same_layers_and_samples_compare() -> None:
    kept = path(BEFORE).snapshot()
    assert kept.comparable(path(NOW).snapshot())
    assert not kept.comparable(path(NOW, layers=2).snapshot())
    assert not kept.comparable(kept._replace(numbers=torch.tensor([1, 4, 6, 7, 31])))
    assert not kept.comparable(kept._replace(layers=["a", "c", "output"]))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_picked_samples_run_evenly_from_the_easiest_to_the_hardest(count: int) -> None:
    among = [30, 4, 6, 7]
    ease = {number: sum(layer[place] for layer in of_truth(BEFORE)) for place, number in enumerate(NUMBERS)}
    ranked = sorted(among, key=lambda number: -ease[number])
    wanted = min(count, 4)
    expected = {1: [0], 2: [0, 3], 3: [0, 2, 3], 4: [0, 1, 2, 3]}[wanted]
    assert path(BEFORE).pick(among, count) == [ranked[place] for place in expected]
