"""Input resampling: filters that move with the output, filters that stay put under noise, and their overlap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch

from convscope._arguments import number, one_of, refuse, whole_number, whole_number_or_zero
from convscope.callbacks.engine.findings import Findings, LayerResult, MapSpec, Moment, Values
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.copy_scores import Choice, CopyScores, agreement
from convscope.callbacks.parts.example_images import image_among
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.output_probability import Target, check_target, class_probabilities, why_no_probability
from convscope.callbacks.parts.perturbed_copies import (
    ChosenImage,
    Normalisation,
    PerturbedCopies,
    check_normalisation,
    choose_images,
)
from convscope.callbacks.parts.resampling_pictures import ResamplingPictures
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.layers import spread_over_depth
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.explainers.perturbations import PERTURBATIONS, Perturbation
from convscope.loggers import Backend
from convscope.metrics.functional import ResamplingScores, rank_stability
from convscope.metrics.functional.resampling import Overlap

PerturbationName = Literal["growing_noise", "constant_noise", "occlusion", "blur", "quantisation"]
_VIEWED_LAYERS = 6
_VIEWS = 4


class InputResampling(LayerObserver):
    """Filters that move with the output (influence), that stay put under noise (precision), and their overlap.

    A few held-out images are each perturbed many times, and the copies run through the network in a pass of their own.
    For filter ``c`` with activation ``a`` and the output probability ``y``, over the copies of one image:

    =========  ==========================================================================================
    influence  mean over positions of ``|Pearson(a, y)|``
    precision  one over the mean over positions of ``Var(a)``; none if the mean activation is below 0.1
    overlap    ``Σ|A∩B| / Σ(|A| + |B|)`` over layers, A and B the ``top`` filters by each; 0.5 at most
    =========  ==========================================================================================

    Source: paper (Lengerich et al. 2017, arXiv 1707.09641, and its authors' code). Chance levels, the Jaccard index,
    the scale-free precision ``mean² / Var`` and perturbations other than the first are ours.

    Args:
        images: Number of held-out images, classes in their shares, the same at every check.
        perturbations: Number of copies of each image, including the image itself.
        perturbation: ``"growing_noise"`` (the paper's ``x · (1 + i·ε)``), ``"constant_noise"``, ``"occlusion"``,
            ``"blur"``, ``"quantisation"``, or a function ``(image, number, copies, generator) -> image`` of one image
            ``(C, H, W)``. Randomness must come from the generator, so that every check has the same copies.
        strength: Strength of a named perturbation, None for its default: standard deviation of ``ε`` (0.1) or of the
            constant noise (0.1), share of the side occluded (0.25), largest blur in pixels (3), coarsest step (64).
        target: The class whose probability is the output: ``"label"``, ``"predicted"`` for the image as it is, or a
            number.
        top: Number of filters per layer that are chosen by influence, and as many by precision.
        precision: Score that filters are chosen by: ``"paper"`` for ``1 / Var``, ``"relative"`` for ``mean² / Var``.
        normalisation: ``(mean, std)`` of each channel, to perturb ``x · std + mean`` instead of the inputs as the
            network gets them.
        examples: Number of images that get a picture of copies and filters at each check; 0 for none.
        max_forwards: Largest number of copies per check; if there would be more, fewer images are used.
        **arguments: See :class:`~convscope.LayerObserver`; ``every_n_epochs`` is 5 by default.

    Logged for each layer, means over images:
        ``resampling/overlap/<layer>`` (0 to 0.5), ``resampling/jaccard/<layer>`` (0 to 1), ``resampling/overlap_chance/
        <layer>``, ``resampling/influence_top_share/<layer>`` (share of all influence that the top filters have),
        ``resampling/precision_median/<layer>`` (of ``mean² / Var``, over filters and images), and if
        :class:`~convscope.FilterImportance` with Taylor's criterion is in the same check
        ``resampling/spearman_taylor/<layer>`` (rank correlation of influence with it, -1 to 1).
    Logged once per check, over all layers:
        ``resampling/overlap``, ``resampling/jaccard``, ``resampling/overlap_chance``, ``resampling/jaccard_chance``,
        ``resampling/above_chance`` (0 at chance, 1 at the largest overlap), ``resampling/overlap_of_means`` (of
        filters chosen by their mean scores over images).

    Influences are a histogram, ``resampling/filters/<layer>``. Pictures: ``resampling/over_training``,
    ``resampling/scatter/<layer>``, ``resampling/example/<number>``.

    Raises:
        ValueError: if an argument is out of range.
    """

    family = "resampling"
    needs_filters = True
    includes_output = True
    takes_output_as_logits: Literal[False, "too", "only"] = "only"
    charts: ClassVar[dict[str, str]] = {
        "overlap": "overlap of influence and precision",
        "precision_median": "median precision, mean² / variance",
        "influence_top_share": "influence held by the top filters",
    }
    maps: ClassVar[dict[str, MapSpec]] = {
        "overlap": MapSpec("Overlap of influence and precision", "overlap (0 to 0.5)", 0.0, 0.5)
    }
    columns: ClassVar[dict[str, str]] = {"overlap": "overlap"}

    def __init__(
        self,
        *,
        images: int = 16,
        perturbations: int = 50,
        perturbation: PerturbationName | Perturbation = "growing_noise",
        strength: float | None = None,
        target: Target = "label",
        top: int = 5,
        precision: Literal["paper", "relative"] = "paper",
        normalisation: Normalisation | None = None,
        examples: int = 3,
        max_forwards: int = 1600,
        every_n_epochs: int = 5,
        **arguments: Any,
    ) -> None:
        self.images = whole_number("images", images, "a whole number of images")
        self.perturbations = whole_number("perturbations", perturbations, "a whole number of copies", least=2)
        self.perturbation, self.strength = perturbation, strength
        self._perturb = _perturbation(perturbation, strength)
        self.target = check_target(target)
        self.top = whole_number("top", top, "a whole number of filters")
        self.precision = one_of("precision", precision, ("paper", "relative"))
        self.normalisation = check_normalisation(normalisation)
        self.examples = whole_number_or_zero("examples", examples, "no pictures", "a whole number of images")
        fewest = self.perturbations  # of one image
        self.max_forwards = whole_number("max_forwards", max_forwards, "a whole number of copies", least=fewest)
        super().__init__(every_n_epochs=every_n_epochs, **arguments)
        self._samples: PerturbedCopies | None = None
        self._scores: CopyScores | None = None
        self._choices: dict[str, list[Choice]] = {}
        self._of_means: dict[str, Choice] = {}
        self._limit = math.nan
        self._pictures = ResamplingPictures()

    @property
    def takes_targets_as(self) -> Literal["nothing", "inferred", "classes"]:
        return "classes" if self.target == "label" else "nothing"

    # Before training.

    def skips(self, heldout: HeldOut, no_loss: str | None) -> str | None:
        images = image_among(next(iter(heldout.chunks())).inputs)
        if images is None:
            return "the held-out inputs are not images (N, C, H, W)"
        if not images.is_floating_point():
            return f"the held-out images are {images.dtype}, which take no noise; make them floats where they are read"
        if heldout.summary is None and self.target == "label":
            return "there are no labels; InputResampling(target='predicted') needs none"
        return None

    def ready(self, plan: Plan) -> None:
        reason = self._why_not(plan)
        chosen, constant = ([], 0) if reason else choose_images(plan.heldout, plan.outputs, self._most_images)
        if not reason and not chosen:
            reason = f"none of the held-out images can be perturbed: {constant} have one value everywhere"
        if reason:
            plan.messages.append(f"{self.name} is inactive: {reason}")
            plan.observers.remove(self)
            del plan.layers[self.name]
            return
        self._samples = PerturbedCopies(plan.heldout, chosen, self._perturb, self.perturbations, self.normalisation)
        self._samples.try_out()
        self._pictures.look_at(self._samples, self.examples, _VIEWS)
        self._scores = CopyScores(
            self._samples,
            lambda values: class_probabilities(plan.outputs, values),
            self._class,
            self._choose,
            self._pictures.shown,
            self._pictures.views,
        )
        plan.messages += self._notes(plan, self._samples, constant)
        plan.give_own(self, self._samples)

    @property
    def _most_images(self) -> int:
        return min(self.images, self.max_forwards // self.perturbations)

    def _why_not(self, plan: Plan) -> str | None:
        if not plan.layers[self.name][-1].is_output:
            return "the model's output is not one row per sample"
        return why_no_probability(plan.outputs, self.target)

    def _notes(self, plan: Plan, samples: PerturbedCopies, constant: int) -> list[str]:
        count, copies = len(samples.images), self.perturbations
        cut = f" (max_forwards={self.max_forwards}; {self.images} images would take {self.images * copies})"
        few = count < self.images and self._most_images < self.images
        notes = [f"{self.name} runs {count * copies} perturbed copies of {count} images per check{cut if few else ''}"]
        if constant:
            notes.append(f"{self.name} leaves out {constant} held-out images that have one value everywhere")
        if self.normalisation is None and self.perturbation == "growing_noise" and samples.has_negative:
            notes.append(
                f"{self.name}: the noise multiplies the inputs as the network gets them, which are negative in places; "
                "to perturb pixels as they were before, give normalisation=(mean, std)"
            )
        small = [layer.name for layer in plan.layers[self.name] if not layer.is_output and layer.channels <= self.top]
        if small:
            notes.append(
                f"{self.name}: no overlap in {', '.join(small)}, which have no more than top={self.top} filters"
            )
        return notes

    # In a check.

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._choices, self._of_means = {}, {}
        if self._scores is not None:
            inner = [layer for layer in layers if not layer.is_output]
            self._scores.begin(layers, [layer.name for layer in spread_over_depth(inner, _VIEWED_LAYERS)])

    def on_activation(self, record: Record) -> None:
        if self._scores is not None:
            self._scores.on_activation(record)

    def compute(self, layer: Layer) -> LayerResult | None:
        if layer.is_output or self._scores is None:
            return None
        scores = self._scores.of(layer)
        means = ResamplingScores(scores.influence.nanmean(0), scores.variance.mean(0), scores.mean.mean(0))
        choice = self._choose(means)
        scalars = {
            "influence_top_share": _top_share(means.influence, self.top),
            "precision_median": _median(scores.relative_precision),
        }
        if layer.channels > self.top:
            rows = [self._choose(ResamplingScores(*row)) for row in zip(*scores, strict=True)]
            self._choices[layer.name], self._of_means[layer.name] = rows, choice
            found = [agreement([row]) for row in rows]
            scalars |= {name: _mean(found, name) for name in ("overlap", "jaccard", "overlap_chance")}
        self._pictures.add_layer(layer.name, means, choice, self._precision(means))
        return LayerResult(scalars, distribution=means.influence.numpy())

    def summarise(self, values: Values) -> dict[str, float]:
        layers = [self._choices[name] for name in values.get("overlap", {})]
        if not layers:
            return {}
        found = [agreement(choices) for choices in zip(*layers, strict=True)]
        summary = {name: _mean(found, name) for name in ("overlap", "jaccard", "overlap_chance", "jaccard_chance")}
        room = 0.5 - summary["overlap_chance"]
        if room > 0:
            summary["above_chance"] = (summary["overlap"] - summary["overlap_chance"]) / room
        summary["overlap_of_means"] = agreement(self._of_means[name] for name in values["overlap"]).overlap
        self._limit = _mean(found, "overlap_limit")
        return summary

    def conclude(self, findings: Findings, check: Mapping[str, Findings]) -> None:
        """Add the rank correlation of influence with Taylor importance, if that is measured in this check."""
        taylor = check.get("importance")
        for name, result in findings.layers.items() if taylor is not None and taylor.kind == "importance" else ():
            other = taylor.layers.get(name) if taylor is not None else None
            if other is not None and other.distribution is not None and result.distribution is not None:
                value = _spearman(torch.from_numpy(result.distribution), torch.from_numpy(other.distribution))
                result.scalars["spearman_taylor"] = value

    def remember(self, findings: Findings, when: Moment) -> None:
        super().remember(findings, when)
        self._pictures.remember(findings.summary, self._limit, when)

    def draw(self, dashboard: Backend, when: Moment) -> None:
        filters = {} if self._scores is None else self._scores.filters
        self._pictures.draw(dashboard, self.name, when, filters)

    def end(self) -> None:
        if self._scores is not None:
            self._scores.begin([], ())
        self._choices, self._of_means = {}, {}
        self._pictures.end()

    def state(self) -> dict[str, Any]:
        return super().state() | {"over_training": self._pictures.state()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._pictures.restore(state["over_training"])

    def restart(self) -> None:
        super().restart()
        self._pictures.restart()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._samples = self._scores = None

    def _class(self, image: ChosenImage, probabilities: torch.Tensor) -> int:
        if self.target == "label":
            return image.label
        return int(probabilities.argmax()) if self.target == "predicted" else int(self.target)

    def _precision(self, scores: ResamplingScores) -> torch.Tensor:
        return scores.relative_precision if self.precision == "relative" else scores.precision

    def _choose(self, scores: ResamplingScores) -> Choice:
        return Choice.of(scores.influence, self._precision(scores), self.top)


def _perturbation(given: Any, strength: float | None) -> Perturbation:
    """The named perturbation with the given strength, or the user's own function.

    Raises:
        ValueError: if it is neither, or a function is given together with a strength.
    """
    if callable(given):
        if strength is not None:
            raise refuse("strength", strength, "None with a function of your own, which has its own strength")
        return cast(Perturbation, given)
    made = PERTURBATIONS[one_of("perturbation", given, PERTURBATIONS)]
    if strength is None:
        return made()
    most = 1.0 if given == "occlusion" else None
    value = number("strength", strength, "a number", least=0, above=True)
    if most is not None and value > most:
        raise refuse("strength", strength, "a share of the image's side in (0, 1]")
    return made(value)


def _mean(found: list[Overlap], name: str) -> float:
    """Mean over images; NaN if nothing was chosen in any of them."""
    known = [value for value in (getattr(one, name) for one in found) if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _median(values: torch.Tensor) -> float:
    """Median of the known values; NaN (not measured) if most filters do not move at all."""
    middle = float(values.nanmedian())
    return math.nan if math.isinf(middle) else middle


def _top_share(influence: torch.Tensor, top: int) -> float:
    known = influence.nan_to_num(0).sort(descending=True).values
    return float(known[:top].sum() / known.sum()) if known.sum() > 0 else math.nan


def _spearman(influence: torch.Tensor, other: torch.Tensor) -> float:
    """Rank correlation over the filters whose influence is known; NaN if there is no order."""
    known = influence.isfinite() & other.isfinite() if influence.shape == other.shape else torch.tensor(False)
    return float(rank_stability(influence[known], other[known])) if int(known.sum()) > 2 else math.nan
