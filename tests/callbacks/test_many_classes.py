"""More classes than held-out samples of each: what is probed, what is inactive, and that the run goes on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.callbacks.parts.tasks import NoTaskError, settle_task
from convscope.capture.data.sampling import EACH, stratified
from tests.callbacks.conftest import Classifier


class Wide(nn.Module):
    """A classifier of very many classes on very small images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


def data(labels: torch.Tensor) -> tuple[DataLoader, DataLoader]:
    images = torch.randn(len(labels), 1, 3, 3, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images[:16], labels[:16]), 8), DataLoader(TensorDataset(images, labels), 512)


def said(caplog: Any, word: str) -> list[str]:
    return [message for message in caplog.messages if word in message]


def test_a_thousand_classes_start_with_the_default_heldout_set(fit: Any, caplog: Any) -> None:
    labels = torch.arange(5000) % 1000
    with caplog.at_level("INFO"):
        suite = convscope.suite("standard", on_error="raise", on_start=False)
        run = fit(suite, Classifier(Wide(1000)), data(labels), max_epochs=1)
    assert run.curve("probe/chance")[-1][1] == pytest.approx(EACH / 1024)
    assert len(run.curve("probe/accuracy/net.conv")) == 1
    assert run.curve("importance/gini/net.conv")
    assert said(caplog, "skipped") == []


def test_identities_that_are_seen_once_let_the_probes_rest(fit: Any, caplog: Any) -> None:
    callbacks = [*convscope.suite("standard", on_error="raise"), convscope.LayerPrediction(), convscope.LayerTable()]
    with caplog.at_level("INFO"):
        run = fit(callbacks, Classifier(Wide(9_600)), data(torch.arange(1200) * 8), max_epochs=1)
    messages = said(caplog, "skipped")
    assert len(messages) == 1  # for both
    assert "each of probe, prediction is skipped" in messages[0]
    assert "the held-out set has 1024 samples of 1024 classes, and a probe needs at least two samples of" in messages[0]
    assert "raise HeldOut(size=...) to 10240, or give a source with several samples of a class" in messages[0]
    assert run.curve("importance/gini/net.conv")
    assert run.curve("correlation/mean_abs/net.conv")
    assert not any(tag.startswith(("probe/", "prediction/")) for tag in run.events.Tags()["scalars"])


def test_classes_with_one_sample_take_no_part(fit: Any, caplog: Any) -> None:
    labels = torch.tensor([0, 1, 2] * 8 + [3, 4, 5])
    callbacks = [convscope.LayerProbe(on_error="raise"), convscope.LayerPrediction(examples=2, on_error="raise")]
    with caplog.at_level("INFO"):
        run = fit(callbacks, Classifier(Wide(6)), data(labels), max_epochs=1)
    told = said(caplog, "distinguishes")
    assert len(told) == 1  # once for both
    assert "2 callbacks distinguishes 3 of 6 classes; the others have fewer than two held-out samples each" in told[0]
    assert run.curve("probe/classes")[-1][1] == 3
    assert run.curve("probe/chance")[-1][1] == pytest.approx(1 / 3)
    assert run.curve("prediction/entropy/net.conv")


def task_of(targets: torch.Tensor, **arguments: Any) -> Any:
    heldout = convscope.HeldOut((torch.randn(len(targets), 2), targets), size=len(targets))
    heldout.prepare()
    return settle_task(heldout, **arguments)


def test_one_hot_rows_and_shares_are_counted_like_classes() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 4])
    assert task_of(labels).left_out == (2, 4)
    assert task_of(labels[:, None]).left_out == (2, 4)
    assert task_of(F.one_hot(labels)).left_out == (2, 4)
    soft = F.one_hot(labels).float() * 0.8 + 0.04
    assert task_of(soft, wanted="classification").left_out == (2, 3, 4)
    rows, (features, index) = task_of(labels).counted(labels, labels * 10, torch.arange(6))
    assert (rows.tolist(), features.tolist(), index.tolist()) == ([0, 0, 1, 1], [0, 0, 10, 10], [0, 1, 2, 3])


def test_at_most_a_thousand_classes_are_told_apart() -> None:
    labels = torch.cat([torch.arange(1003).repeat(2), torch.tensor([1001, 1002, 1002])])
    task = task_of(labels)
    assert task.left_out == (998, 999, 1000)  # 1001 and 1002 are more frequent
    expected = "distinguishes 1,000 of 1,003 classes; the others are beyond the 1,000 most frequent"
    assert task.notes() == [expected]
    assert task_of(labels[labels < 1000]).notes() == []


@pytest.mark.parametrize("labels", [torch.arange(30), torch.tensor([0, 0, *range(1, 20)])])
def test_too_few_classes_with_two_samples(labels: torch.Tensor) -> None:
    with pytest.raises(NoTaskError, match=r"at least two samples of at least two classes.*task='regression'"):
        task_of(labels)


@pytest.mark.parametrize("classes", [600, 1024, 1500, 9000])
def test_a_choice_of_samples_leaves_enough_of_a_class(classes: int) -> None:
    labels = torch.arange(3 * EACH * classes) % classes
    counts = Counter(labels[stratified(labels, 1024, seed=0)].tolist())
    assert sum(counts.values()) == 1024
    if classes == 600:  # as each class's share says: most have two
        assert len(counts) == 600
        return
    assert set(counts.values()) == {EACH}
    assert stratified(labels, 1024, seed=0).tolist() == stratified(labels, 1024, seed=0).tolist()
    assert stratified(labels, 1024, seed=1).tolist() != stratified(labels, 1024, seed=0).tolist()


def test_classes_with_enough_samples_are_chosen_first() -> None:
    few = torch.arange(3000)
    labels = torch.cat([few, 3000 + torch.arange(400) % 100])
    counts = Counter(labels[stratified(labels, 256, seed=0)].tolist())
    assert all(label >= 3000 and count == EACH for label, count in counts.items())
    every = Counter(labels[stratified(labels, 600, seed=0)].tolist())
    assert sum(every.values()) == 600
    assert sum(count == 1 for count in every.values()) == 200


def test_a_long_tail_keeps_its_shares() -> None:
    labels = torch.cat([torch.zeros(5000).long(), torch.ones(4000).long(), torch.arange(2, 1002)])
    counts = Counter(labels[stratified(labels, 1000, seed=0)].tolist())
    assert (counts[0], counts[1]) == (500, 400)
