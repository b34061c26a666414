"""Formation of a prediction over depth: decision depth, gain, entropy, and what is lost or found on the way."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope.metrics.functional._precision import as_double


def decision_depth(predictions: Tensor) -> Tensor:
    r"""First layer from which on every layer predicts what the last one does, for each sample.

    .. math:: \min\{l : \arg\max p_{l'} = \arg\max p_L \;\forall\, l' \ge l\}

    Args:
        predictions: ``(L, N)`` predicted classes, layers in order of depth, the output last.

    Returns:
        ``(N,)`` int64 in [0, L - 1]; L - 1 where the layer before the output still disagrees.

    Raises:
        ValueError: if there is no layer, or the shape is not ``(L, N)``.

    Source: reconstruction (arXiv 2211.00185); the idea is the prediction depth of Baldock et al. 2021, with a linear
    read-out in the place of its kNN.

    Example:
        >>> import torch
        >>> decision_depth(torch.tensor([[1, 2, 0], [1, 0, 2], [1, 2, 2]]))
        tensor([0, 2, 1])
    """
    _check_layers("predictions", predictions)
    agrees = (predictions == predictions[-1]).long()
    # Counted from the end: a product that stays one as long as every layer has agreed.
    return len(predictions) - agrees.flip(0).cumprod(dim=0).sum(dim=0)


def information_gain(log_probability: Tensor, prior: Tensor) -> Tensor:
    r"""Gain of each layer in the log-probability of the true class, mean over samples.

    .. math:: \Delta_l = \mathbb{E}_x[\log p_l(y) - \log p_{l-1}(y)], \quad p_0 = \text{shares of the classes}

    Args:
        log_probability: ``(L, N)`` log-probability of each sample's true class, layers in order of depth.
        prior: ``(N,)`` log of the share of each sample's class.

    Returns:
        ``(L,)`` float32, in nats; the sum over layers is what the whole network knows beyond the class shares.

    Raises:
        ValueError: if there is no layer or sample, or the lengths disagree.

    Source: reconstruction (arXiv 2211.00185); that the first layer is compared with the class shares is ours.

    Example:
        >>> import torch
        >>> information_gain(torch.tensor([[0.5], [0.8]]).log(), torch.tensor([0.5]).log())
        tensor([0.0000, 0.4700])
    """
    _check_layers("log-probabilities", log_probability)
    if prior.shape != log_probability.shape[1:]:
        raise ValueError(f"The prior must have shape {tuple(log_probability.shape[1:])}, got {tuple(prior.shape)}.")
    steps = as_double(torch.cat([prior[None].to(log_probability), log_probability])).diff(dim=0)
    return steps.mean(dim=1).float()


def prediction_entropy(log_probabilities: Tensor) -> Tensor:
    r"""Entropy of each predicted distribution, :math:`-\sum_k p_k \log p_k`.

    Args:
        log_probabilities: ``(..., K)``; minus infinity for a class that is ruled out.

    Returns:
        ``(...)`` float64 in nats, from 0 (certain) to log K (knows nothing).

    Raises:
        ValueError: if there is no class.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> prediction_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log()).float()
        tensor([0.6931, 0.0000])
    """
    if log_probabilities.ndim == 0 or log_probabilities.shape[-1] == 0:
        raise ValueError(f"The log-probabilities must have shape (..., K), got {tuple(log_probabilities.shape)}.")
    entropies: Tensor = torch.special.entr(as_double(log_probabilities).exp())
    return entropies.sum(dim=-1)


def lost_and_found(hits: Tensor) -> tuple[Tensor, Tensor]:
    """Share of samples that early layers had right and the output has wrong, and the reverse.

    A sample counts as right early where at least half of the layers in the first half of depth (the output not
    counted, the middle layer left out) predict its class.

    Args:
        hits: ``(L, N)`` bool, whether each layer's prediction is the true class; the output last.

    Returns:
        Two float32 scalars in [0, 1]: "lost on the way" and "found late".

    Raises:
        ValueError: if there are fewer than three layers, or no sample.

    Source: reconstruction; the threshold is ours.

    Example:
        >>> import torch
        >>> lost_and_found(torch.tensor([[True, False, True], [True, False, True], [False, True, True]]))
        (tensor(0.3333), tensor(0.3333))
    """
    _check_layers("hits", hits)
    if len(hits) < 3:
        raise ValueError(f"Early and late need at least two layers and the output, got {len(hits)} rows.")
    early = 2 * hits[: (len(hits) - 1) // 2].sum(dim=0) >= (len(hits) - 1) // 2
    return (early & ~hits[-1]).double().mean().float(), (~early & hits[-1]).double().mean().float()


def _check_layers(name: str, values: Tensor) -> None:
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"The {name} must have shape (L, N), at least one layer and one sample, got {tuple(values.shape)}."
        )
