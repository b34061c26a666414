"""Probability of a class for each sample, from a model's output."""

from __future__ import annotations

from typing import Literal

import torch

from convscope._arguments import refuse, whole_number
from convscope.capture.outputs.choice import Outputs

Target = Literal["label", "predicted"] | int


def check_target(target: Target) -> Target:
    """``"label"``, ``"predicted"`` or the number of a class.

    Raises:
        ValueError: if it is something else.
    """
    if isinstance(target, str) and target in ("label", "predicted"):
        return target
    try:
        return whole_number("target", target, least=0)
    except ValueError:
        raise refuse("target", target, "'label', 'predicted' or the number of a class, from 0") from None


def why_no_probability(outputs: Outputs, target: Target) -> str | None:
    """A sentence that says why the output gives no probability of that class for each sample; None if it does.

    Raises:
        ValueError: if the target is none of the classes.
    """
    if outputs.shape is None:
        return "the model's output is not one row per sample"
    if outputs.task == "quantities":
        return "the model predicts quantities, and influence is on the probability of a class"
    if len(outputs.shape) > 1:
        return "the model predicts a class for each position, and influence is on one probability per sample"
    if target == "label" and outputs.task == "labels":
        return "a sample has several labels; InputResampling(target=<number>) looks at one of them"
    classes = outputs.shape[0] if outputs.task == "labels" else max(outputs.shape[0], 2)
    if isinstance(target, int) and target >= classes:
        raise ValueError(f"target={target}: give a class from 0 to {classes - 1}, 'label' or 'predicted'")
    return None


def class_probabilities(outputs: Outputs, values: torch.Tensor) -> torch.Tensor:
    """Probabilities ``(n, K)`` of classes, or of each of several labels, from a model's outputs ``(n, K)``; for a
    single label ``(n, 2)``. In float32 or better.
    """
    logits = outputs.logits(values)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if outputs.task == "labels":
        return logits.sigmoid()
    if logits.shape[1] == 1:
        return torch.cat([(-logits).sigmoid(), logits.sigmoid()], dim=1)
    return logits.softmax(1)
