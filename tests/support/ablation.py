"""Ablation by hand: one plain forward hook, one filter set, one pass; nothing of convscope's runs in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def by_hand(
    model: nn.Module,
    inputs: torch.Tensor,
    name: str,
    keep: torch.Tensor,
    fill: torch.Tensor,
    call: int = 1,
    axis: int = 1,
) -> Any:
    """What the model returns when, of one module's n-th call, filters that are not kept are replaced by the fill."""
    calls = 0

    def replace(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != call:
            return None
        tensor = output if isinstance(output, torch.Tensor) else output[0]
        mixed = tensor.clone()
        mixed.movedim(axis, -1)[..., ~keep] = fill[~keep].to(tensor.dtype)
        return mixed if isinstance(output, torch.Tensor) else (mixed, *output[1:])

    handle = dict(model.named_modules())[name].register_forward_hook(replace)
    try:
        with torch.no_grad():
            return model(inputs.clone())
    finally:
        handle.remove()
        assert calls >= call, f"{name} did not run"


def mean_by_hand(model: nn.Module, inputs: torch.Tensor, name: str, axis: int = 1) -> torch.Tensor:
    """Each filter's mean over samples and positions, in float64."""
    seen: list[torch.Tensor] = []
    hook = dict(model.named_modules())[name].register_forward_hook(
        lambda module, args, output: seen.append(output.detach().double().movedim(axis, -1).flatten(0, -2).mean(0))
    )
    with torch.no_grad():
        model(inputs.clone())
    hook.remove()
    return seen[0]
