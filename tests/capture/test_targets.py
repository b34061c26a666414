"""Facts about targets are those of all processes together, however the samples are divided."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from convscope.capture import HeldOut
from convscope.capture.data.targets import LabelForm, TargetSummary, merge_summaries, summarise_targets
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


@pytest.mark.parametrize("top", [(1 << 16) - 1, 1 << 16, (1 << 16) + 5, 10**9])
def test_classes_are_the_values_that_occur_however_large(top: int) -> None:
    """Up to a limit they are counted, above it sorted."""
    found = summarise_targets(torch.tensor([top, 3, top, 0, 3]))
    assert found is not None
    assert found.classes == (0, 3, top)
    assert (found.low, found.high) == ((0.0,), (float(top),))


def test_negative_labels_are_kept_unless_ignored() -> None:
    targets = torch.tensor([[2, -1], [-100, 0], [-1, 5]], dtype=torch.int16)
    plain, ignoring = summarise_targets(targets), summarise_targets(targets, LabelForm(ignore_index=-1))
    assert plain is not None
    assert ignoring is not None
    assert (plain.classes, plain.ignored, plain.dtype) == ((-1, 0, 2, 5), True, "int16")
    assert (ignoring.classes, ignoring.low, ignoring.high) == ((0, 2, 5), (2.0, 0.0), (2.0, 5.0))
    assert plain.low == (-1.0, -1.0)


def test_binary_and_one_hot_are_of_what_counts() -> None:
    found = summarise_targets(torch.tensor([0, 1, 255, 1], dtype=torch.uint8), LabelForm(ignore_index=255))
    assert found is not None
    assert found.binary
    assert found.classes == (0, 1)
    floats = summarise_targets(torch.tensor([0.0, 1.0, 255.0]), LabelForm(ignore_index=255))
    assert floats is not None
    assert floats.binary
    assert floats.ignored


@pytest.mark.parametrize(("values", "classes"), [([0.0, 3.0, 7.0], (0, 3, 7)), ([0.5, 3.0], ()), ([1e20, 0.0], ())])
def test_whole_floats_may_be_classes(values: list[float], classes: tuple[int, ...]) -> None:
    found = summarise_targets(torch.tensor(values))
    assert found is not None
    assert found.classes == classes
    parts = [summarise_targets(torch.tensor([value])) for value in values]
    assert merge_summaries(parts) == found


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.float32])
def test_the_one_form_and_back(dtype: torch.dtype) -> None:
    targets = torch.tensor([0, 1, 1]).to(dtype)
    whole = LabelForm().canonical(targets)
    assert whole.dtype == (torch.float32 if dtype == torch.float32 else torch.int64)
    assert torch.equal(LabelForm().restored(whole), whole)


def test_ignored_labels_and_signs_come_back_as_they_were() -> None:
    marked, signs = torch.tensor([0, 255, 3]), torch.tensor([-1, 1, -100])
    form = LabelForm(ignore_index=255)
    assert form.canonical(marked).tolist() == [0, -100, 3]
    assert torch.equal(form.restored(form.canonical(marked)), marked)
    assert form.restored(form.canonical(marked), 7).tolist() == [0, 7, 3]
    assert LabelForm(signs=True).canonical(signs).tolist() == [0, 1, -100]
    assert torch.equal(LabelForm(signs=True).restored(torch.tensor([0, 1, -100])), signs)


@pytest.mark.parametrize("classes", [2, [0, 2], [0, 1, 3]])
def test_a_label_that_is_none_of_the_stated_classes_is_refused(classes: Any) -> None:
    with pytest.raises(ValueError, match=r"HeldOut\(classes=.*but a held-out label is [12]; .*ignore_index="):
        HeldOut((torch.zeros(3, 1), torch.tensor([0, 1, 2])), classes=classes).prepare()
    HeldOut((torch.zeros(3, 1), torch.tensor([0, 1, 2])), classes=[0, 1, 2]).prepare()


def test_chunks_give_the_one_form() -> None:
    heldout = HeldOut((torch.zeros(4, 1), torch.tensor([7, 1, 255, 0], dtype=torch.uint8)), ignore_index=255)
    heldout.prepare()
    chunk = next(heldout.chunks())
    assert chunk.targets is not None
    assert chunk.targets.dtype == torch.int64
    assert chunk.targets.tolist() == [7, 1, -100, 0]
    assert heldout.summary is not None
    assert heldout.summary.classes == (0, 1, 7)


@pytest.mark.parametrize("label", [-100, 255])
def test_ignored_samples_are_drawn_only_where_others_are_too_few(label: int) -> None:
    labels = torch.tensor([0, label, 1, label, 0, 1, label, 0, 1, 0])
    source = (torch.arange(10.0)[:, None], labels)
    ignore = None if label == -100 else label

    def drawn(size: int) -> list[int]:
        heldout = HeldOut(source, size=size, ignore_index=ignore)
        heldout.prepare()
        assert heldout.targets is not None
        return heldout.targets.tolist()

    assert sorted(drawn(7)) == [0, 0, 0, 0, 1, 1, 1]
    assert drawn(5).count(label) == 0
    assert drawn(9).count(label) == 2
    assert drawn(5).count(0) == 3
