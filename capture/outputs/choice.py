"""The chosen output of a model: part of its result, meaning of the numbers, and form of the targets.

It is settled once per run, by :func:`~convscope.capture.outputs.verdict.settle_outputs`, and used by everything that
reads logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import torch

from convscope.capture.data.targets import TargetSummary
from convscope.capture.outputs.fit import About, Classes, Labels, OutputTask, Shape, doubtful_label, text_of
from convscope.capture.outputs.parts import PartPath, describe, part_at

Form = Literal["logits", "probabilities"]
NO_TARGETS = "the held-out batches have no targets, so there is no loss to take a gradient of"


@dataclass(frozen=True)
class Outputs:
    """The verdict on a model's output; plain values except a user's function, so that processes can exchange it.

    Attributes:
        path: Place of the output in the model's result, None if a user's function finds it or there is none.
        returned: Shape of one sample's output as the model returns it, None if there is no row per sample.
        shape: ``(K, *S)`` of one sample's output as callbacks see it, None likewise.
        task: Task of the outputs, None if it is not known.
        form: Logits (or log-probabilities, which are logits too), or probabilities.
        labels: Form in which a target names its class.
        last: The model returns the classes on the last axis.
        why_not: Why they are not known to be logits, a sentence; None if they are, or are quantities.
        unclear: Why it is not known which part of the model's result is its output, a sentence.
        mistake: The error that the user must fix before anything is inferred from outputs and targets, a sentence.
        about: Subject of the mistake, as in :class:`~convscope.capture.outputs.fit.Fit`.
        notes: Assumptions, as sentences.
        selector: The user's function, if one finds the output.
    """

    path: PartPath | None = ()
    returned: Shape | None = None
    shape: Shape | None = None
    task: OutputTask | None = None
    form: Form = "logits"
    labels: Labels = "index"
    last: bool = False
    why_not: str | None = None
    unclear: str | None = None
    mistake: str | None = None
    about: About = None
    notes: tuple[str, ...] = ()
    selector: Callable[[Any], Any] | None = field(default=None, compare=False)

    @property
    def classes(self) -> int:
        """Number of classes that the outputs distinguish, with one per sample; 0 if they do not."""
        known = self.task in ("classes", "binary") and not self.why_not and not self.mistake
        if not known or self.shape is None or len(self.shape) > 1:
            return 0
        return max(self.shape[0], 2)

    def take(self, output: Any) -> torch.Tensor:
        """The output ``(n, K, *S)`` of ``n`` samples; ``(n, 0)`` if the model returns none.

        An axis that ``.squeeze()`` has removed, because there was one sample or one logit, is put back.

        Raises:
            ValueError: if the result does not have the settled shape.
        """
        if self.returned is None or self.shape is None:
            return torch.empty(1, 0)
        found = self.selector(output) if self.selector is not None else part_at(output, self.path or ())
        tensor = _with_samples(found, self.returned)
        if self.last:
            return tensor.movedim(-1, 1)
        axes = tensor.shape[1:]
        if len(axes) < len(self.shape):  # one logit without an axis of its own
            return tensor.unsqueeze(1)
        return tensor if len(axes) == len(self.shape) else tensor.flatten(1)

    def restored(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs ``(n, K, *S)`` with the axes that the model returns, as a user's own loss expects them."""
        if self.returned is None or self.shape is None:
            return outputs
        if self.last:
            return outputs.movedim(1, -1)
        if len(self.returned) < len(self.shape):
            return outputs.squeeze(1)
        return outputs if len(self.returned) == len(self.shape) else outputs.reshape(len(outputs), *self.returned)

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs as logits, of which softmax (of a single one: sigmoid) gives the probabilities."""
        if self.form == "logits":
            return outputs
        full = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return torch.logit(full, eps=1e-6) if self.task != "classes" else full.clamp_min(1e-12).log()

    def predicted(self, outputs: torch.Tensor) -> torch.Tensor:
        """Predicted classes ``(*, n)`` of outputs ``(*, n, K)``."""
        if outputs.shape[-1] == 1:
            return (outputs[..., 0] > (0.5 if self.form == "probabilities" else 0)).long()
        return outputs.argmax(-1)

    def doubt(self, summary: TargetSummary | None, classes: Classes, task_is_known: bool) -> str | None:
        """A sentence about why the targets may not be classes, for callbacks that read classes off them.

        Args:
            summary: The targets.
            classes: The classes that the user states.
            task_is_known: True if the user states that the targets are classes.
        """
        if self.mistake and (self.about == "label" or (self.about == "task" and not task_is_known)):
            return self.mistake
        if summary is None or summary.floating or classes is not None or not summary.classes:
            return None
        known = self.task == "classes" and not self.mistake and self.why_not is None
        return None if known else doubtful_label(summary.classes)

    def true_classes(self, targets: torch.Tensor) -> torch.Tensor:
        """Class indices ``(n,)`` of targets; ignored ones stay negative."""
        return targets.argmax(1) if self.labels in ("one-hot", "shares") else targets.reshape(len(targets)).long()


def _with_samples(found: Any, returned: Shape) -> torch.Tensor:
    """The model's result with a first axis for the samples, which ``.squeeze()`` removes for a single one."""
    if isinstance(found, torch.Tensor):
        if found.dim() == len(returned) + 1 and (found.shape[1:] == returned or len(returned) > 1):
            return found  # maps of images of another size may have another size, too
        if found.dim() <= len(returned) and found.numel() % prod(returned) == 0:
            return found.reshape(-1, *returned)
    raise ValueError(
        f"the model's output was {text_of(returned)} for the samples on which it was tried, but is now "
        f"{describe(found)}; its axes must not depend on the samples"
    )
