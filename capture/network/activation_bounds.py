"""Bounds of the activation function that ends a unit, the rectifiers among these functions, and where those are off."""

from __future__ import annotations

import math

from convscope.capture.network.trace import Layer

_RECTIFIERS = {"relu", "relu6", "gelu", "silu", "swish", "mish", "hardswish", "elu", "selu", "celu"}
# Least value of the smooth rectifiers, which come back to zero: a filter that is negative there is not off.
_DIPS = {"gelu": -0.16997, "silu": -0.27846, "swish": -0.27846, "mish": -0.30884}
_FLAT = 0.05  # off within this share of the dip from zero, or of the lower bound from it: the slope is below 5 % there
_SELU_LEAST = -1.7580993408473766
# Bounds of the functions without a parameter that could move them.
_FIXED_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "sigmoid": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "relu6": (None, 6.0),
    "selu": (_SELU_LEAST, None),
}


def is_rectified(layer: Layer) -> bool:
    """Return whether the layer is observed after a rectifier: a function for which a negative input means "off"."""
    return _function(layer) in _RECTIFIERS


def off_range(layer: Layer) -> tuple[float, float]:
    """Range of values that a filter of a rectified layer gives while it is off: where the function is flat.

    ReLU and Hardswish are off at zero. GELU, SiLU and Mish are off on their flat tail, within 5 % of their dip from
    zero: in the dip itself they have a slope, and learn. ELU, SELU and CELU are off within 5 % of their lower bound;
    that of functional ``elu`` and ``celu`` cannot be seen and is taken as the default, -1.
    """
    name = _function(layer)
    if name in _DIPS:
        return _FLAT * _DIPS[name], 0.0
    if name == "hardswish":
        return 0.0, 0.0
    if name in ("elu", "selu", "celu"):
        least = bounds_of(layer)[0]
        return -math.inf, (1 - _FLAT) * (-1.0 if least is None else least)
    return -math.inf, 0.0


def bounds_of(layer: Layer) -> tuple[float | None, float | None]:
    """Least and greatest value that the layer's activation function can give, None for no known bound.

    The lower end of ReLU and ReLU6 is no bound here: it means "off". The parameters of functional ``elu``, ``celu``
    and ``hardtanh`` cannot be seen, so no bound is known.
    """
    name, module = _function(layer), layer.activation
    if name in _FIXED_BOUNDS:
        return _FIXED_BOUNDS[name]
    if name in ("elu", "celu") and module is not None:
        return -float(module.alpha), None  # type: ignore[arg-type]
    if name == "hardtanh" and module is not None:
        return float(module.min_val), float(module.max_val)  # type: ignore[arg-type]
    return None, None


def _function(layer: Layer) -> str:
    """``"gelu"`` for ``GELU``, ``F.gelu`` and ``GELUActivation``; without one, the norm or convolution."""
    return layer.parts[-1].lower().removesuffix("activation")
