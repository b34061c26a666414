"""One pass over the held-out set: choose layers, read samples, observe, and restore all state."""

from convscope.capture.data.heldout import HeldOut
from convscope.capture.intervention import forward_from_layer
from convscope.capture.network.layers import select_layers
from convscope.capture.network.trace import Layer, Trace
from convscope.capture.observation import Consumer, Observed, Record, Subject, observe, trace_layers

__all__ = [
    "Consumer",
    "HeldOut",
    "Layer",
    "Observed",
    "Record",
    "Subject",
    "Trace",
    "forward_from_layer",
    "observe",
    "select_layers",
    "trace_layers",
]
