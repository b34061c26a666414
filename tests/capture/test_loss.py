"""The loss is inferred from outputs and targets as a practitioner would choose it, or is the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.capture.loss import NoLossError, infer_loss, logits_of, summed

torch.manual_seed(0)
N, K = 6, 4
LOGITS = torch.randn(N, K)
CLASSES = torch.arange(N) % K
SOFT = torch.softmax(torch.randn(N, K), 1)
DENSE = torch.randn(N, K, 3, 3)
BITWISE = F.binary_cross_entropy_with_logits(LOGITS, (LOGITS > 0.3).float(), reduction="sum")
BITS = torch.tensor([0, 1, 1, 0, 1, 0])


@pytest.mark.parametrize(
    ("logits", "targets", "expected"),
    [
        (LOGITS, CLASSES, F.cross_entropy(LOGITS, CLASSES, reduction="sum")),
        (LOGITS, SOFT, F.cross_entropy(LOGITS, SOFT, reduction="sum")),
        (torch.softmax(LOGITS, 1), CLASSES, F.cross_entropy(LOGITS, CLASSES, reduction="sum")),
        (torch.log_softmax(LOGITS, 1), CLASSES, F.cross_entropy(LOGITS, CLASSES, reduction="sum")),
        (DENSE, DENSE.argmax(1), F.cross_entropy(DENSE, DENSE.argmax(1), reduction="sum")),
        (LOGITS[:, :1], BITS, F.binary_cross_entropy_with_logits(LOGITS[:, 0], BITS.float(), reduction="sum")),
        (LOGITS[:, :1], BITS.float(), F.binary_cross_entropy_with_logits(LOGITS[:, 0], BITS.float(), reduction="sum")),
        (LOGITS, (LOGITS > 0.3).float(), BITWISE),
        (LOGITS, (LOGITS > 0.3).long(), BITWISE),
        (LOGITS, LOGITS * 2 + 1, F.mse_loss(LOGITS, LOGITS * 2 + 1, reduction="sum")),
        (LOGITS[:, :1], LOGITS[:, 1], F.mse_loss(LOGITS[:, 0], LOGITS[:, 1], reduction="sum")),
    ],
    ids=[
        "classes", "soft", "probabilities", "log-probabilities", "dense", "one logit", "one logit, floats",
        "multi-label", "multi-label integers", "regression", "regression, vector",
    ],
)  # fmt: skip
def test_inferred(logits: torch.Tensor, targets: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(infer_loss(logits, targets)(logits, targets), expected)


def test_half_precision_is_summed_in_float32() -> None:
    half = LOGITS.bfloat16()
    loss = infer_loss(half, CLASSES)(half, CLASSES)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(half.float(), CLASSES, reduction="sum"))


@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        (nn.CrossEntropyLoss(), 1.0),
        (nn.CrossEntropyLoss(reduction="sum"), 1.0),
        (nn.CrossEntropyLoss(reduction="none"), 1.0),
        (F.cross_entropy, 1.0),
        (lambda z, y: 3 * F.cross_entropy(z, y), 3.0),
    ],
)
def test_the_users_loss_counts_each_sample_once(loss: Callable[..., torch.Tensor], factor: float) -> None:
    whole = summed(loss)(LOGITS, CLASSES)
    torch.testing.assert_close(whole, factor * F.cross_entropy(LOGITS, CLASSES, reduction="sum"))
    parts = sum(summed(loss)(LOGITS[part], CLASSES[part]) for part in (slice(0, 1), slice(1, 6)))
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize(
    ("logits", "targets"), [(LOGITS, torch.randn(N, 2)), (DENSE, CLASSES), (LOGITS, DENSE.argmax(1))]
)
def test_no_loss_fits(logits: torch.Tensor, targets: torch.Tensor) -> None:
    with pytest.raises(NoLossError, match=r"no loss can be inferred from outputs .* and targets .*; pass loss="):
        infer_loss(logits, targets)


def test_labels_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"labels lie in \[0, 7\], but the model has 4 outputs.*pass loss="):
        infer_loss(LOGITS, torch.tensor([0, 1, 7, 2, 3, 0]))
    ignored = torch.tensor([0, 1, -100, 2, 3, 0])
    expected = F.cross_entropy(LOGITS, ignored, reduction="sum")
    torch.testing.assert_close(infer_loss(LOGITS, ignored)(LOGITS, ignored), expected)


@pytest.mark.parametrize("output", [3, "cat", {}, {"ids": torch.arange(3)}])
def test_no_logits_in_the_output(output: Any) -> None:
    with pytest.raises(TypeError, match="in which no logits were found"):
        logits_of(output)
