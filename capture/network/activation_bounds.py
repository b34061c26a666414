"""Bounds of the activation function that ends a unit, and the rectifiers among these functions."""

from __future__ import annotations

from convscope.capture.network.trace import Layer

_RECTIFIERS = {"relu", "relu6", "gelu", "silu", "swish", "mish", "hardswish", "elu", "selu", "celu"}
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
