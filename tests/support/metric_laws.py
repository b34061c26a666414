"""Draw data for a metric's case, feed it in chunks, and compare results field by field."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tests.support.metric_cases import Case, Drawn, Inputs, K


def drawn(x: Tensor, labels: Tensor) -> Drawn:
    """Gradient, outputs and masks that go with activations ``(N, C, 2, 3)`` and their classes."""
    shadow = x.flip(0).flip(-1) * 0.5 + x.abs()  # neither equal to the activation nor unrelated
    outputs = torch.stack([x[:, 0, 0, 0] * (k + 1) + (labels == k) for k in range(K)], dim=1)
    masks = (labels[:, None, None] + torch.arange(6).view(2, 3)) % K
    return Drawn(x, shadow, labels, outputs, masks)


def draw(seed: int, samples: int, channels: int) -> Drawn:
    """Distinct values a few units large, every class at least twice where there are enough, related to the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % K
    x = torch.randn(samples, channels, 2, 3, generator=generator) + 0.5 * labels.view(-1, 1, 1, 1)
    return drawn(x, labels)


def update(case: Case, metric: Any, inputs: Inputs, rows: Tensor) -> None:
    """Give the metric these samples."""
    metric.update(*(each[rows] for each in inputs), **({"index": rows} if case.indexed else {}))


def result(
    case: Case, channels: int, inputs: Inputs, cuts: list[int] | None = None, order: Tensor | None = None
) -> Any:
    """Feed everything, in chunks that end at ``cuts``, samples in ``order``, and compute."""
    metric = case.make(channels)
    if case.one_shot:
        metric.update(*inputs)
        return metric.compute()
    numbers = torch.arange(len(inputs[0])) if order is None else order
    for start, stop in pairwise(sorted({0, len(numbers), *(cuts or [])})):
        update(case, metric, inputs, numbers[start:stop])
    return metric.compute()


def fields(found: Any) -> dict[str, Tensor]:
    """A result's tensors by name; nested results by the names of their parts, a tensor under the empty name."""
    if isinstance(found, Tensor):
        return {"": found}
    named = found._asdict() if hasattr(found, "_asdict") else dict(enumerate(found))
    flat = {str(name): fields(value) for name, value in named.items()}
    return {inner or outer: tensor for outer, parts in flat.items() for inner, tensor in parts.items()}


def numbers_or_reason(case: Case, channels: int, inputs: Inputs) -> dict[str, Tensor]:
    """A result's tensors; none where it is refused in a sentence."""
    try:
        return fields(result(case, channels, inputs))
    except ValueError as error:
        if len(str(error)) < 20:
            raise
        return {}


def assert_alike(found: Any, expected: Any, rtol: float = 1e-5) -> None:
    """All fields agree, relative to the largest value of each."""
    one, other = fields(found), fields(expected)
    assert one.keys() == other.keys()
    for name in one:
        scale = float(other[name].double().abs().nan_to_num().max()) if other[name].numel() else 1.0
        torch.testing.assert_close(
            one[name].double(),
            other[name].double(),
            rtol=rtol,
            atol=rtol * max(scale, 1e-3),
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )
