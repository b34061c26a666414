"""Networks, segmentations and perturbations of the companion methods. Imports only torch."""

from convscope.explainers.interpretable import InterpretableConv
from convscope.explainers.two_track import ExplainerNetwork

__all__ = ["ExplainerNetwork", "InterpretableConv"]
