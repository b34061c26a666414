"""Multi-scale interpretation of a few images: sums over their perturbed copies, and curves of switching them off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convscope._arguments import number, share, whole_number
from convscope.metrics._base import ObservationMetric
from convscope.metrics.functional._validation import check_finite
from convscope.metrics.functional.admm import TwoScaleSums, TwoScaleWeights, two_scale_sums
from convscope.metrics.functional.multi_scale import MultiScaleResult, explain_two_scales, switching_area


class MultiScaleFit(ObservationMetric):
    """Importance of the super-pixels of each image at two scales, and how well they explain the output.

    Args:
        num_images: B. Each has a place of its own, so that processes can take different images.
        num_coarse: p, the largest number of coarse super-pixels of an image.
        num_fine: q, of fine ones.
        nonzero: Largest share of an image's fine super-pixels with a weight, in (0, 1].
        balance: μ, the weight of the fine scale.
        start: Weights of the last snapshot, for the solver to begin from.
        kwargs: passed to :class:`torchmetrics.Metric`.

    ``describe`` says what an image is made of, update takes some of its copies; compute gives a
    :class:`~convscope.metrics.functional.MultiScaleResult` on the CPU. Images without copies have importance 0.

    Raises:
        ValueError: if an option is out of range.

    Source: paper (Cui, Wang and Wang, IEEE TMM 2019); penalties by target sparsity are ours.

    Example:
        >>> import torch
        >>> metric = MultiScaleFit(num_images=1, num_coarse=2, num_fine=2)
        >>> metric.describe(0, torch.eye(2), torch.ones(2), torch.ones(2))
        >>> on = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
        >>> metric.update(0, on, on, output=on[:, 1], weight=torch.ones(4))
        >>> metric.compute().coarse.argmax(1)
        tensor([1])
    """

    coarse_gram: Tensor
    coarse_moment: Tensor
    fine_gram: Tensor
    fine_moment: Tensor
    output_square: Tensor
    output_sum: Tensor
    weight_sum: Tensor
    membership: Tensor
    coarse_activation: Tensor
    fine_activation: Tensor

    def __init__(
        self,
        num_images: int,
        num_coarse: int,
        num_fine: int,
        nonzero: float = 0.75,
        balance: float = 1.0,
        start: TwoScaleWeights | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_images = whole_number("num_images", num_images)
        self.num_coarse = whole_number("num_coarse", num_coarse)
        self.num_fine = whole_number("num_fine", num_fine)
        self.nonzero = share("nonzero", nonzero, "a share of the fine super-pixels")
        self.balance = number("balance", balance, least=0.0, above=True)
        self.start = start
        b, p, q = self.num_images, self.num_coarse, self.num_fine
        self._add_sums(coarse_gram=(b, p, p), coarse_moment=(b, p), fine_gram=(b, q, q), fine_moment=(b, q))
        self._add_sums(output_square=(b,), output_sum=(b,), weight_sum=(b,), membership=(b, q, p))
        self._add_sums(coarse_activation=(b, p), fine_activation=(b, q))

    def describe(self, image: int, membership: Tensor, coarse_activation: Tensor, fine_activation: Tensor) -> None:
        """Say what an image is made of, once.

        Args:
            image: Its place, from 0.
            membership: ``(q', p')``, with no more super-pixels than the metric has room for.
            coarse_activation: ``(p',)`` mean activation of the deep layer over each coarse super-pixel.
            fine_activation: ``(q',)`` of the shallow layer over each fine one.

        Raises:
            ValueError: if the place or a size does not fit.
        """
        fine, coarse = membership.shape
        self._check(image, coarse_activation.expand(1, -1), fine_activation.expand(1, -1))
        self.membership[image, :fine, :coarse] = self._to_state(membership).double()
        self.coarse_activation[image, :coarse] = self._to_state(coarse_activation).double()
        self.fine_activation[image, :fine] = self._to_state(fine_activation).double()

    def update(self, image: int, coarse: Tensor, fine: Tensor, output: Tensor, weight: Tensor) -> None:
        """Add K copies of one image.

        Args:
            image: Its place.
            coarse: ``(K, p')`` what each copy shows of each coarse super-pixel: the share that is on, times its
                activation.
            fine: ``(K, q')`` likewise.
            output: ``(K,)`` the class probability of each copy.
            weight: ``(K,)`` how near each copy is to the image.

        Raises:
            ValueError: if the place or a size does not fit, a value is not finite, or a weight is negative.
        """
        self._check(image, coarse, fine)
        found = two_scale_sums(coarse[None], fine[None], output[None], weight[None])
        p, q = coarse.shape[1], fine.shape[1]
        self.coarse_gram[image, :p, :p] += self._to_state(found.coarse_gram[0])
        self.coarse_moment[image, :p] += self._to_state(found.coarse_moment[0])
        self.fine_gram[image, :q, :q] += self._to_state(found.fine_gram[0])
        self.fine_moment[image, :q] += self._to_state(found.fine_moment[0])
        self.output_square[image] += self._to_state(found.output_square[0])
        self.output_sum[image] += self._to_state((output.double() * weight.double()).sum())
        self.weight_sum[image] += self._to_state(weight.double().sum())

    def compute(self) -> MultiScaleResult:
        """Importances and fits of all images, over all ranks, on the CPU.

        Raises:
            ValueError: if no image has copies, or a sum is NaN or Inf.
        """
        if not bool((self.weight_sum > 0).any()):
            raise ValueError("The multi-scale fit needs copies, got none. Update the metric before computing it.")
        # On the CPU: the solver makes hundreds of steps with matrices that are small for a GPU.
        here = {name: getattr(self, name).cpu() for name in self._defaults}
        sums = TwoScaleSums(*(here[name] for name in TwoScaleSums._fields))
        activations = here["coarse_activation"], here["fine_activation"]
        totals = here["output_sum"], here["weight_sum"]
        return explain_two_scales(
            sums, *totals, here["membership"], activations, self.nonzero, self.balance, self.start
        )

    def _check(self, image: int, coarse: Tensor, fine: Tensor) -> None:
        if not 0 <= image < self.num_images:
            raise ValueError(f"Image {image} is not among the {self.num_images} of the metric.")
        if coarse.shape[1] > self.num_coarse or fine.shape[1] > self.num_fine:
            raise ValueError(
                f"An image with {coarse.shape[1]} coarse and {fine.shape[1]} fine super-pixels does not fit a metric "
                f"with {self.num_coarse} and {self.num_fine}."
            )


class SwitchingAreas(ObservationMetric):
    """Mean area under curves of the class probability as super-pixels are switched off, and on, in several orders.

    Args:
        num_orders: How many orders of the super-pixels.
        shares: Shares of the super-pixels at which the probability is known, rising from 0 to 1.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes the curves of one image; compute gives ``(num_orders, 2)`` float64: deletion and insertion, means over
    images.

    Raises:
        ValueError: if an option is out of range.

    Source: Petsiuk et al. 2018 (arXiv 1806.07421), on super-pixels.

    Example:
        >>> import torch
        >>> metric = SwitchingAreas(num_orders=1, shares=[0.0, 0.5, 1.0])
        >>> metric.update(torch.tensor([[[0.8, 0.2, 0.0], [0.0, 0.6, 0.8]]]))
        >>> metric.compute()
        tensor([[0.3000, 0.5000]], dtype=torch.float64)
    """

    total: Tensor
    count: Tensor

    def __init__(self, num_orders: int, shares: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_orders = whole_number("num_orders", num_orders)
        self.shares = tuple(shares)
        switching_area(torch.zeros(len(self.shares)), self.shares)  # refuses what are no shares
        self._add_sums(total=(self.num_orders, 2))
        self._add_tensor("count", torch.zeros((), dtype=torch.int64))

    def update(self, probability: Tensor) -> None:
        """Add one image: ``(num_orders, 2, R)``, super-pixels switched off in the first row, on in the second.

        Raises:
            ValueError: if the shape does not fit, or a value is not finite.
        """
        check_finite("probability", probability)
        if probability.shape != (self.num_orders, 2, len(self.shares)):
            raise ValueError(
                f"The curves must have shape {(self.num_orders, 2, len(self.shares))}, got {tuple(probability.shape)}."
            )
        self.total += self._to_state(switching_area(probability, self.shares))
        self.count += 1

    def compute(self) -> Tensor:
        """Mean areas over images, over all ranks.

        Raises:
            ValueError: if there was no image.
        """
        if self.count == 0:
            raise ValueError("The areas need curves, got none. Update the metric before computing it.")
        return self.total / self.count
