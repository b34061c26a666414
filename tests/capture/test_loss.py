"""The loss is inferred from outputs and targets as a practitioner would choose it, or is the user's own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.capture.data.targets import LabelForm, summarise_targets
from convscope.capture.outputs.loss import Loss, inferred_loss, is_of_logits, own_loss, try_loss
from convscope.capture.outputs.parts import logits_of
from convscope.capture.outputs.sample_loss import sample_losses
from convscope.capture.outputs.verdict import Runs, settle_outputs

torch.manual_seed(0)
N, K = 6, 4
LOGITS = torch.randn(N, K)
CLASSES = torch.arange(N) % K
SOFT = torch.softmax(torch.randn(N, K), 1)
DENSE = torch.randn(N, K, 3, 3)
BITWISE = F.binary_cross_entropy_with_logits(LOGITS, (LOGITS > 0.3).float(), reduction="sum")
BITS = torch.tensor([0, 1, 1, 0, 1, 0])
ONE_HOT = F.cross_entropy(LOGITS, CLASSES, reduction="sum")
CPU = torch.device("cpu")
AS_IT_IS = LabelForm()


def inferred(outputs: torch.Tensor, targets: torch.Tensor, form: LabelForm = AS_IT_IS) -> Loss:
    verdict = settle_outputs(Runs([outputs[:1], outputs], [1, N]), summarise_targets(targets, form))
    loss = inferred_loss(verdict)
    assert loss is not None, verdict
    return lambda z, y: loss(verdict.take(z), form.canonical(y))


def own(loss: Any, form: LabelForm = AS_IT_IS, ignored: bool = False) -> Loss:
    return own_loss(loss, form, ignored, CPU)


@pytest.mark.parametrize(
    ("logits", "targets", "expected"),
    [
        (LOGITS, CLASSES, ONE_HOT),
        (LOGITS, CLASSES.to(torch.int16), ONE_HOT),
        (LOGITS, CLASSES[:, None], ONE_HOT),
        (LOGITS[..., None, None], CLASSES, ONE_HOT),
        (LOGITS, F.one_hot(CLASSES), ONE_HOT),
        (LOGITS, F.one_hot(CLASSES).bool(), ONE_HOT),
        (LOGITS, F.one_hot(CLASSES).float(), ONE_HOT),
        (LOGITS, SOFT, F.cross_entropy(LOGITS, SOFT, reduction="sum")),
        (torch.softmax(LOGITS, 1), CLASSES, ONE_HOT),
        (torch.log_softmax(LOGITS, 1), CLASSES, ONE_HOT),
        (DENSE, DENSE.argmax(1), F.cross_entropy(DENSE, DENSE.argmax(1), reduction="sum")),
        (DENSE.movedim(1, -1), DENSE.argmax(1), F.cross_entropy(DENSE, DENSE.argmax(1), reduction="sum")),
        (LOGITS[:, :1], BITS, F.binary_cross_entropy_with_logits(LOGITS[:, 0], BITS.float(), reduction="sum")),
        (LOGITS[:, 0], BITS, F.binary_cross_entropy_with_logits(LOGITS[:, 0], BITS.float(), reduction="sum")),
        (LOGITS[:, :1], BITS.bool(), F.binary_cross_entropy_with_logits(LOGITS[:, 0], BITS.float(), reduction="sum")),
        (LOGITS[:, :1], BITS.float(), F.binary_cross_entropy_with_logits(LOGITS[:, 0], BITS.float(), reduction="sum")),
        (LOGITS, (LOGITS > 0.3).float(), BITWISE),
        (LOGITS, (LOGITS > 0.3).long(), BITWISE),
        (LOGITS, LOGITS * 2 + 1, F.mse_loss(LOGITS, LOGITS * 2 + 1, reduction="sum")),
        (LOGITS[:, :1], LOGITS[:, 1], F.mse_loss(LOGITS[:, 0], LOGITS[:, 1], reduction="sum")),
    ],
    ids=[
        "classes", "int16", "(N, 1)", "unflattened head", "one-hot", "one-hot bool", "one-hot floats", "soft",
        "probabilities", "log-probabilities", "dense", "classes last", "one logit", "squeezed", "one logit, bool",
        "one logit, floats", "multi-label", "multi-label integers", "regression", "regression, vector",
    ],
)  # fmt: skip
def test_inferred(logits: torch.Tensor, targets: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(inferred(logits, targets)(logits, targets), expected)


def test_half_precision_is_summed_in_float32_and_double_in_double() -> None:
    half = LOGITS.bfloat16()
    loss = inferred(half, CLASSES)(half, CLASSES)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(half.float(), CLASSES, reduction="sum"))
    assert inferred(LOGITS.double(), CLASSES)(LOGITS.double(), CLASSES).dtype == torch.float64


SIGNS = 2 * BITS - 1


@pytest.mark.parametrize("signs", [SIGNS, SIGNS.float(), SIGNS[:, None].to(torch.int8)])
def test_signs_are_two_classes_whose_loss_is_logistic(signs: torch.Tensor) -> None:
    form, logits = LabelForm(signs=True), LOGITS[:, :1]
    summary = summarise_targets(signs)
    assert summary is not None
    assert summary.signs
    verdict = settle_outputs(Runs([logits], [N]), summary.with_signs_as_classes())
    loss = inferred_loss(verdict)
    assert loss is not None
    expected = F.soft_margin_loss(logits[:, 0], SIGNS.float(), reduction="sum")
    torch.testing.assert_close(loss(logits, form.canonical(signs)), expected)
    hinge = own(lambda z, y: F.relu(1 - z[:, 0] * y.flatten()), form)
    torch.testing.assert_close(hinge(logits, form.canonical(signs)), F.relu(1 - logits[:, 0] * SIGNS).sum())


MARKED = torch.tensor([[0, 255, 3], [255, 255, 255], [1, 2, 255], [0, 0, 1], [3, 3, 3], [2, 1, 0]])
IN_PLACES = torch.randn(N, K, 3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.int32])
def test_an_ignored_label_counts_in_no_loss(dtype: torch.dtype) -> None:
    form, targets = LabelForm(ignore_index=255), MARKED.to(dtype)
    expected = F.cross_entropy(IN_PLACES, MARKED, ignore_index=255, reduction="sum")
    loss = inferred(IN_PLACES, targets, form)
    torch.testing.assert_close(loss(IN_PLACES, targets), expected)
    each = sample_losses(loss, IN_PLACES, targets)
    assert each[1] == 0
    torch.testing.assert_close(each.sum(), expected)


@pytest.mark.parametrize("shape", [(1, 3), (3,)])
def test_an_ignored_position_counts_in_no_binary_loss(shape: tuple[int, ...]) -> None:
    form, outputs = LabelForm(ignore_index=255), torch.randn(N, *shape)
    targets = torch.tensor([[0, 1, 255], [255, 255, 255], [1, 1, 0], [0, 0, 1], [1, 255, 0], [0, 1, 0]])
    counted = targets != 255
    expected = F.binary_cross_entropy_with_logits(
        outputs.view(N, 3)[counted], targets[counted].float(), reduction="sum"
    )
    torch.testing.assert_close(inferred(outputs, targets, form)(outputs, targets), expected)


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(ignore_index=255),
        partial(F.cross_entropy, ignore_index=255),
        lambda z, y: F.cross_entropy(z, y, ignore_index=255, reduction="none").sum(1) / 3,
    ],
)
def test_an_ignored_label_counts_in_no_loss_of_the_users(loss: Any) -> None:
    """Whether the loss itself calls it 255, or knows no more than -100."""
    form = LabelForm(ignore_index=255)
    total, canonical = own(loss, form, ignored=True), form.canonical(MARKED)
    expected = F.cross_entropy(IN_PLACES, MARKED, ignore_index=255, reduction="sum") / 3
    torch.testing.assert_close(total(IN_PLACES, canonical), expected)
    parts = [total(IN_PLACES[i : i + 1], canonical[i : i + 1]) for i in range(N)]
    assert parts[1] == 0  # nothing counts there: a plain mean would be NaN
    torch.testing.assert_close(torch.stack(parts).sum(), expected)


@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        (nn.CrossEntropyLoss(), 1.0),
        (nn.CrossEntropyLoss(reduction="sum"), 1.0),
        (nn.CrossEntropyLoss(reduction="none"), 1.0),
        (F.cross_entropy, 1.0),
        (partial(F.cross_entropy, reduction="sum"), 1.0),
        (lambda z, y: 3 * F.cross_entropy(z, y), 3.0),
        (lambda z, y: 3 * F.cross_entropy(z, y, reduction="none"), 3.0),
        (lambda z, y: F.cross_entropy(z, y)[None], 1.0),
    ],
)
def test_the_users_loss_counts_each_sample_once(loss: Callable[..., torch.Tensor], factor: float) -> None:
    whole = own(loss)(LOGITS, CLASSES)
    torch.testing.assert_close(whole, factor * F.cross_entropy(LOGITS, CLASSES, reduction="sum"))
    parts = sum(own(loss)(LOGITS[part], CLASSES[part]) for part in (slice(0, 1), slice(1, 6)))
    torch.testing.assert_close(parts, whole)


def test_class_weights_count_alike_however_samples_are_divided() -> None:
    """A weighted mean over a batch would weigh a sample by which others are in the batch."""
    weights = torch.tensor([1.0, 5.0, 0.5, 2.0])
    total = own(nn.CrossEntropyLoss(weight=weights))
    parts = sum(total(LOGITS[part], CLASSES[part]) for part in (slice(0, 1), slice(1, 6)))
    torch.testing.assert_close(parts, (weights[CLASSES] * F.cross_entropy(LOGITS, CLASSES, reduction="none")).sum())


def test_a_loss_with_weights_elsewhere_is_copied_and_itself_left_there() -> None:
    placed = nn.CrossEntropyLoss(weight=torch.ones(K))
    total = own_loss(placed, LabelForm(), False, torch.device("meta"))
    assert total(torch.ones(2, K, device="meta"), torch.zeros(2, dtype=torch.long, device="meta")).device.type == "meta"
    assert placed.weight is not None
    assert placed.weight.device.type == "cpu"


def crashes(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    raise ZeroDivisionError("boom")


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (crashes, r"loss=crashes cannot be used: on 6 held-out samples, .*failed \(ZeroDivisionError: boom\)"),
        (nn.BCEWithLogitsLoss(), r"loss=BCEWithLogitsLoss cannot be used: .*failed \(ValueError: Target size"),
        (lambda z, y: 3.0, "returned a float and not a tensor"),
        (lambda z, y: None, "returned a NoneType and not a tensor"),
        (lambda z, y: z.sum().detach(), "returned a value without a gradient"),
        (lambda z, y: z.sum() * torch.nan, "returned NaN or an infinite value"),
        (lambda z, y: z.mean(0), r"returned shape \(4,\)"),
        (lambda z, y: (z.argmax(1) == y).sum(), "returned torch.int64"),
        (lambda z, y: torch.ones(1, requires_grad=True).sum(), "returned a value that does not depend on the outputs"),
        (lambda z, y: ((z - z) ** 0.5).sum(), "has a gradient that is NaN or infinite"),
    ],
)
def test_a_loss_that_cannot_be_used_is_refused_with_its_reason(loss: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason + r".*; give a callable\(outputs, targets\) that returns one value"):
        try_loss(loss, own(loss), LabelForm(), LOGITS, CLASSES, nullcontext)


def test_one_value_for_each_pair_of_samples_is_refused() -> None:
    def crossed(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return z[:, :1] - y

    with pytest.raises(ValueError, match=r"returned shape \(6, 6\)"):
        try_loss(crossed, own(crossed), LabelForm(), LOGITS, CLASSES, nullcontext)


def test_one_value_for_each_position_is_none_too_many() -> None:
    single, outputs = partial(F.cross_entropy, reduction="none"), DENSE
    for targets in (DENSE.argmax(1), DENSE.softmax(1)):
        try_loss(single, own(single), LabelForm(), outputs, targets, nullcontext)


SHAPES = {
    "one number": (torch.randn(N), torch.randn(N)),
    "one logit": (torch.randn(N), BITS.float()),
    "a column": (torch.randn(N, 1), torch.randn(N, 1)),
    "classes last": (DENSE.movedim(1, -1), DENSE.argmax(1)),
    "unflattened": (LOGITS[..., None, None], CLASSES),
    "binary masks": (torch.randn(N, 3, 3), torch.randint(0, 2, (N, 3, 3))),
    "classes": (LOGITS, CLASSES),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_the_users_loss_gets_the_axes_that_the_model_returns(kind: str) -> None:
    outputs, targets = SHAPES[kind]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def loss(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append((z, y))
        return z.flatten(1).square().sum(1) if z.dim() > 1 else z.square()

    found = settle_outputs(Runs([outputs[:1], outputs], [1, N]), summarise_targets(targets))
    total = own_loss(loss, AS_IT_IS, False, CPU, found)
    try_loss(loss, total, AS_IT_IS, found.take(outputs), targets, nullcontext, found)
    assert len(seen) == 2
    for z, y in seen:
        torch.testing.assert_close(z, outputs)
        torch.testing.assert_close(y, targets)


@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(), partial(F.cross_entropy, weight=None)])
def test_a_loss_of_logits_is_known(loss: Any) -> None:
    try_loss(loss, own(loss), LabelForm(), LOGITS, CLASSES, nullcontext)
    assert is_of_logits(loss)
    assert not is_of_logits(F.mse_loss)
    assert not is_of_logits(lambda z, y: loss(z, y))


@pytest.mark.parametrize("output", [3, "cat", {}, {"ids": torch.arange(3)}])
def test_no_logits_in_the_output(output: Any) -> None:
    with pytest.raises(TypeError, match="in which no logits were found"):
        logits_of(output)
