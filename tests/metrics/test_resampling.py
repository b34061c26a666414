"""Influence and precision against NumPy on the whole stack of copies and SciPy's Pearson; overlap against trials."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from convscope.metrics import ImageResampling, ResampledImages
from convscope.metrics.functional import (
    Overlap,
    ResamplingScores,
    ResamplingSums,
    permuted_overlap,
    resampling_scores,
    resampling_sums,
    set_overlap,
    top_filters,
)


def stack(
    seed: int = 0, copies: int = 50, shape: tuple[int, ...] = (4, 3, 5), offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    output = torch.rand(copies, generator=generator)
    noise = torch.randn(copies, *shape, generator=generator)
    slope = torch.randn(shape, generator=generator)
    return noise + slope * output.view(-1, *[1] * len(shape)) + 0.5 + offset, output


def scores(activation: Tensor, output: Tensor, chunks: tuple[int, ...] | None = None) -> ResamplingScores:
    parts = [
        resampling_sums(a, y)
        for a, y in zip(activation.split(chunks or len(output)), output.split(chunks or len(output)), strict=True)  # type: ignore[arg-type]
    ]
    return resampling_scores(ResamplingSums(*(torch.stack(each).sum(0) for each in zip(*parts, strict=True))))


@pytest.mark.parametrize("shape", [(4, 3, 5), (3,), (2, 7), (2, 2, 3, 2)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_scores_are_those_of_the_whole_stack(shape: tuple[int, ...], offset: float) -> None:
    activation, output = stack(shape=shape, offset=offset)
    found = scores(activation.double(), output)
    a = activation.double().numpy().reshape(len(output), shape[0], -1)
    pearson = np.array(
        [[abs(stats.pearsonr(a[:, c, p], output.numpy())[0]) for p in range(a.shape[2])] for c in range(a.shape[1])]
    )
    np.testing.assert_allclose(found.influence, pearson.mean(1), rtol=1e-6)
    np.testing.assert_allclose(found.precision, 1 / a.var(0).mean(1), rtol=1e-6)
    np.testing.assert_allclose(found.relative_precision, a.mean((0, 2)) ** 2 / a.var(0).mean(1), rtol=1e-6)
    np.testing.assert_allclose(found.mean, a.mean((0, 2)), rtol=1e-9)
    np.testing.assert_allclose(found.variance, a.var(0).mean(1), rtol=1e-6)


@pytest.mark.parametrize("chunks", [(50,), (1,) * 50, (7, 13, 30)])
def test_any_chunking_gives_the_same(chunks: tuple[int, ...]) -> None:
    activation, output = stack()
    expected = scores(activation, output)
    for found, wanted in zip(scores(activation, output, chunks), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_positions_that_never_move_are_left_out_and_filters_that_never_do_are_not_measured() -> None:
    activation, output = stack()
    activation[:, 0] = 2.0  # a filter that ignores its input
    activation[:, 1, 0] = 0.0  # a row of positions that is dead
    activation[:, 2] = 0.0  # a dead filter
    found = scores(activation, output)
    a = activation[:, 1, 1:].double().numpy().reshape(50, -1)
    expected = np.mean([abs(stats.pearsonr(column, output.numpy())[0]) for column in a.T])
    assert found.influence[1].item() == pytest.approx(expected, rel=1e-6)
    assert found.influence[0].isnan()
    assert found.influence[2].isnan()
    assert found.precision[0] == torch.inf
    assert found.precision[2].isnan()
    assert found.relative_precision[0] == torch.inf
    assert found.relative_precision[2].isnan()


def test_an_output_that_does_not_move_has_no_influences() -> None:
    activation, _ = stack()
    found = scores(activation, torch.full((50,), 0.3))
    assert found.influence.isnan().all()
    assert not found.precision.isnan().any()


def test_a_filter_below_the_least_activation_has_no_precision() -> None:
    activation, output = stack()
    activation = activation - activation.mean((0, 2, 3), keepdim=True)
    activation[:, 1] += 0.0999
    activation[:, 2] += 0.1001
    assert scores(activation, output).precision.isnan().tolist() == [True, True, False, True]


def test_relative_precision_survives_rescaling_and_precision_does_not() -> None:
    activation, output = stack()
    before, after = scores(activation, output), scores(activation * 4, output)
    torch.testing.assert_close(after.relative_precision, before.relative_precision)
    torch.testing.assert_close(after.precision, before.precision / 16)
    torch.testing.assert_close(after.influence, before.influence)


@pytest.mark.parametrize(
    ("activation", "output", "message"),
    [
        (torch.zeros(3, 5, 2), torch.zeros(2), r"shape \(3,\), got \(2,\)"),
        (torch.zeros(3), torch.zeros(3), r"shape \(N, 0, \*\)"),
        (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3), "floating point"),
        (torch.full((3, 4, 3, 5), torch.nan), torch.zeros(3), "activation must be finite"),
        (torch.zeros(3, 4, 3, 5), torch.tensor([0.0, torch.inf, 0.0]), "must be finite"),
    ],
)
def test_bad_input_is_named(activation: Tensor, output: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resampling_sums(activation, output)


def test_a_value_that_moves_by_rounding_alone_does_not_move() -> None:
    activation, output = stack()
    activation[:, 0] = 0.3 + 1e-9 * torch.randn(50, 3, 5)
    found = scores(activation, output)
    assert (found.variance[0], found.precision[0]) == (0, torch.inf)
    assert found.influence[0].isnan()


def test_maps_wider_than_a_block_are_summed_whole() -> None:
    activation, output = stack(shape=(3, 60, 61))
    a, y = activation.double(), output.double()
    found = resampling_sums(activation, output)
    torch.testing.assert_close(found.square, a.square().sum(0).flatten(1))
    torch.testing.assert_close(found.product, (a * y.view(-1, 1, 1, 1)).sum(0).flatten(1))


# The metrics.


def test_an_image_of_another_size_is_refused_by_its_metric() -> None:
    metric = ImageResampling(4, 15)
    with pytest.raises(ValueError, match=r"15 positions for each filter, got shape \(2, 4, 3, 4\)"):
        metric.update(torch.zeros(2, 4, 3, 4), torch.zeros(2))


def test_states_do_not_grow_with_the_number_of_copies() -> None:
    metric = ImageResampling(4, 15)
    sizes = []
    for _ in range(3):
        metric.update(*stack())
        sizes.append(sum(state.numel() for state in metric.metric_state.values()))
    assert sizes == [1 + 3 * 60 + 2] * 3
    assert metric.compute().influence.shape == (4,)


def test_images_come_in_the_order_of_their_numbers_each_once() -> None:
    metric = ResampledImages(3)
    rows = torch.arange(12.0).view(4, 3)
    metric.update(rows[:2], rows[:2], rows[:2] / 100, torch.tensor([9, 2]))
    metric.update(rows[1:3], rows[1:3], rows[1:3] / 100, torch.tensor([2, 5]))
    assert metric.compute().mean[:, 0].tolist() == [3.0, 6.0, 0.0]


def test_influence_may_be_unknown_and_variance_may_not() -> None:
    metric, known, unknown = ResampledImages(1), torch.ones(1, 1), torch.full((1, 1), torch.nan)
    metric.update(known, known, unknown, torch.tensor([0]))
    assert metric.compute().influence.isnan().all()
    with pytest.raises(ValueError, match="mean and variance must be finite"):
        metric.update(known, unknown, known)
    with pytest.raises(ValueError, match=r"shape \(I, 1\), got \(1, 2\)"):
        metric.update(known, torch.ones(1, 2), known)


def test_one_copy_is_too_few() -> None:
    activation, output = stack(copies=1)
    with pytest.raises(ValueError, match="at least 2 copies of an image, got 1"):
        scores(activation, output)


# Sets of filters.


def random_masks(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    rng = np.random.default_rng(seed)

    def mask(filters: int, chosen: int) -> Tensor:
        return torch.from_numpy(np.isin(np.arange(filters), rng.permutation(filters)[:chosen]))

    sizes = [(8, 5, 5), (6, 5, 3), (12, 1, 4), (4, 0, 2)]
    return [mask(c, a) for c, a, _ in sizes], [mask(c, b) for c, _, b in sizes]


def test_overlap_and_jaccard_by_hand() -> None:
    first, second = random_masks(0)
    shared = sum(
        len(set(a.nonzero().flatten().tolist()) & set(b.nonzero().flatten().tolist()))
        for a, b in zip(first, second, strict=True)
    )
    union = sum(int((a | b).sum()) for a, b in zip(first, second, strict=True))
    found = set_overlap(first, second)
    assert found.overlap == pytest.approx(shared / 25)
    assert found.jaccard == pytest.approx(shared / union)


def test_equal_sets_reach_the_largest_values() -> None:
    masks = random_masks(1)[0]
    found = set_overlap(masks, masks)
    assert (found.overlap, found.jaccard) == (0.5, 1.0)


def test_chance_is_what_shuffling_gives() -> None:
    first, second = random_masks(2)
    found = set_overlap(first, second)
    drawn = permuted_overlap(first, second, 4000)
    assert_chances(found, drawn)


def assert_chances(found: Overlap, drawn: Tensor) -> None:
    error = 4 * drawn.std(0) / len(drawn) ** 0.5
    for value, expected, allowed in zip(
        drawn.mean(0), (found.overlap_chance, found.jaccard_chance), error, strict=True
    ):
        assert value.item() == pytest.approx(expected, abs=allowed.item())
    above = (drawn[:, 0] > found.overlap_limit + 1e-9).double().mean().item()
    assert above <= 0.05 + 4 * (0.05 * 0.95 / len(drawn)) ** 0.5


def pools(masks: list[Tensor], seed: int) -> list[Tensor]:
    """What each choice could take: what it took, and half of the rest."""
    generator = torch.Generator().manual_seed(seed)
    return [mask | (torch.rand(len(mask), generator=generator) < 0.5) for mask in masks]


@pytest.mark.parametrize("seed", range(3))
def test_chance_leaves_out_what_could_not_be_chosen(seed: int) -> None:
    first, second = random_masks(seed)
    first_from, second_from = pools(first, seed), pools(second, seed + 10)
    found = set_overlap(first, second, first_from, second_from)
    assert_chances(found, permuted_overlap(first, second, 4000, seed, first_from, second_from))
    assert found.overlap == set_overlap(first, second).overlap


def test_sets_that_both_avoid_dead_filters_agree_by_chance_alone() -> None:
    alive = torch.arange(64) < 5
    found = set_overlap([alive], [alive], [alive], [alive])
    assert (found.overlap, found.overlap_chance, found.jaccard_chance) == (0.5, 0.5, 1.0)
    assert set_overlap([alive], [alive]).overlap_chance < 0.05


def test_a_choice_of_what_could_not_be_chosen_is_refused() -> None:
    mask = torch.tensor([True, False])
    with pytest.raises(ValueError, match="a filter that it could not take"):
        set_overlap([mask], [mask], [~mask], [mask])


def test_chance_of_one_layer_is_hypergeometric() -> None:
    first, second = torch.arange(40) < 7, torch.arange(40) < 11
    law = stats.hypergeom(40, 7, 11)
    number = np.arange(8)
    assert set_overlap([first], [second]).overlap_chance == pytest.approx(law.mean() / 18)
    assert set_overlap([first], [second]).jaccard_chance == pytest.approx(
        (law.pmf(number) * number / (18 - number)).sum()
    )
    assert set_overlap([first], [second]).overlap_limit == pytest.approx(law.ppf(0.95) / 18)


def test_shuffling_is_seeded() -> None:
    first, second = random_masks(3)
    assert permuted_overlap(first, second, 20, seed=1).tolist() == permuted_overlap(first, second, 20, seed=1).tolist()
    assert permuted_overlap(first, second, 20, seed=1).tolist() != permuted_overlap(first, second, 20, seed=2).tolist()


def test_empty_sets_have_no_overlap() -> None:
    empty = [torch.zeros(4, dtype=torch.bool)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(np.isnan(value) for value in set_overlap(empty, empty))


@pytest.mark.parametrize("second", [[], [torch.zeros(3, dtype=torch.bool)], [torch.zeros(4, 1, dtype=torch.bool)]])
def test_masks_that_do_not_fit_are_named(second: list[Tensor]) -> None:
    with pytest.raises(ValueError, match=r"one mask \(C,\) for each layer"):
        set_overlap([torch.zeros(4, dtype=torch.bool)], second)


def test_the_top_filters_leave_nan_out_and_keep_infinity() -> None:
    values = torch.tensor([torch.nan, torch.inf, 1.0, 1.0, -5.0])
    assert top_filters(values, 2).tolist() == [False, True, True, False, False]
    assert top_filters(values, 9).tolist() == [False, True, True, True, True]
    assert top_filters(torch.full((3,), torch.nan), 2).tolist() == [False] * 3
    with pytest.raises(ValueError, match="k=0: give a whole number, at least 1"):
        top_filters(values, 0)
