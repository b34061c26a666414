"""A layer that says nothing reads as chance: neither above nor, by what is left out, below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.preprocessing import StandardScaler

from convscope.metrics import (
    CentroidProbe,
    KNNProbe,
    LogisticProbe,
    MultiLabelProbe,
    RegressionProbe,
    RidgeProbe,
    SegmentationProbe,
)
from convscope.metrics.functional import (
    balanced_accuracy,
    calibrated_readout,
    prediction_entropy,
    probe_accuracy,
    ridge_predictor,
    ridge_probe_scores,
)
from convscope.metrics.functional.folds import left_out_with, partners
from convscope.metrics.functional.logistic import equal_folds

PROBES: dict[str, Callable[[], Any]] = {
    "ridge": RidgeProbe,
    "logistic": LogisticProbe,
    "knn": lambda: KNNProbe(k=5),
    "centroid": CentroidProbe,
}
SIZES = {
    "three of four": [4] * 3,
    "pairs": [2] * 15,
    "ten of ten": [10] * 10,
    "uneven": [50, 30, 10, 5, 3],
    "nearly even": [12, 11, 12, 11],
    "hundred of three": [3] * 100,
}
EVEN = [name for name, sizes in SIZES.items() if len(set(sizes)) == 1]


def labels(sizes: Sequence[int], seed: int | None = None) -> torch.Tensor:
    """Classes of the given sizes, sorted, or shuffled by the seed."""
    target = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    if seed is None:
        return target
    return target[torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))]


def judged(make: Callable[[], Any], features: torch.Tensor, target: torch.Tensor) -> Any:
    probe = make()
    probe.update(features, target)
    return probe.compute()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def within_three_standard_errors(values: Sequence[float], expected: float) -> bool:
    values = np.asarray(values)
    return bool(abs(values.mean() - expected) <= 3 * values.std(ddof=1) / len(values) ** 0.5 + 1e-9)


# What is left out.


@given(st.lists(st.integers(1, 7), min_size=2, max_size=6), st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_what_is_left_is_the_same_whatever_the_class(sizes: list[int], seed: int) -> None:
    target = labels(sizes, seed)
    left_out = left_out_with(target, len(sizes))
    assert torch.equal(target[left_out], torch.arange(len(sizes)).expand_as(left_out))
    assert torch.equal(left_out.gather(1, target[:, None])[:, 0], torch.arange(len(target)))
    membership = torch.nn.functional.one_hot(target).bool()
    partner = partners(membership)
    assert torch.equal(membership.gather(0, partner), ~membership)


def test_partners_go_round() -> None:
    membership = torch.tensor([True, False, False, False, True])[:, None]
    assert partners(membership).flatten().tolist() == [1, 0, 4, 0, 2]
    constant = torch.tensor([[True, True], [True, False]])
    assert partners(constant).tolist() == [[0, 1], [1, 0]]
    assert partners(torch.zeros(2, 1, dtype=torch.bool)).flatten().tolist() == [0, 1]


@given(st.lists(st.integers(1, 13), min_size=2, max_size=6), st.integers(2, 6), st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_every_fold_fits_as_many_samples_of_a_class(sizes: list[int], folds: int, seed: int) -> None:
    target = labels(sizes, seed)
    fold, trains = equal_folds(target, folds)
    assert not trains[torch.arange(len(target)), fold].any()
    for number, size in enumerate(sizes):
        fitted = trains[target == number].sum(dim=0)
        assert fitted.tolist() == [size - -(-size // folds)] * folds


# Constant features: exactly chance.

CONSTANTS = {
    "zeros": lambda n: torch.zeros(n, 3),
    "large": lambda n: torch.full((n, 3), 1e6) + 1e-3 * random(n, 3),
    "half": lambda n: torch.full((n, 2), 0.1, dtype=torch.float16),
    "one of each": lambda n: torch.tensor([[1.0, -2.0, 0.0]]).expand(n, 3),
}


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("probe", PROBES)
def test_constant_features_are_exactly_chance(probe: str, sizes: str, constant: str) -> None:
    for seed in (None, 1):
        target = labels(SIZES[sizes], seed)
        result = judged(PROBES[probe], CONSTANTS[constant](len(target)), target)
        assert result.accuracy.item() == pytest.approx(max(SIZES[sizes]) / len(target), abs=1e-6)
        assert result.chance.item() == pytest.approx(result.accuracy.item(), abs=1e-6)
        assert result.selectivity.item() == pytest.approx(0, abs=1e-6)
        assert result.balanced_accuracy.item() == pytest.approx(1 / len(SIZES[sizes]), abs=1e-6)


def test_equal_scores_go_to_the_most_frequent_class_and_then_to_none() -> None:
    target = torch.tensor([5, 5, 5, 2, 2, 2, 7])
    scores = torch.zeros(7, 3)
    assert probe_accuracy(scores, target).item() == pytest.approx(3 / 7)
    assert balanced_accuracy(scores, target).item() == pytest.approx(1 / 3)
    scores[:, 2] = 1e-3
    assert probe_accuracy(scores, target).item() == pytest.approx(1 / 7)
    scores[:, 0] = 1e-3 * (1 + 1e-12)  # equal but for rounding, and class 2 is more frequent than class 7
    assert probe_accuracy(scores, target).item() == pytest.approx(3 / 7)


# Noise: chance on the average over seeds.


@pytest.mark.parametrize("sizes", EVEN)
@pytest.mark.parametrize("probe", PROBES)
def test_noise_is_chance(probe: str, sizes: str) -> None:
    found = []
    for seed in range(12 if len(SIZES[sizes]) > 50 else 40):
        target = labels(SIZES[sizes], seed)
        wide = seed % 3 * len(target) // 2 + 5
        found.append(judged(PROBES[probe], random(len(target), wide, seed=seed), target))
    assert within_three_standard_errors([float(r.accuracy) for r in found], float(found[0].chance))
    assert within_three_standard_errors([float(r.balanced_accuracy) for r in found], float(found[0].chance))
    assert within_three_standard_errors([float(r.selectivity) for r in found], 0)


@pytest.mark.parametrize("probe", PROBES)
def test_noise_on_uneven_classes(probe: str) -> None:
    found = [judged(PROBES[probe], random(98, 30, seed=s), labels(SIZES["uneven"], s)) for s in range(40)]
    assert within_three_standard_errors([float(r.balanced_accuracy) for r in found], 0.2)
    assert within_three_standard_errors([float(r.selectivity) for r in found], 0)
    if probe == "ridge":  # the others guess a rare class at times, so that they are right less often
        assert within_three_standard_errors([float(r.accuracy) for r in found], 50 / 98)


@pytest.mark.parametrize("share", [0.1, 0.4])
@pytest.mark.parametrize("samples", [30, 120])
def test_labels_that_nothing_tells_rank_as_at_random(samples: int, share: float) -> None:
    reached, control = [], []
    for seed in range(40):
        target = (torch.rand(samples, 4, generator=torch.Generator().manual_seed(seed)) < share).long()
        target[0], target[1], target[2], target[3] = 0, 1, 0, 1
        constant = judged(MultiLabelProbe, torch.full((samples, 3), 0.3), target)
        assert constant.mean_average_precision == constant.chance
        assert constant.selectivity == 0
        noise = judged(MultiLabelProbe, random(samples, 20, seed=seed), target)
        reached.append(float(noise.mean_average_precision - noise.chance))
        control.append(float(noise.selectivity))
    assert within_three_standard_errors(reached, 0)
    assert within_three_standard_errors(control, 0)


@pytest.mark.parametrize(("samples", "width"), [(12, 24), (80, 8), (60, 200)])
def test_quantities_that_nothing_tells_have_an_r2_of_zero(samples: int, width: int) -> None:
    constant = judged(RegressionProbe, torch.full((samples, 3), 0.3), random(samples, 2))
    assert constant.r2.item() == pytest.approx(0, abs=1e-12)
    assert constant.selectivity.item() == pytest.approx(0, abs=1e-12)
    for seed in range(20):
        noise = judged(RegressionProbe, random(samples, width, seed=seed), random(samples, 1, seed=seed + 100))
        assert -1e-12 <= noise.r2 < 3 / samples**0.5


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_masks_that_nothing_tells_read_as_one_class_everywhere(share: float) -> None:
    target = (torch.rand(40, 6, 6, generator=torch.Generator().manual_seed(0)) < share).long()
    blind = judged(lambda: SegmentationProbe(9), torch.full((40, 2, 6, 6), 0.3), target)
    assert blind.miou == blind.chance
    assert blind.selectivity == 0
    found = [judged(lambda: SegmentationProbe(9), random(40, 4, 6, 6, seed=s), target) for s in range(12)]
    assert sum(bool(r.miou == r.chance) for r in found) >= 11
    assert max(abs(float(r.selectivity)) for r in found) < 0.03


def test_masks_of_one_class_an_image_do_not_tell_it_by_leaving_the_image_out() -> None:
    target = (torch.arange(30) % 2)[:, None, None].expand(-1, 4, 4)
    blind = judged(lambda: SegmentationProbe(16), torch.zeros(30, 2, 4, 4), target)
    assert blind.pixel_accuracy == 0.5
    faint = judged(lambda: SegmentationProbe(16), random(30, 2, 4, 4) + 0.7 * target[:, None], target)
    assert faint.pixel_accuracy > 0.55


# Features that do say something: as good as refitting without each sample.


@pytest.mark.parametrize("signal", [0.3, 0.6, 1.2])
@pytest.mark.parametrize("sizes", [[30] * 5, [60, 40, 30, 20]], ids=["even", "uneven"])
def test_informative_features_read_as_by_refitting_without_each_sample(sizes: list[int], signal: float) -> None:
    target = labels(sizes)
    features = random(len(target), 16, seed=2) + signal * random(len(sizes), 16, seed=3)[target]
    x, truth = StandardScaler().fit_transform(features.double().numpy()), np.eye(len(sizes))[target.numpy()]
    refitted = cross_val_predict(Ridge(alpha=10.0), x, truth, cv=LeaveOneOut()).argmax(1) == target.numpy()
    ours = ridge_probe_scores(features, target, alphas=[10.0]).argmax(1) == target
    error = np.sqrt(refitted.mean() * (1 - refitted.mean()) / len(target))
    assert abs(float(ours.double().mean()) - refitted.mean()) <= error


def test_the_read_out_of_what_says_nothing_is_the_shares_of_the_classes() -> None:
    for sizes in ([10] * 8, [50, 30, 10, 5, 3], [2] * 15):
        target, shares = labels(sizes, 0), torch.tensor(sizes).double() / sum(sizes)
        surprise = float(torch.special.entr(shares).sum())
        constant = calibrated_readout(ridge_probe_scores(torch.zeros(len(target), 3), target), target)
        torch.testing.assert_close(constant.exp(), shares.expand_as(constant), atol=0.02, rtol=0.05)
        assert float(prediction_entropy(constant).mean()) == pytest.approx(surprise, abs=0.01)
        entropies = [
            float(prediction_entropy(calibrated_readout(ridge_probe_scores(x, target), target)).mean())
            for x in (random(len(target), 20, seed=seed) for seed in range(10))
        ]
        assert np.mean(entropies) == pytest.approx(surprise, rel=0.05)


def test_leaving_out_one_sample_alone_reads_below_chance() -> None:
    """Why a partner is left out too: the formula of the textbooks, on features that say nothing."""
    target = labels([10] * 3)
    truth = torch.nn.functional.one_hot(target).double()
    alone = ridge_predictor(torch.zeros(30, 2), truth)(truth)
    assert probe_accuracy(alone, target) == 0
    assert judged(RidgeProbe, torch.zeros(30, 2), target).accuracy.item() == pytest.approx(1 / 3)


def test_a_class_with_one_sample_takes_no_part() -> None:
    target = torch.tensor([0] * 8 + [1] * 8 + [2])
    features = random(17, 4)
    for make in PROBES.values():
        result, without = judged(make, features, target), judged(make, features[:16], target[:16])
        assert result.classes.tolist() == [0, 1]
        torch.testing.assert_close(result.scores, without.scores)
        assert result.chance == 0.5
    with pytest.raises(ValueError, match="1 of 3 classes have 2 samples or more"):
        judged(RidgeProbe, features[:4], torch.tensor([0, 0, 1, 2]))
    with pytest.raises(ValueError, match="Each of the 4 samples has a class of its own"):
        ridge_probe_scores(features[:4], torch.arange(4))
