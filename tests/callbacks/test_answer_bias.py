"""Bias of a classifier's answers."""

from __future__ import annotations

import torch

from convscope.callbacks.parts.answer_bias import AnswerBias


def bias(scores: torch.Tensor, targets: torch.Tensor, chunks: int = 1) -> float:
    found = AnswerBias(scores.shape[1])
    for part, labels in zip(scores.chunk(chunks), targets.chunk(chunks), strict=True):
        found.update(part, labels)
    return float(found.compute())


def test_shares_are_compared_whichever_samples_are_right() -> None:
    targets = torch.arange(12) % 3
    assert bias(torch.eye(3)[targets], targets) == 0
    assert bias(torch.eye(3)[targets.roll(1)], targets) == 0
    one = torch.eye(3)[torch.zeros(12, dtype=torch.long)]
    assert abs(bias(one, targets) - 2 / 3) < 1e-6


def test_scores_are_taken_as_logits_log_probabilities_and_probabilities() -> None:
    scores, targets = torch.randn(40, 4, dtype=torch.float64), torch.randint(4, (40,))
    shares = torch.bincount(targets, minlength=4) / 40
    expected = float((scores.softmax(1).mean(0) - shares).abs().sum() / 2)
    for given in (scores, scores.log_softmax(1), scores.softmax(1)):
        assert abs(bias(given, targets) - expected) < 1e-6


def test_weights_of_classes_show_in_a_network_that_knows_nothing() -> None:
    targets = torch.arange(40) % 4
    even, weighted = torch.zeros(40, 4), torch.tensor([9.0, 1.0, 9.0, 1.0]).log().expand(40, 4)
    assert bias(even, targets) < 1e-6
    assert abs(bias(weighted, targets) - 0.4) < 1e-6


def test_chunks_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(30, 5, generator=generator), torch.randint(5, (30,), generator=generator)
    assert abs(bias(scores, targets) - bias(scores, targets, chunks=7)) < 1e-7


def test_targets_that_are_no_places_among_the_scores_have_no_bias() -> None:
    assert bias(torch.eye(3), torch.tensor([0, 1, 500])) != bias(torch.eye(3), torch.tensor([0, 1, 500]))
