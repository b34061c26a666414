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
        return "the model predicts quantities, and the probability of a class is needed"
    if len(outputs.shape) > 1:
        return "the model predicts a class for each position, and one probability per sample is needed"
    if target == "label" and outputs.task == "labels":
        return "a sample has several labels; target=<number> looks at one of them"
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


def class_logits(outputs: Outputs, values: torch.Tensor) -> torch.Tensor:
    """Logits ``(n, K)`` of classes or labels, from a model's outputs ``(n, K)``; of a single logit ``(n, 2)``, that of
    each class against the other. In float32 or better.
    """
    logits = outputs.logits(values)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.cat([-logits, logits], dim=1) if logits.shape[1] == 1 and outputs.task != "labels" else logits


def chosen_classes(
    outputs: Outputs, target: Target, values: torch.Tensor, targets: torch.Tensor | None
) -> torch.Tensor:
    """Class ``(n,)`` whose probability is looked at in each sample; negative if its label is ignored."""
    if isinstance(target, int):
        return torch.full((len(values),), target, device=values.device)
    if target == "predicted" or targets is None:
        return class_probabilities(outputs, values).argmax(1)
    return outputs.true_classes(targets)
