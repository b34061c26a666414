"""Operations that PyTorch refuses on a CUDA device under ``use_deterministic_algorithms(True)``, seen on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parents[2].resolve()
OURS = tuple(str(ROOT / package) for package in ("capture", "metrics", "callbacks"))


def _weighted(args: Any, kwargs: Any) -> bool:
    return kwargs.get("weights") is not None or (len(args) > 1 and args[1] is not None)


def _floating(args: Any, kwargs: Any) -> bool:
    dtype = kwargs.get("dtype") or args[0].dtype
    return bool(dtype.is_floating_point or dtype.is_complex)


def _always(args: Any, kwargs: Any) -> bool:
    return True


# From the documentation of torch.use_deterministic_algorithms: names of operations, and when they are refused.
REFUSED: dict[str, Callable[[Any, Any], bool]] = {
    "bincount": _weighted,
    "cumsum": _floating,
    "cumsum_": _floating,
    **dict.fromkeys(
        (
            "histc", "put", "put_", "median.dim", "nanmedian.dim", "kthvalue", "nll_loss2d", "nll_loss2d_forward",
            "nll_loss2d_backward", "grid_sampler_2d_backward", "grid_sampler_3d_backward", "avg_pool3d_backward",
            "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward",
            "fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d",
            "upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward",
            "upsample_trilinear3d_backward", "upsample_nearest2d_backward", "reflection_pad1d_backward",
            "reflection_pad2d_backward", "reflection_pad3d_backward", "_ctc_loss_backward",
        ),
        _always,
    ),
}  # fmt: skip


class Refusals(TorchDispatchMode):
    """Within the block, notes which refused operations ran with convscope's own code on the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet, _, overload = func.name().removeprefix("aten::").partition(".")
        self.seen.add(packet)
        refused = REFUSED.get(f"{packet}.{overload}") or REFUSED.get(packet)
        if refused is not None and refused(args, kwargs) and (place := _our_line()):
            self.found.append(f"{packet} at {place}")
        return func(*args, **kwargs)


def _our_line() -> str:
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = str(Path(frame.f_code.co_filename).resolve())
        if path.startswith(OURS):
            return f"{Path(path).relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def check_the_detector() -> list[str]:
    """What a pass over refused and allowed operations finds, with this file counted as convscope's own."""
    with Refusals() as refusals:
        values, places = torch.rand(4), torch.tensor([0, 1, 1, 0])
        torch.bincount(places, weights=values)
        torch.bincount(places)
        values.cumsum(0)
        places.cumsum(0)
        values[None].median(dim=1)
    return refusals.found
