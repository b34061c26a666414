"""One pass over the held-out set: choose layers, read samples, observe, and restore all state."""

from convscope.capture.heldout import HeldOut
from convscope.capture.intervention import forward_from_layer
from convscope.capture.layers import select_layers
from convscope.capture.observation import Record, Subject, observe, trace_layers
from convscope.capture.trace import Layer, Trace, trace

__all__ = [
    "HeldOut",
    "Layer",
    "Record",
    "Subject",
    "Trace",
    "forward_from_layer",
    "observe",
    "select_layers",
    "trace",
    "trace_layers",
]
