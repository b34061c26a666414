"""Probes of quantities, of several labels and of positions, against scikit-learn and torch's own interpolation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import average_precision_score, jaccard_score
from sklearn.metrics import r2_score as sklearn_r2
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict
from sklearn.preprocessing import StandardScaler

from convscope.metrics import MultiLabelProbe, RegressionProbe, RidgeProbe, SegmentationProbe
from convscope.metrics.functional import (
    blind_average_precision,
    exchanged_labels,
    features_at,
    label_prevalence,
    mean_average_precision,
    mean_iou,
    position_scorer,
    probe_depth,
    r2_score,
    ridge_predictor,
    spread_positions,
)
from convscope.metrics.functional.folds import partners


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantities(n: int = 60, c: int = 8, d: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    features = random(n, c)
    scale = torch.tensor([1.0, 100.0, 0.01])[:d]
    return features, scale * (features @ random(c, d, seed=1) + 2 * random(n, d, seed=2)) + 7


def several_labels(n: int = 60, c: int = 8, k: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    features = random(n, c)
    return features, (features @ random(c, k, seed=1) + random(n, k, seed=2) > 0.7).long()


def scaled(features: torch.Tensor) -> np.ndarray:
    return StandardScaler().fit_transform(features.double().numpy())


# The scores.


def test_r2_is_that_of_sklearn() -> None:
    _, target = quantities()
    predictions = target + random(*target.shape) * target.std(0)
    assert r2_score(predictions, target).item() == pytest.approx(sklearn_r2(target, predictions), abs=1e-6)
    constant = torch.cat([target, torch.full((60, 1), 4.2)], 1)
    wrong = torch.cat([predictions, torch.zeros(60, 1)], 1)
    assert r2_score(wrong, constant) == r2_score(predictions, target)


@given(st.integers(0, 10_000), st.integers(2, 40), st.booleans())
@settings(max_examples=40, deadline=None)
def test_average_precision_is_that_of_sklearn_with_ties_too(seed: int, n: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(2, (n, 3), generator=generator)
    target[0], target[1] = 0, 1
    scores = torch.randn(n, 3, generator=generator)
    scores = (2 * scores).round() if ties else scores
    expected = average_precision_score(target.numpy(), scores.numpy(), average="macro")
    assert mean_average_precision(scores, target).item() == pytest.approx(expected, abs=1e-6)


def test_labels_that_never_vary_are_left_out() -> None:
    _, target = several_labels()
    scores = random(*target.shape)
    padded = torch.cat([target, torch.zeros(60, 1), torch.ones(60, 1)], 1)
    assert mean_average_precision(random(60, 6), padded).item() == pytest.approx(
        average_precision_score(target, random(60, 6)[:, :4]), abs=1e-6
    )
    assert mean_average_precision(scores, target) != mean_average_precision(random(60, 4, seed=9), target)
    assert label_prevalence(padded).item() == pytest.approx(target.double().mean().item(), abs=1e-6)


def test_iou_is_that_of_sklearn() -> None:
    target, predicted = (random(9, 5, 5, seed=s).mul(2).abs().long().clamp(max=3) for s in (0, 1))
    target[target == 3] = 7
    expected = jaccard_score(target.flatten(), predicted.flatten(), labels=[0, 1, 2, 7], average="macro")
    assert mean_iou(predicted, target).item() == pytest.approx(expected, abs=1e-6)
    ignored = target.clone()
    ignored[:3] = -100
    expected = jaccard_score(target[3:].flatten(), predicted[3:].flatten(), labels=[0, 1, 2, 7], average="macro")
    assert mean_iou(predicted, ignored).item() == pytest.approx(expected, abs=1e-6)


def test_the_depth_of_a_probe_whose_r2_is_negative_everywhere() -> None:
    assert int(probe_depth(torch.tensor([-3.0, -1.04, -1.0]))) == 1


# Regression and multi-label: leave-one-out by refitting.


@pytest.mark.parametrize("shape", [(60, 8), (25, 40)], ids=["primal", "dual"])
def test_regression_equals_refitting_without_each_sample(shape: tuple[int, int]) -> None:
    features, target = quantities(*shape)
    probe = RegressionProbe()
    probe.update(features, target)
    result = probe.compute()
    standard = scaled(target)
    alpha = RidgeCV(alphas=probe.alphas).fit(scaled(features), standard).alpha_
    refitted = cross_val_predict(Ridge(alpha=alpha), scaled(features), standard, cv=LeaveOneOut())
    assert result.r2.item() == pytest.approx(sklearn_r2(standard, refitted), abs=1e-6)
    assert result.r2 > 0.2
    np.testing.assert_allclose(scaled(result.predictions), StandardScaler().fit_transform(refitted), atol=1e-4)
    np.testing.assert_allclose(result.target.numpy(), target.numpy(), rtol=1e-6)


def test_regression_takes_the_mean_where_no_slope_does_better() -> None:
    features, target = random(40, 30), random(40, 1, seed=2)
    probe = RegressionProbe()
    probe.update(features, target)
    means = cross_val_predict(DummyRegressor(), features.numpy(), target.double().numpy(), cv=LeaveOneOut())
    np.testing.assert_allclose(probe.compute().predictions[:, 0].numpy(), means, atol=1e-9)
    assert probe.compute().r2.item() == pytest.approx(0, abs=1e-12)
    assert r2_score(ridge_predictor(features, target)(target), target) < -0.001


def test_multilabel_equals_refitting_without_each_sample_and_its_partner() -> None:
    features, target = several_labels(40, 6)
    probe = MultiLabelProbe()
    probe.update(features, target)
    result, x, truth = probe.compute(), scaled(features), target.double().numpy()
    alpha = RidgeCV(alphas=probe.alphas).fit(x, truth).alpha_
    partner, refitted = partners(target.bool()).numpy(), np.zeros_like(truth)
    for i, k in np.ndindex(*truth.shape):
        assert truth[i, k] != truth[partner[i, k], k]
        kept = np.delete(np.arange(len(x)), [i, partner[i, k]])
        refitted[i, k] = Ridge(alpha=alpha).fit(x[kept], truth[kept, k]).predict(x[i : i + 1])[0]
    np.testing.assert_allclose(result.scores, refitted, atol=1e-6)
    assert result.mean_average_precision.item() == pytest.approx(average_precision_score(target, refitted), abs=1e-6)


@given(st.integers(0, 10_000), st.integers(2, 9))
@settings(max_examples=10, deadline=None)
def test_shuffled_ties_are_the_mean_over_orders(seed: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(2, (n, 1), generator=generator)
    target[0], target[1] = 0, 1
    scores = torch.randint(3, (n, 1), generator=generator).double()
    noise = torch.rand(n, 1000, generator=generator, dtype=torch.float64) / 2
    expected = mean_average_precision(scores + noise, target.expand(-1, 1000))
    assert mean_average_precision(scores, target, ties="shuffled").item() == pytest.approx(float(expected), abs=0.05)
    apart = torch.randn(n, 1, generator=generator)
    assert mean_average_precision(apart, target, "shuffled").item() == pytest.approx(
        mean_average_precision(apart, target).item(), abs=1e-6
    )


def test_a_blind_ranking_has_the_average_precision_of_the_formula() -> None:
    target = torch.zeros(50, 2)
    target[:7, 0], target[:30, 1] = 1, 1
    harmonic = sum(1 / n for n in range(1, 51))
    expected = [(p - 1) / 49 + (50 - p) / (50 * 49) * harmonic for p in (7, 30)]
    assert blind_average_precision(target).item() == pytest.approx(np.mean(expected), abs=1e-6)
    assert blind_average_precision(target) > label_prevalence(target) + 0.02


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_selectivity_takes_out_what_permuted_targets_reach(kind: str) -> None:
    features, target = quantities() if kind == "regression" else several_labels()
    probe = RegressionProbe(n_controls=6) if kind == "regression" else MultiLabelProbe(n_controls=6)
    probe.update(features, target)
    result: Any = probe.compute()
    value, control = (result.r2, result.control_r2) if kind == "regression" else result[0::3][:2]
    torch.testing.assert_close(result.selectivity, value - control)
    assert control < result.chance + 0.12
    assert result.selectivity > 0.2
    probe.reset()
    probe.update(random(*features.shape, seed=5), target)
    assert abs(probe.compute().selectivity) < 0.25


def test_one_quantity_may_come_as_a_vector() -> None:
    features, target = quantities(d=1)
    column, vector = RegressionProbe(), RegressionProbe()
    column.update(features, target)
    vector.update(features, target[:, 0])
    assert column.compute().r2 == vector.compute().r2


# Positions.


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("finer", [True, False])
def test_positions_read_what_interpolation_gives(dims: int, finer: bool) -> None:
    activation = random(3, 5, *(4, 6, 3)[:dims])
    size = (9, 8, 7)[:dims] if finer else (2, 3, 2)[:dims]
    mode = ("linear", "bilinear", "trilinear")[dims - 1]
    expected = F.interpolate(activation, size, mode=mode, align_corners=False).flatten(2).transpose(1, 2)
    everywhere = torch.arange(int(np.prod(size))).expand(3, -1)
    torch.testing.assert_close(features_at(activation, everywhere, size), expected, atol=1e-5, rtol=1e-5)


def test_positions_are_distinct_and_cover_the_grid_evenly() -> None:
    places = spread_positions(torch.arange(35), total=35, positions=4)
    assert all(len(row.unique()) == 4 for row in places)
    assert places.flatten().bincount(minlength=35).tolist() == [4] * 35
    assert torch.equal(spread_positions(torch.tensor([17, 3]), 35, 4), places[[17, 3]])
    assert not torch.equal(spread_positions(torch.arange(35), 35, 4, seed=1), places)


@pytest.mark.parametrize("width", [3, 4, 5, 60])
@pytest.mark.parametrize("ignore", [False, True])
def test_whole_samples_are_left_out_exactly(width: int, ignore: bool) -> None:
    # Of six positions a sample: with the intercept's column fewer columns than that, as many, more.
    features, target = random(9, 6, width), torch.randint(3, (9, 6), generator=torch.Generator().manual_seed(1))
    if ignore:
        target[2, 1:4], target[5, 0] = -100, -100
    counted = target >= 0
    groups = torch.arange(9)[:, None].expand(9, 6)[counted].numpy()
    truth = np.eye(3)[target[counted].numpy()]
    refitted = cross_val_predict(
        Ridge(alpha=2.0), scaled(features[counted]), truth, groups=groups, cv=LeaveOneGroupOut()
    )
    ours = position_scorer(features, target, alphas=[2.0])(target)
    np.testing.assert_allclose(ours[counted].numpy(), refitted, atol=1e-9)


def test_the_penalty_is_the_one_with_the_least_error_on_left_out_samples() -> None:
    features, target = random(12, 5, 30), torch.randint(2, (12, 5), generator=torch.Generator().manual_seed(1))
    alphas, groups = [0.1, 10.0, 1000.0], np.repeat(np.arange(12), 5)
    truth, x = np.eye(2)[target.flatten().numpy()], scaled(features.flatten(0, 1))
    fits = [cross_val_predict(Ridge(alpha=a), x, truth, groups=groups, cv=LeaveOneGroupOut()) for a in alphas]
    best = min(fits, key=lambda fit: ((fit - truth) ** 2).sum())
    np.testing.assert_allclose(position_scorer(features, target, alphas)(target).flatten(0, 1), best, atol=1e-9)


def masks(n: int = 24, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Squares on a background, and maps of which one channel knows them."""
    target = torch.zeros(n, side, side, dtype=torch.long)
    for i in range(n):
        row, column = (int(v) for v in torch.randint(side // 2, (2,), generator=torch.Generator().manual_seed(i)))
        target[i, row : row + side // 2, column : column + side // 2] = 1 + i % 2
    maps = random(n, 4, side, side)
    maps[:, 0] += 3 * target
    return maps, target


def test_segmentation_scores_its_out_of_sample_predictions() -> None:
    maps, target = masks()
    probe = SegmentationProbe(positions=12)
    probe.update(maps, target)
    result = probe.compute()
    truth, predicted = result.target.flatten().numpy(), result.predicted.flatten().numpy()
    assert result.miou.item() == pytest.approx(jaccard_score(truth, predicted, average="macro"), abs=1e-6)
    assert result.pixel_accuracy.item() == pytest.approx((truth == predicted).mean(), abs=1e-6)
    blind = jaccard_score(truth, np.zeros_like(truth), average="macro")
    assert result.chance.item() == pytest.approx(blind, abs=1e-6)
    assert result.target.shape == (24, 12)
    assert result.miou > 0.5
    assert result.control_miou < 0.4
    torch.testing.assert_close(result.selectivity, result.miou - result.control_miou)


def test_a_map_that_knows_nothing_and_one_that_knows_all() -> None:
    _, target = masks()
    blind, seeing = SegmentationProbe(positions=16), SegmentationProbe(positions=16)
    blind.update(random(24, 4, 8, 8, seed=9), target)
    seeing.update(F.one_hot(target).movedim(-1, 1).float(), target)
    assert abs(blind.compute().selectivity) < 0.05
    assert seeing.compute().miou == 1


def test_ignored_positions_do_not_count() -> None:
    maps, target = masks()
    target[:, 0] = -100
    target[3] = -100
    probe, other = SegmentationProbe(positions=64), SegmentationProbe(positions=64)
    probe.update(maps, target)
    garbage = maps.clone()
    garbage[:, :, 0] = 1e3
    garbage[3] = -1e3
    other.update(garbage, target)
    result = probe.compute()
    assert result.target.shape == (23, 64)
    assert torch.equal(other.compute().miou, result.miou)


def test_exchanged_labels_are_those_of_another_sample() -> None:
    target = torch.tensor([[1, 2, 3], [4, -100, -100], [5, 6, 7]])
    found = exchanged_labels(target, torch.tensor([2, 0, 1]))
    assert found.tolist() == [[5, 6, 7], [1, -100, -100], [4, 4, 4]]


# What all share.

MAKERS: dict[str, tuple[Callable[[], Any], Callable[[], tuple[torch.Tensor, torch.Tensor]]]] = {
    "regression": (RegressionProbe, quantities),
    "multilabel": (MultiLabelProbe, several_labels),
    "segmentation": (lambda: SegmentationProbe(positions=10), masks),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_neither_chunks_nor_order_nor_repeated_samples_matter(kind: str, chunk: int) -> None:
    make, data = MAKERS[kind]
    features, target = data()
    whole, parts = make(), make()
    whole.update(features, target, torch.arange(len(target)))
    order = torch.cat([torch.randperm(len(target), generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1])])
    for part in order.split(chunk):
        parts.update(features[part], target[part], part)
    for value, expected in zip(parts.compute(), whole.compute(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", MAKERS)
def test_without_an_index_samples_are_counted_as_they_come(kind: str) -> None:
    make, data = MAKERS[kind]
    features, target = data()
    known, unknown = make(), make()
    known.update(features, target, torch.arange(len(target)))
    for part in torch.arange(len(target)).split(9):
        unknown.update(features[part], target[part])
    torch.testing.assert_close(unknown.compute()[0], known.compute()[0])


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_taken_for_what_it_says(kind: str, dtype: torch.dtype) -> None:
    make, data = MAKERS[kind]
    features, target = data()
    half, single = make(), make()
    half.update(features.to(dtype), target)
    single.update(features.to(dtype).float(), target)
    assert half.compute()[0] == single.compute()[0]


X, Y = random(6, 3), torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0], [1, 0], [0, 1]])
SQUARES = torch.tensor([[[0, 1], [1, 1]]]).repeat(6, 1, 1)


def update_and_compute(probe: Any, features: torch.Tensor, target: torch.Tensor) -> None:
    probe.update(features, target)
    probe.compute()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RegressionProbe(alphas=()), "alphas=(): give penalties, at least one, each a finite number, above 0"),
        (lambda: MultiLabelProbe(n_controls=0), "n_controls=0: give a whole number, at least 1"),
        (lambda: SegmentationProbe(positions=0), "positions=0: give a whole number, at least 1"),
        (
            lambda: update_and_compute(RegressionProbe(), X, Y[:4]),
            "must have shape (6, D), one row per sample, got (4, 2)",
        ),
        (lambda: update_and_compute(RegressionProbe(), X, torch.full((6,), 2.0)), "no target that varies"),
        (lambda: update_and_compute(RegressionProbe(), X, Y * torch.nan), "targets must be finite"),
        (lambda: update_and_compute(RegressionProbe(), X * torch.inf, Y), "features must be finite"),
        (
            lambda: update_and_compute(MultiLabelProbe(), X, 2 * Y),
            "be 0 or 1, got shape (6, 2) with values from 0 to 2",
        ),
        (lambda: update_and_compute(MultiLabelProbe(), X, Y * 0), "is there in some samples and not in others"),
        (
            lambda: update_and_compute(SegmentationProbe(), random(6, 2, 4), SQUARES),
            "(6, 2, 4) has 1 dimensions of positions, but the targets have 2, (2, 2)",
        ),
        (
            lambda: update_and_compute(SegmentationProbe(), random(6, 2, 4, 4), SQUARES.float()),
            "torch.float32 of shape",
        ),
        (
            lambda: update_and_compute(SegmentationProbe(), random(6, 2, 4, 4), SQUARES * 0),
            "got 6 samples and 1 classes",
        ),
        (
            lambda: spread_positions(torch.arange(2), 4, 5),
            "positions=5: give a whole number of the positions there are, at least 1 and at most 4",
        ),
        (lambda: mean_iou(SQUARES, SQUARES * 0 - 100), "is a position that counts"),
        (
            lambda: exchanged_labels(SQUARES[0] * 0 - 100, torch.tensor([1, 0])),
            "2 samples have no position that counts",
        ),
    ],
)
def test_bad_input_is_refused_with_a_reason(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_labels_of_class_membership_are_the_probe_of_classes() -> None:
    """The two ways to one number: the classes' probe is ridge on one-hot targets, a label for each class."""
    features, target = random(40, 5), torch.arange(40) % 3
    classes, labels = RidgeProbe(), MultiLabelProbe()
    classes.update(features, target)
    labels.update(features, F.one_hot(target))
    torch.testing.assert_close(labels.compute().scores, classes.compute().scores)
