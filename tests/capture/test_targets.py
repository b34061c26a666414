"""Facts about targets are those of all processes together, however the samples are divided."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from convscope.capture import HeldOut
from convscope.capture.targets import TargetSummary, merge_summaries, summarise_targets
from tests.support.processes import gather, in_processes

LABELS = torch.arange(150) % 3
TARGETS = {
    "classes": LABELS,
    "one-hot": F.one_hot(LABELS),
    "soft": F.one_hot(LABELS).float() * 0.7 + 0.1,
    "quantities": torch.linspace(-2, 5, 150),
    "masks": (torch.arange(600) % 7 - 1).view(150, 2, 2),
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("shares", [2, 3, 150])
def test_shares_together_are_the_whole(kind: str, shares: int) -> None:
    targets = TARGETS[kind]
    parts = [summarise_targets(targets[rank::shares]) for rank in range(shares)]
    assert merge_summaries([*parts, None]) == summarise_targets(targets)


def test_a_share_may_look_like_another_task() -> None:
    """One process has only 0.0 and 1.0, the other does not: both must come to regression."""
    binary, other = summarise_targets(torch.tensor([0.0, 1.0])), summarise_targets(torch.tensor([0.5, 1.0]))
    merged = merge_summaries([binary, other])
    assert binary is not None
    assert merged is not None
    assert binary.binary
    assert not merged.binary
    assert (merged.low, merged.high) == ((0.0,), (1.0,))


def test_every_process_keeps_the_merged_facts() -> None:
    def share(rank: int) -> TargetSummary | None:
        heldout = HeldOut((torch.zeros(4, 1), torch.tensor([0, 7, 1, 9])))
        heldout.prepare(rank=rank, world_size=2, gather=gather)
        return heldout.summary

    for summary in in_processes(share, 2):
        assert summary.classes == (0, 1, 7, 9)


def test_targets_of_several_sizes() -> None:
    found = merge_summaries([summarise_targets(torch.ones(2, 3, side)) for side in (4, 5)])
    assert found is not None
    assert found.shape == (3, -1)
    rows = merge_summaries([summarise_targets(torch.arange(n).float()[None]) for n in (2, 5, 3)])
    assert rows is not None
    assert (rows.shape, rows.low, rows.high) == ((-1,), (0.0,), (4.0,))


def test_nan_is_kept_and_ignored_classes_are_no_classes() -> None:
    found = merge_summaries([summarise_targets(torch.tensor([x])) for x in (1.0, math.nan, 3.0)])
    assert found is not None
    assert math.isnan(found.low[0])
    assert math.isnan(found.high[0])
    masks = summarise_targets(torch.tensor([[0, -100], [4, 0]]))
    assert masks is not None
    assert masks.classes == (0, 4)


def test_processes_with_different_kinds_of_targets() -> None:
    with pytest.raises(ValueError, match="differ in kind: int64 of shape \\(\\) and float32"):
        merge_summaries([summarise_targets(torch.tensor([1])), summarise_targets(torch.tensor([1.0]))])
