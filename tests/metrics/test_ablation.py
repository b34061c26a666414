"""Outcomes of interventions, against pandas-like loops and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convscope.metrics import ChannelMean, InterventionOutcome
from convscope.metrics.functional import removal_area

S, N, K = 5, 40, 4


def outcomes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, K - 1, (N,), generator=generator)  # the last class has no sample
    return torch.rand(S, N, generator=generator), torch.rand(S, N, generator=generator) < 0.6, target


def test_means_overall_and_by_class_whatever_the_chunks_and_groups_of_sets() -> None:
    losses, hits, target = outcomes()
    metric = InterventionOutcome(S, K)
    for first in (0, 2, 4):
        rows = slice(first, min(first + 2, S))
        for part in torch.arange(N).split(7):
            metric.update(losses[rows][:, part], hits[rows][:, part], target[part], first)
    found = metric.compute()
    np.testing.assert_allclose(found.loss, losses.mean(1), rtol=1e-6)
    np.testing.assert_allclose(found.accuracy, hits.double().mean(1), rtol=1e-6)
    for k in range(K - 1):
        np.testing.assert_allclose(found.class_loss[:, k], losses[:, target == k].mean(1), rtol=1e-6)
        np.testing.assert_allclose(found.class_accuracy[:, k], hits[:, target == k].double().mean(1), rtol=1e-6)
    assert found.class_loss[:, -1].isnan().all()


def test_channel_mean() -> None:
    pooled = torch.randn(30, 3) + 5
    metric = ChannelMean(3)
    for part in pooled.split(8):
        metric.update(part)
    torch.testing.assert_close(metric.compute(), pooled.mean(0))


def test_removal_area_is_numpys_trapezoid() -> None:
    places, accuracy = [0, 0.1, 0.5, 1], torch.tensor([0.9, 0.85, 0.4, 0.1])
    assert float(removal_area(accuracy, places)) == pytest.approx(np.trapezoid(accuracy.numpy(), places))


def update(losses: int, hits: int, target: list[int], first: int = 0) -> None:
    metric = InterventionOutcome(1, 2)
    metric.update(torch.rand(1, losses), torch.ones(1, hits).bool(), torch.tensor(target), first)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: InterventionOutcome(0, 2), "num_sets"),
        (lambda: InterventionOutcome(2, True), "num_classes"),
        (lambda: InterventionOutcome(1, 2).compute(), "got none"),
        (lambda: update(3, 2, [0, 0, 0]), "shape"),
        (lambda: update(1, 1, [2]), "class 2"),
        (lambda: update(1, 1, [1], first=1), "Sets 1"),
        (lambda: ChannelMean(2).compute(), "got none"),
        (lambda: ChannelMean(2).update(torch.rand(2)), r"\(N, C\)"),
        (lambda: removal_area(torch.rand(2), [0, 0.5]), "from 0 to 1"),
        (lambda: removal_area(torch.rand(3), [0, 1]), "accuracy"),
    ],
)
def test_bad_input_is_named(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()  # type: ignore[operator]
