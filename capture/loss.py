"""The loss whose gradient importance needs: inferred from outputs and targets, or the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from convscope.capture.modules import tensors_in

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class NoLossError(ValueError):
    """No loss can be inferred from outputs and targets of these shapes: the task is none of the usual ones."""


def logits_of(output: Any) -> torch.Tensor:
    """The logits in what a model returned: a tensor, ``.logits``, ``["logits"]``, ``["out"]`` or the first tensor.

    Raises:
        TypeError: There is no floating-point tensor in ``output``.
    """
    if isinstance(output, torch.Tensor):
        return output
    for name in ("logits", "out"):
        found = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
        if isinstance(found, torch.Tensor):
            return found
    fields = output if isinstance(output, dict | list | tuple) else getattr(output, "__dict__", {})
    found = next((t for t in tensors_in(fields) if t.is_floating_point()), None)
    if found is None:
        raise TypeError(
            f"the model returned {type(output).__name__}, in which no logits were found; "
            "return a tensor, a tuple or dict of tensors, or an object with .logits"
        )
    return found


def infer_loss(logits: torch.Tensor, targets: torch.Tensor) -> Loss:
    """Choose a summed loss from the shapes and types of one batch.

    ==========================================  =================================================
    targets                                     loss
    ==========================================  =================================================
    integers ``(N, *S)``, logits ``(N, K, *S)`` cross-entropy (of probabilities, if the outputs are such)
    integers or floats in {0, 1}, one logit     binary cross-entropy with logits
    floats ``(N, K)`` in {0, 1}                 binary cross-entropy with logits (multi-label)
    floats ``(N, K)``, rows that sum to one     cross-entropy with soft targets
    floats of the logits' shape                 squared error
    ==========================================  =================================================

    Raises:
        NoLossError: None of these fits.
        ValueError: An integer label is outside ``[0, K)``.
    """
    if not targets.is_floating_point():
        return _loss_for_classes(logits, targets)
    if targets.numel() != logits.numel():
        raise NoLossError(_no_loss(logits, targets))
    if logits.dim() > 1 and logits.shape[1] > 1 and _rows_are_probabilities(targets) and not _binary(targets):
        return _cross_entropy
    return _binary_cross_entropy if _binary(targets) else _squared_error


def summed(loss: Loss) -> Loss:
    """A user's loss as a sum over samples, so that each sample's gradient is its own.

    Per-sample values ``(N,)`` are added up; a scalar is taken as the mean over samples (what
    ``torch.nn`` losses return by default) unless the loss says ``reduction="sum"``.
    """

    def total(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value = loss(logits, targets)
        if value.dim() == 0 and getattr(loss, "reduction", "mean") != "sum":
            return value * len(targets)
        return value.sum()

    return total


def _loss_for_classes(logits: torch.Tensor, targets: torch.Tensor) -> Loss:
    classes = logits.shape[1] if logits.dim() > 1 else 1
    if classes == 1:
        check_labels(targets, 2)
        return _binary_cross_entropy
    if targets.shape == logits.shape and _binary(targets):
        return _binary_cross_entropy
    if (targets.shape[0], *targets.shape[1:]) != (logits.shape[0], *logits.shape[2:]):
        raise NoLossError(_no_loss(logits, targets))
    check_labels(targets, classes)
    return _nll_of_probabilities if _outputs_are_probabilities(logits) else _cross_entropy


def check_labels(targets: torch.Tensor, classes: int) -> None:
    """Raise ``ValueError`` where a class index lies outside ``[0, classes)``; -100 is the field's "ignore"."""
    valid = targets[targets != -100]
    if len(valid) and (int(valid.min()) < 0 or int(valid.max()) >= classes):
        raise ValueError(
            f"held-out labels lie in [{int(valid.min())}, {int(valid.max())}], but the model has {classes} "
            f"outputs, so labels must be in [0, {classes - 1}]; mend the labels or the adapter, "
            "or pass loss= if some are to be ignored"
        )


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(*_one_row_a_position(logits.float(), targets), reduction="sum")


def _nll_of_probabilities(probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logs = probabilities.float().clamp_min(1e-12).log()
    return F.nll_loss(*_one_row_a_position(logs, targets), reduction="sum")


def _one_row_a_position(scores: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``(N, K, *S)`` and class indices ``(N, *S)`` as rows: of maps a GPU has no deterministic kernel."""
    if scores.dim() == 2 or targets.is_floating_point():
        return scores, targets
    return scores.movedim(1, -1).flatten(0, -2), targets.flatten()


def _binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    shaped = targets.reshape(logits.shape).float()
    return F.binary_cross_entropy_with_logits(logits.float(), shaped, reduction="sum")


def _squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(outputs.float(), targets.reshape(outputs.shape).float(), reduction="sum")


def _binary(targets: torch.Tensor) -> bool:
    return bool(((targets == 0) | (targets == 1)).all())


def _rows_are_probabilities(rows: torch.Tensor) -> bool:
    sums = rows.float().sum(1)
    return bool((rows >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def _outputs_are_probabilities(logits: torch.Tensor) -> bool:
    return _rows_are_probabilities(logits.detach())


def _no_loss(logits: torch.Tensor, targets: torch.Tensor) -> str:
    return (
        f"no loss can be inferred from outputs {tuple(logits.shape)} and targets {tuple(targets.shape)} of "
        f"{targets.dtype}; pass loss=, a callable(outputs, targets) that returns one value a sample"
    )
