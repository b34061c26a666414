"""The loss whose gradient importance needs: inferred from the settled output and targets, or the user's own."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from convscope.capture.data.targets import IGNORED, LabelForm
from convscope.capture.outputs.choice import Outputs

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_AS_IT_IS = Outputs()

_OF_LOGITS = ("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss")
_OF_LOGITS_MODULES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)


def inferred_loss(outputs: Outputs) -> Loss | None:
    """A loss summed over samples for settled outputs, None if it is not known. Ignored labels are not counted.

    ==========================================  =================================================
    outputs and targets                         loss
    ==========================================  =================================================
    a logit per class, class indices            cross-entropy (of probabilities, if the outputs are such)
    a logit per class, one-hot or shares        cross-entropy
    one logit, 0 and 1                          binary cross-entropy with logits (or of a probability)
    a logit per label, several may hold         binary cross-entropy with logits (or of probabilities)
    quantities                                  squared error
    ==========================================  =================================================
    """
    if outputs.task is None or outputs.why_not or outputs.mistake:
        return None
    if outputs.task == "quantities":
        return _squared_error
    return functools.partial(_cross_entropy if outputs.task == "classes" else _binary_cross_entropy, outputs)


def own_loss(loss: Loss, form: LabelForm, ignored: bool, device: torch.device, verdict: Outputs = _AS_IT_IS) -> Loss:
    """A user's loss as a sum over samples, so that each sample's gradient is its own.

    Losses of ``torch.nn`` that average give single values instead, which are averaged over each sample. For any other
    loss, values ``(N,)`` are added up, and a scalar is taken as the mean over samples unless the loss has
    ``reduction="sum"``.

    Args:
        loss: The user's loss.
        form: Conversion of the targets; the loss gets them as the user's data has them.
        ignored: Some held-out labels are ignored: the loss does not get samples without any other label.
        device: Device on which it will be computed; a loss with weights elsewhere is copied there.
        verdict: Conversion of the outputs; the loss gets them as the model returns them.
    """
    placed = _placed(loss, device)
    single, marked = _of_single_values(placed), _ignored_by(placed)

    def total(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if ignored and targets.dim() > 0:
            counted = (targets != IGNORED).flatten(1).any(1) if targets.dim() > 1 else targets != IGNORED
            if not bool(counted.any()):
                return outputs.sum() * 0
            outputs, targets = outputs[counted], targets[counted]
        value = single(verdict.restored(outputs), form.restored(targets, marked))
        return _summed(value, placed, len(targets), single is not placed)

    return total


def is_of_logits(loss: Loss | None) -> bool:
    """Return whether a user's loss is one of ``torch.nn`` that takes logits, so that the outputs must be such."""
    inner = loss.func if isinstance(loss, functools.partial) else loss
    if isinstance(inner, nn.Module):
        return isinstance(inner, _OF_LOGITS_MODULES)
    return getattr(inner, "__module__", "") == F.__name__ and getattr(inner, "__name__", "") in _OF_LOGITS


def try_loss(
    loss: Loss,
    total: Loss,
    form: LabelForm,
    outputs: torch.Tensor,
    targets: torch.Tensor,
    precision: Any,
    verdict: Outputs = _AS_IT_IS,
) -> None:
    """Compute a user's loss on a few samples, and its gradient.

    Args:
        loss: As the user gave it.
        total: The same as a sum over samples, from :func:`own_loss`.
        form: Conversion of the targets.
        outputs: ``(n, K, *S)`` of the model.
        targets: ``(n, ...)``.
        precision: Context in which losses are computed.
        verdict: Conversion of the outputs.

    Raises:
        ValueError: if it fails, or gives nothing that has a gradient.
    """
    asked, known = verdict.restored(outputs), form.restored(targets, _ignored_by(loss))
    given = f"outputs {tuple(asked.shape)} of {outputs.dtype} and targets {tuple(targets.shape)} of {targets.dtype}"
    said = f"loss={_name(loss)} cannot be used: on {len(outputs)} held-out samples, {given}, it"
    needed = "give a callable(outputs, targets) that returns one value per sample, or their mean"
    leaf = outputs.detach().requires_grad_()
    opened: AbstractContextManager[Any] = precision()
    try:
        with torch.enable_grad(), opened:
            value = _placed(loss, outputs.device)(verdict.restored(leaf * 1), known)
            problem = _problem(value, outputs, targets)
            whole = None if problem else total(leaf * 1, targets)
        gradient = None if whole is None else torch.autograd.grad(whole, leaf, allow_unused=True)[0]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{said} failed ({type(error).__name__}: {error}); {needed}") from error
    if problem is None and gradient is None:
        problem = "returned a value that does not depend on the outputs"
    if problem is None and gradient is not None and not bool(torch.isfinite(gradient).all()):
        problem = "has a gradient that is NaN or infinite"
    if problem is not None:
        raise ValueError(f"{said} {problem}; {needed}")


def _problem(value: Any, outputs: torch.Tensor, targets: torch.Tensor) -> str | None:
    """The problem with a loss's result for settled outputs and targets, None if there is none."""
    if not isinstance(value, torch.Tensor):
        return f"returned a {type(value).__name__} and not a tensor"
    if value.dim() > 0 and value.numel() > 1 and not _of_samples(value, outputs, targets):
        return f"returned shape {tuple(value.shape)}"
    if not value.is_floating_point():
        return f"returned {value.dtype}"
    if not bool(torch.isfinite(value).all()):
        return "returned NaN or an infinite value"
    return None if value.requires_grad else "returned a value without a gradient (is something detached?)"


def _of_samples(value: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    """Return whether values are one per sample, output, position or target, and not one per pair of samples."""
    if len(value) != len(outputs):
        return False
    of_outputs = outputs[0].numel(), outputs[0, 0].numel()
    return value[0].numel() in (1, *of_outputs, targets[0].numel())


def _summed(value: torch.Tensor, loss: Loss, samples: int, single: bool) -> torch.Tensor:
    if single:  # one value per element: a sample weighs as much as in the mean over elements
        return value.sum() * (samples / max(value.numel(), 1))
    if value.numel() == 1 and value.dim() < 2:
        mean = _reduction(loss) != "sum" and not (value.dim() == 1 and samples == 1)
        return value.sum() * (samples if mean else 1)
    return value.sum()


def _of_single_values(loss: Loss) -> Loss:
    """A torch loss that averages, changed to give single values; any other unchanged."""
    if isinstance(loss, nn.modules.loss._Loss) and _reduction(loss) == "mean" and _splits(type(loss).__name__):
        alone = copy.copy(loss)
        alone.reduction = "none"
        return alone
    inner = loss.func if isinstance(loss, functools.partial) else loss
    known = getattr(inner, "__module__", "") == F.__name__ and _splits(getattr(inner, "__name__", ""))
    if known and _reduction(loss) == "mean" and "reduction" in inspect.signature(inner).parameters:
        single: Loss = functools.partial(loss, **{"reduction": "none"})
        return single
    return loss


def _splits(name: str) -> bool:
    """Return whether a loss is the mean of single elements' values; CTC and the divergence's batch mean are not."""
    return name.lower().replace("_", "") not in ("ctcloss", "kldivloss", "kldiv")


def _reduction(loss: Loss) -> str:
    if isinstance(loss, functools.partial):
        return str(loss.keywords.get("reduction", "mean"))
    return str(getattr(loss, "reduction", "mean"))


def _ignored_by(loss: Loss) -> int | None:
    """The label that a loss ignores, if it has such an attribute."""
    if isinstance(loss, functools.partial):
        named = loss.keywords.get("ignore_index")
        return named if isinstance(named, int) else _ignored_by(loss.func)
    named = getattr(loss, "ignore_index", None)
    if isinstance(named, int) and not isinstance(named, bool):
        return named
    return IGNORED if loss in (F.cross_entropy, F.nll_loss) else None


def _placed(loss: Loss, device: torch.device) -> Loss:
    """The loss itself, or if it has weights on another device a copy on this one."""
    if isinstance(loss, nn.Module):
        tensors = [*loss.parameters(), *loss.buffers()]
        if any(tensor.device != device for tensor in tensors):
            return copy.deepcopy(loss).to(device)
    return loss


def _name(loss: Loss) -> str:
    return str(getattr(loss, "__name__", None) or type(loss).__name__)


def _full(outputs: torch.Tensor) -> torch.Tensor:
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _cross_entropy(verdict: Outputs, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = _full(verdict.logits(outputs))
    if verdict.labels == "shares":
        return F.cross_entropy(logits, targets.to(logits.dtype), reduction="sum")
    classes = targets.argmax(1) if verdict.labels == "one-hot" else targets
    # As rows, one per position: a GPU has no deterministic kernel for maps.
    rows, truth = logits.movedim(1, -1).flatten(0, -2), classes.long().flatten()
    of_probabilities = verdict.form == "probabilities"  # they sum to one already
    loss = F.nll_loss if of_probabilities else F.cross_entropy
    return loss(rows, truth, reduction="sum", ignore_index=IGNORED)


def _binary_cross_entropy(verdict: Outputs, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = _full(verdict.logits(outputs))
    shaped = targets.reshape(logits.shape)
    counted = shaped != IGNORED
    truth = torch.where(counted, shaped, 0).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, truth, weight=counted.to(logits.dtype), reduction="sum")


def _squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    full = _full(outputs)
    return F.mse_loss(full, targets.reshape(outputs.shape).to(full.dtype), reduction="sum")
