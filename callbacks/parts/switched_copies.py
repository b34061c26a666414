"""Passes over copies of a few images with some of their super-pixels switched off, in step on every process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.example_images import image_among
from convscope.callbacks.parts.explained_images import ExplainedImages
from convscope.callbacks.parts.output_probability import Target, chosen_classes, class_logits, class_probabilities
from convscope.capture.data.batches import take_rows, tree_map
from convscope.capture.data.heldout import Chunk, HeldOut
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Observed, Record, observe
from convscope.capture.outputs.choice import Outputs
from convscope.capture.state.isolation import isolated, preserved_random_state
from convscope.explainers.segments import Segments, segment_means
from convscope.explainers.switches import Fill, fill_image, switched

_SAME = 2e-3  # in probability: more than any order of summation makes
_TRIED = 8  # rows of the passes that show whether a network remembers


@dataclass(frozen=True)
class View:
    """One image as the network sees it whole.

    Attributes:
        chosen: The class that is explained.
        probability: Of that class.
        coarse: ``(p,)`` mean activation of the deep layer over each coarse super-pixel.
        fine: ``(q,)`` of the shallow layer over each fine one.
        gradient: ``(q,)`` gradient of the class's logit times activation, summed over the deep layer's channels, mean
            over each fine super-pixel; None where no gradient reaches the layer.
    """

    chosen: int
    probability: float
    coarse: torch.Tensor
    fine: torch.Tensor
    gradient: torch.Tensor | None


class SwitchedCopies:
    """Runs a network on the images of one plan, whole and in copies.

    Each pass begins with the same random streams and the same state of the network. To restore all that a forward can
    change takes as long as the forward of a small network; so it is tried, in :meth:`block`, whether what a pass leaves
    changes the next one.

    Args:
        plan: Network, device and precision; its chunk size bounds a pass.
        sample: The images, divided among processes.
        images: Their super-pixels.
        layers: The shallow and the deep layer, and the output.
        target: The class whose probability is explained.
        fill: Fill of super-pixels that are off.
        on_pass: Called after each forward pass of copies.
    """

    def __init__(
        self,
        plan: Plan,
        sample: HeldOut,
        images: ExplainedImages,
        layers: tuple[Layer, Layer, Layer],
        target: Target,
        fill: Fill,
        on_pass: Callable[[], None],
    ) -> None:
        self._plan, self._sample, self._images, self._layers = plan, sample, images, layers
        self._target, self._fill, self._on_pass = target, fill, on_pass
        self.precision = torch.float32  # of the network's outputs
        self._forgets = False

    def views(self) -> dict[int, View]:
        """What the network makes of this process's images as they are, by their places; not of those without a label.

        Raises:
            ValueError: A layer or the output cannot be used on these images.
        """
        look = _Look(self._plan.outputs, self._images, self._layers, self._target)
        subject = replace(self._plan.subject, loss=look.logit)
        used = list({layer.id: layer for layer in self._layers}.values())
        report = observe(subject, self._sample, used, [look], chunk_size=self._plan.chunk_size)
        _require(report)
        return look.views()

    @contextmanager
    def block(self) -> Iterator[None]:
        """Within the block the network's state is restored once, at the end, if passes do not depend on it."""
        with ExitStack() as stack:
            stack.enter_context(isolated(self._plan.subject.module, seed=self._seed, gradients=False))
            self._forgets = self._found_to_forget()
            if not self._forgets:
                stack.close()  # each pass restores it
            try:
                yield
            finally:
                self._forgets = False

    def _found_to_forget(self) -> bool:
        """Whether the network says the same of an image three times, its state left as each pass leaves it."""
        place, chunk = next(self.each())
        on = torch.ones(min(_TRIED, self._plan.chunk_size), self._images.counts(place)[1], dtype=torch.bool)
        self._forgets = True
        try:
            first, *again = [self._pass(place, chunk, on, 0) for _ in range(3)]
        finally:
            self._forgets = False
        return all(torch.equal(first, other) for other in again)

    def _fresh(self) -> AbstractContextManager[None]:
        if self._forgets:
            return preserved_random_state(self._seed)
        return isolated(self._plan.subject.module, seed=self._seed, gradients=False)

    @property
    def _seed(self) -> int:
        return self._plan.heldout.seed

    def each(self) -> Iterator[tuple[int, Chunk]]:
        """This process's images one by one with their places, -1 for what only keeps processes in step."""
        for chunk in self._sample.chunks(1):
            yield (-1 if chunk.padding else self._images.place(int(chunk.index[0]))), chunk

    def probabilities(self, place: int, chunk: Chunk, on: torch.Tensor, view: View | None) -> torch.Tensor:
        """Probability ``(K,)`` float64 of the class for copies ``on`` ``(K, q)`` of one image, on the CPU."""
        chosen, passes = 0 if view is None else view.chosen, -(-len(on) // self._plan.chunk_size)
        # In parts of about one size: there are networks that take no single row.
        return torch.cat([self._pass(place, chunk, part, chosen) for part in on.tensor_split(passes)])

    def whole_and_off(self, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor]:
        """The image ``(C, H, W)``, and what stands where it is off, on the CPU."""
        image = _image(chunk.inputs)[0]
        return image, fill_image(image, self._fill)

    def gather(self, value: Any) -> list[Any]:
        """One object from every process; every process must call it."""
        return self._sample.gather(value)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._plan.subject.device

    def _pass(self, place: int, chunk: Chunk, on: torch.Tensor, chosen: int) -> torch.Tensor:
        subject, outputs = self._plan.subject, self._plan.outputs
        image, off = (part.to(subject.device) for part in self.whole_and_off(chunk))
        # What only keeps processes in step is not divided, and has one super-pixel.
        where = self._images.images[place].segments.fine if place >= 0 else torch.zeros(image.shape[1:]).long()
        copies = switched(image, off, where, on)
        # The copies come first, so that the image itself is not repeated for nothing.
        inputs = take_rows(_with_images(chunk.inputs, copies), torch.zeros(len(on), dtype=torch.long), 1)
        with self._fresh():
            values = subject.logits(inputs)
            self.precision = values.dtype
            found = _probability_of(outputs, values, torch.full((len(values),), chosen, device=values.device))
        self._on_pass()
        return found


def _probability_of(outputs: Outputs, values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Probability ``(n,)`` float64 on the CPU of one class per sample, from a model's outputs ``(n, K)``."""
    probabilities = class_probabilities(outputs, values.detach())
    return probabilities.gather(1, chosen.to(probabilities.device)[:, None])[:, 0].cpu().double()


def require_the_same(view: View, whole: float, precision: torch.dtype) -> None:
    """Refuse a network whose output for an image depends on what is run beside it.

    Raises:
        ValueError: The image among its copies has another probability than among other images.
    """
    apart = abs(view.probability - whole)
    if apart > max(_SAME, 8 * torch.finfo(precision).eps):
        raise ValueError(
            f"the class probability of an image is {view.probability:.3g} among other images and {whole:.3g} among its "
            "copies, so the network's output depends on its batch or on chance, and copies say nothing of the image"
        )


class _Look:
    """Takes part in one pass over the images."""

    needs_gradient, takes_nonfinite = True, False

    def __init__(
        self, outputs: Outputs, images: ExplainedImages, layers: tuple[Layer, Layer, Layer], target: Target
    ) -> None:
        self._outputs, self._images, self._target = outputs, images, target
        self._shallow, self._deep, self._output = layers
        self._coarse: dict[int, torch.Tensor] = {}
        self._fine: dict[int, torch.Tensor] = {}
        self._gradient: dict[int, torch.Tensor] = {}
        self._said: dict[int, tuple[int, float]] = {}

    def wants(self, layer: Layer) -> bool:
        return True

    def logit(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """In the place of a loss: the logit of each sample's class, summed."""
        chosen = self._chosen(outputs.detach(), targets).clamp(min=0)
        return class_logits(self._outputs, outputs).gather(1, chosen[:, None]).sum()

    def on_activation(self, record: Record) -> None:
        if record.layer.id == self._output.id:
            chosen = self._chosen(record.activation, record.targets)
            probability = _probability_of(self._outputs, record.activation, chosen.clamp(min=0))
            pairs = zip(chosen.tolist(), probability.tolist(), strict=True)
            self._said |= dict(zip(record.index.tolist(), pairs, strict=True))
            return
        maps = record.activation.mean(1, dtype=torch.promote_types(record.activation.dtype, torch.float32))
        if record.layer.id == self._deep.id:
            self._take(self._coarse, record, maps, lambda s: (s.coarse, s.counts[0]))
        if record.layer.id == self._shallow.id:
            self._take(self._fine, record, maps, lambda s: (s.fine, s.counts[1]))

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        if record.layer.id == self._deep.id:
            maps = (record.activation.float() * gradient.float()).sum(1)
            self._take(self._gradient, record, maps, lambda s: (s.fine, s.counts[1]))

    def views(self) -> dict[int, View]:
        found = {}
        for number, (chosen, probability) in self._said.items():
            if chosen >= 0:
                gradient = self._gradient.get(number)
                view = View(chosen, probability, self._coarse[number], self._fine[number], gradient)
                found[self._images.place(number)] = view
        return found

    def _chosen(self, values: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        """Class ``(n,)`` of each sample, negative where its label is ignored."""
        return chosen_classes(self._outputs, self._target, values, targets)

    def _take(
        self,
        into: dict[int, torch.Tensor],
        record: Record,
        maps: torch.Tensor,
        scale: Callable[[Segments], tuple[torch.Tensor, int]],
    ) -> None:
        for number, one in zip(record.index.tolist(), maps.cpu(), strict=True):
            into[number] = segment_means(one[None], *scale(self._images.images[self._images.place(number)].segments))[0]


def _require(report: Observed) -> None:
    """Raise where the pass over the images did not give all that is needed; without gradients it goes on."""
    bad = sorted({*report.nonfinite, *report.missing})
    if bad:
        raise ValueError(f"{', '.join(bad)} did not run, or gave NaN or infinite values, on the images to explain")
    for name, reason in report.unmatched.items():
        raise ValueError(f"layer {name} {reason}; it is not explained")
    for error in report.failures.values():
        raise error


def _image(inputs: Any) -> torch.Tensor:
    found = image_among(inputs)
    if found is None:
        raise ValueError("a held-out sample has no image (C, H, W)")
    return found


def _with_images(inputs: Any, copies: torch.Tensor) -> Any:
    """The inputs with other images in the place of the first ones among them."""
    old = image_among(inputs)
    return tree_map(lambda tensor: copies if tensor is old else tensor, inputs)
