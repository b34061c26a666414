"""Signal for dead layers in a rehearsal: something of each row's input is added to its output."""

from __future__ import annotations

import torch

from convscope.capture.network.follower import Event


def enlivened(event: Event) -> torch.Tensor | None:
    """The output of a convolution, norm, activation or linear map with a trace of each input row in the output's row.

    These operations leave rows where they are. So the effect of a later operation on rows shows, however dead the layer
    is. None for any other operation or output.
    """
    output = event.output
    if event.kind == "other" and event.key.operation != "linear":
        return None
    if not isinstance(output, torch.Tensor) or not output.is_floating_point() or output.numel() == 0:
        return None
    source = next((tensor for tensor in event.inputs if tensor.dim() > 0 and len(tensor) == len(output)), None)
    if source is None or not (source.is_floating_point() or source.is_complex()):
        return None
    own = _fingerprint(source).to(output.device)
    # A pattern over positions: a constant would vanish in a norm or a difference that follows.
    pattern = torch.cos(3.0 * torch.arange(output[0].numel(), device=output.device, dtype=torch.float32))
    trace = (own[:, None] * pattern).view(output.shape)
    values = output.detach().to(torch.float32)
    # As large as the layer's own values, so that an activation that follows does not cut it off; 0.1 for a layer of
    # zeros.
    size = 0.1 + torch.nan_to_num(values.square().mean().sqrt(), posinf=0.0)
    return (values + size * trace).to(output.dtype)


def _fingerprint(rows: torch.Tensor) -> torch.Tensor:
    """``(rows,)`` in [-1, 1], different for different rows, whatever their scale.

    It grows as slowly as its input: many layers deep, rounding errors must not pass for differences.
    """
    flat = torch.view_as_real(rows).flatten(1) if rows.is_complex() else rows.detach().flatten(1)
    flat = torch.nan_to_num(flat.to(torch.float32), posinf=0.0, neginf=0.0)
    # Squared places: with evenly spaced phases, rows that are shifts of each other could give one sum.
    weights = torch.cos(1.7 * torch.arange(flat.shape[1], device=flat.device, dtype=torch.float32).square())
    norm = torch.linalg.vector_norm(flat, dim=1)
    return torch.sin((flat @ weights) / (norm + 1e-12) + torch.log1p(norm))
