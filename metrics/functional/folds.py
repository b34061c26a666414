"""Samples left out when one is predicted, chosen so that the fit does not reveal the sample's class.

A class that has lost the sample to be predicted is rarer in what the probe is fitted on than it is for all others. A
probe that knows nothing goes by how frequent the classes are, so it names any class but the right one: below chance.
Whatever is left out here takes the same number of samples from a class whatever the class of the sample is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convscope.metrics.functional._remembered import Remembered


def partners(membership: Tensor) -> Tensor:
    """For each sample and column one sample of the other answer, to be left out together with it.

    Partners go round: the n-th sample with an answer gets the n-th with the other, from the start again where those
    are fewer.

    Args:
        membership: ``(N, K)`` bool.

    Returns:
        ``(N, K)`` sample numbers; the sample itself in a column that holds one answer only.
    """
    return _known_partners(membership)


def _partners(membership: Tensor) -> Tensor:
    yes, no = membership, ~membership
    own = torch.arange(len(membership), device=membership.device)[:, None]
    varies = yes.any(dim=0) & no.any(dim=0)
    if not bool(varies.any()):
        return own.expand_as(membership)
    return torch.where(varies, torch.where(yes, _taken_in_turn(no, yes), _taken_in_turn(yes, no)), own)


_known_partners = Remembered(_partners)


def _taken_in_turn(taken: Tensor, takers: Tensor) -> Tensor:
    """Numbers ``(N, K)`` of samples in ``taken``, one for each in ``takers``; elsewhere without a meaning."""
    count = taken.sum(dim=0)
    places = taken.T.nonzero()[:, 1]
    turn = (takers.cumsum(dim=0) - 1) % count.clamp(min=1)
    return places[(count.cumsum(0) - count + turn).clamp(max=len(places) - 1)]


def left_out_with(codes: Tensor, num_classes: int) -> Tensor:
    """``(N, K)`` the samples that are left out for each: itself, and one of every other class."""
    membership = torch.nn.functional.one_hot(codes, num_classes).bool()
    own = torch.arange(len(codes), device=codes.device)[:, None]
    return torch.where(membership, own, partners(membership))
