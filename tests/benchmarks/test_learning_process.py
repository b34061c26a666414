"""Arithmetic of the learning-process benchmark: augmentation, and the epochs from which on something holds."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.learning_process import _moved
from benchmarks.learning_process_read import learned, rank, settled


def test_images_are_shifted_and_mirrored_within_the_margin() -> None:
    torch.manual_seed(0)
    x = torch.arange(1.0, 2 * 3 * 8 * 6 + 1).reshape(2, 3, 8, 6).repeat(100, 1, 1, 1)
    moved = _moved(x)
    assert moved.shape == x.shape
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    seen = set()
    for one, whole in zip(moved, padded, strict=True):
        crops = {(r, c): whole[:, r : r + 8, c : c + 6] for r in range(9) for c in range(9)}
        places = [(*place, False) for place, crop in crops.items() if torch.equal(one, crop)]
        places += [(*place, True) for place, crop in crops.items() if torch.equal(one, crop.flip(2))]
        assert places  # a crop of the padded image, perhaps mirrored, all channels alike
        seen.add(places[0])
    assert {flip for *_, flip in seen} == {False, True}
    assert {r for r, *_ in seen} == set(range(9)) == {c for _, c, _ in seen}


def test_a_layer_has_settled_once_it_stays_similar() -> None:
    similarity = np.array([[0.2, 0.95, 0.5], [0.95, 0.95, 0.6], [0.8, 0.95, 0.95], [0.95, 1.0, 1.0]])
    assert settled(similarity).tolist() == [4, 1, 3]


def test_a_sample_is_learned_once_it_stays_right() -> None:
    right = np.array([[True, False, True, False], [False, True, True, False], [True, True, True, False]])
    assert learned(right).tolist() == [3, 2, 1, 4]


def test_ranks_pass_over_what_was_not_measured() -> None:
    assert rank(np.array([1.0, 2.0, np.nan, 3.0]), np.array([3.0, 2.0, 9.0, 1.0])) == -1.0
