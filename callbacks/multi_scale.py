"""Multi-scale interpretation: where the network looks in a few images, and at what detail, over training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import numpy as np

from convscope._arguments import number, one_of, share, text_or_none, whole_number, whole_number_or_none
from convscope.callbacks.engine.bridge import processes
from convscope.callbacks.engine.findings import Findings, LayerResult, Moment, Values
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.example_images import image_among
from convscope.callbacks.parts.explained_images import ExplainedImages
from convscope.callbacks.parts.explanations import Explanations, spread_rows
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.output_probability import Target, check_target, why_no_probability
from convscope.callbacks.parts.switched_copies import SwitchedCopies
from convscope.callbacks.parts.two_scales import SWITCHINGS, FitSettings, TwoScales, explained
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.layers import LayerSpec, as_entries
from convscope.capture.network.trace import Layer
from convscope.explainers.segments import SEGMENTERS, Segmenter, require_segmenter
from convscope.explainers.switches import FILLS, Fill
from convscope.loggers import Backend
from convscope.loggers.explanations import SheetRow, explanation_sheet
from convscope.loggers.record import Storable
from convscope.metrics.functional import TwoScaleWeights

_ROWS = 8  # of a picture
_FEWEST = 4  # pixels a side


class MultiScaleInterpretation(LayerObserver):
    r"""Importance of an image's super-pixels at two scales: a sparse linear model of the class probability.

    An image is divided into coarse super-pixels and fine ones inside them. In each of ``samples`` copies every fine one
    is on or off by chance, and the network says how probable the class is in each copy. Two linear models explain that,
    of what is on at the coarse scale, times the deep layer's activation there, and at the fine scale, times the shallow
    layer's; the fine weights inside a coarse super-pixel add up to its weight. Importance is weight times activation:
    how much of the probability the super-pixel brings.

    Source: paper (Cui, Wang and Wang, "Multi-scale interpretation model for convolutional neural networks", IEEE TMM
    2019). What it leaves open is ours: the number of super-pixels and of copies (the paper draws 5,000), grid cells,
    penalties by target sparsity, activations in units of their layer's mean size over the image (the tie compares
    weights at two layers), the width of the weights (the median distance), the whole image among the copies.

    Args:
        images: Number of held-out images that are explained, the same at every check.
        samples: Number of copies of each image, the same at every check.
        deep: Name or glob of the deep layer; by default the last conv unit. Of several that match, the last.
        shallow: Name or glob of the shallow layer; by default the conv unit at a third of the depth. Of several that
            match, the first.
        target: The class whose probability is explained: ``"label"``, ``"predicted"`` for the image as it is, or a
            number.
        segments: ``"grid"`` for cells, or ``"slic"`` or ``"quickshift"`` for super-pixels by colour, which need
            scikit-image (``pip install 'convscope[segments]'``). The same at every check.
        coarse: Approximate number of coarse super-pixels; None for 16, and fewer on images below 16 × 16.
        fine: Approximate number of fine ones; None for 64, likewise.
        fill: Pixels of a super-pixel that is off: ``"zero"`` (the paper's; of normalised images the mean colour of
            the data), ``"mean"`` of the image, or ``"blur"``, the image blurred.
        nonzero: Largest share of an image's fine super-pixels that get a weight, in (0, 1].
        balance: Weight of the fine scale in the objective, the paper's μ.
        layers: Candidates for both layers, as in :class:`~convscope.LayerObserver`.
        **arguments: See :class:`~convscope.LayerObserver`; ``every_n_epochs`` is 5 by default, ``on_start``
            False, ``max_layers`` None.

    Logged once per check, means over images:
        ``multi_scale/r2_coarse``, ``multi_scale/r2_fine`` (weighted R² of each scale, 0 to 1),
        ``multi_scale/nonzero_coarse``, ``multi_scale/nonzero_fine`` (share of weights that are not zero),
        ``multi_scale/constraint_residual`` (largest ``|w_f T - w_c|``), ``multi_scale/optimality`` (largest distance of
        the solver from the optimum, relative), ``multi_scale/probability`` (of the class, in the whole images),
        ``multi_scale/focus`` (share of the evidence at that place of 8 × 8 where all images together have most, to 1),
        ``multi_scale/deletion`` and ``multi_scale/insertion`` (area under the probability as the most important fine
        super-pixels are switched off, or on, first), each also ``…_gradient`` (by gradient × activation of the deep
        layer) and ``…_random``, and ``multi_scale/deletion_gain`` (random minus own, above 0 where it finds what
        matters).
    Logged from the second check on, compared with the previous check:
        ``multi_scale/top1_stability`` (share of images whose most important coarse super-pixel is the same),
        ``multi_scale/iou`` (of the fine super-pixels with evidence for the class), ``multi_scale/rank_correlation`` (of
        fine importances, -1 to 1), ``multi_scale/shift`` (largest rise of the share of the evidence at one place).

    Pictures: ``multi_scale/image/<number>``, a row per check: the image, coarse and fine importance.

    Raises:
        ValueError: if an argument is out of range.
        ImportError: if scikit-image is needed and missing.
    """

    family = "multi_scale"
    needs_filters = True
    includes_output = True
    takes_output_as_logits: Literal[False, "too", "only"] = "only"
    intervenes = True
    charts: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        *,
        images: int = 8,
        samples: int = 512,
        deep: str | None = None,
        shallow: str | None = None,
        target: Target = "label",
        segments: Segmenter = "grid",
        coarse: int | None = None,
        fine: int | None = None,
        fill: Fill = "zero",
        nonzero: float = 0.75,
        balance: float = 1.0,
        layers: LayerSpec = None,
        every_n_epochs: int = 5,
        on_start: bool = False,
        max_layers: int | None = None,
        **arguments: Any,
    ) -> None:
        self.images = whole_number("images", images, "a whole number of held-out images")
        self.samples = whole_number("samples", samples, "a whole number of copies", least=2)
        self.deep = text_or_none("deep", deep, "the name of a layer, or None for the last conv unit")
        self.shallow = text_or_none("shallow", shallow, "the name of a layer, or None for one at a third of the depth")
        self.target = check_target(target)
        self.segments = one_of("segments", segments, SEGMENTERS)
        self.coarse = whole_number_or_none("coarse", coarse, "what suits the images", "a whole number of super-pixels")
        self.fine = whole_number_or_none(
            "fine", fine, "what suits the images", "a whole number of super-pixels", least=self.coarse or 1
        )
        self.fill = one_of("fill", fill, FILLS)
        self.nonzero = share("nonzero", nonzero, "a share of the fine super-pixels")
        self.balance = number("balance", balance, least=0.0, above=True)
        require_segmenter(self.segments)
        named = [name for name in (self.shallow, self.deep) if name is not None]
        candidates = [*(as_entries(layers) or ["*"]), *named] if named else layers
        super().__init__(
            candidates, every_n_epochs=every_n_epochs, on_start=on_start, max_layers=max_layers, **arguments
        )
        self._images: ExplainedImages | None = None
        self._copies: SwitchedCopies | None = None
        self._places: tuple[Layer, ...] = ()
        self._usable: set[str] = set()
        self._settings = FitSettings(self.samples, self.nonzero, self.balance, 0)
        self._found: TwoScales | None = None
        self._start: TwoScaleWeights | None = None
        self._rows: list[Explanations] = []
        self._passes = 1

    @property
    def takes_targets_as(self) -> Literal["nothing", "inferred", "classes"]:
        return "classes" if self.target == "label" else "nothing"

    # Before training.

    def suits(self, layer: Layer) -> bool:
        return layer.is_output or (len(layer.spatial) == 2 and min(layer.spatial) > 1 and layer.repeats == 1)

    def skips(self, heldout: HeldOut, no_loss: str | None) -> str | None:
        found = image_among(next(iter(heldout.chunks())).inputs)
        if found is None:
            return "the held-out inputs are not images (N, C, H, W)"
        if not found.is_floating_point():
            return f"the held-out images are {found.dtype}; make them floats, so that parts can be switched off"
        if heldout.summary is None and self.target == "label":
            return "there are no labels; MultiScaleInterpretation(target='predicted') needs none"
        if min(found.shape[2:]) < _FEWEST:
            return f"the held-out images are {found.shape[2]} × {found.shape[3]} pixels, too small for two scales"
        return None

    def ready(self, plan: Plan) -> None:
        *inner, output = plan.layers[self.name]
        reason = self._why_not(plan, output)
        if reason is not None:
            plan.messages.append(f"{self.name} is inactive: {reason}")
            plan.observers.remove(self)
            del plan.layers[self.name]
            return
        shallow, deep = self._pick(inner)
        sample = plan.heldout.sample(self.images)
        self._images = ExplainedImages(sample, self.segments, (self.coarse, self.fine))
        self._places = (shallow, deep, output)
        plan.layers[self.name] = list({layer.id: layer for layer in self._places}.values())
        self._copies = SwitchedCopies(
            plan, sample, self._images, (shallow, deep, output), self.target, self.fill, self._tell_progress
        )
        self._settings = replace(self._settings, seed=plan.heldout.seed)
        each, here = self.samples + SWITCHINGS, -(-len(self._images) // processes())
        self._passes = here * sum(-(-rows // plan.chunk_size) for rows in (self.samples, SWITCHINGS))
        plan.messages.append(
            f"{self.name} explains {len(self._images)} images by {each} copies each per check, {self._images.most[0]} "
            f"coarse super-pixels at {deep.name} and {self._images.most[1]} fine ones at {shallow.name}"
        )

    def _why_not(self, plan: Plan, output: Layer) -> str | None:
        if not output.is_output:
            return "the model's output is not one row per sample"
        return why_no_probability(plan.outputs, self.target)

    def _pick(self, inner: list[Layer]) -> tuple[Layer, Layer]:
        """The shallow and the deep layer among those that can be measured, in depth order."""
        deep = inner[-1] if self.deep is None else _named("deep", self.deep, inner)[-1]
        until = [layer for layer in inner if layer.order <= deep.order]
        if self.shallow is None:
            return until[round((len(until) - 1) / 3)], deep
        shallow = _named("shallow", self.shallow, inner)[0]
        if shallow.order > deep.order:
            raise ValueError(f"shallow={self.shallow!r}: {shallow.name} runs after the deep layer, {deep.name}")
        return shallow, deep

    # In a check.

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._usable, self._found = set(), None

    def intervene(self, layer: Layer) -> None:
        """All that is measured needs both layers and the output, so it waits for the last of them."""
        self._usable.add(layer.name)
        every = {one.name for one in self._places} <= self._usable
        if layer.is_output and every and self._copies is not None and self._images is not None:
            self._found = explained(self._copies, self._images, self._settings, self._start)
            self._start = self._found.result.weights

    def _tell_progress(self) -> None:
        """One forward pass more."""
        if self.session is not None:
            self.session.progress.advance(1 / self._passes)

    def compute(self, layer: Layer) -> LayerResult | None:
        return None if layer.is_output or self._found is None else LayerResult({})

    def summarise(self, values: Values) -> dict[str, float]:
        if self._found is None or self._images is None:
            return {}
        now, counts = self._found.explanations, [image.segments.counts for image in self._images.images]
        before = self._rows[-1] if self._rows else None
        changed = now.since(before, counts) if before is not None and now.comparable(before) else {}
        return self._found.scalars() | changed

    def remember(self, findings: Findings, when: Moment) -> None:
        super().remember(findings, when)
        if self._found is not None:
            self._rows.append(replace(self._found.explanations, when=when.label))

    def draw(self, dashboard: Backend, when: Moment) -> None:
        if self._images is None or self._found is None:
            return
        for place, image in enumerate(self._images.images):
            rows = [row for row in spread_rows(self._rows, _ROWS) if row.chosen[place] >= 0]
            if image.picture is not None and rows:
                p, q = image.segments.counts
                sheet = explanation_sheet(
                    image.picture,
                    (image.segments.coarse.numpy(), image.segments.fine.numpy()),
                    [_sheet_row(row, place, p, q) for row in rows],
                    f"held-out sample {image.number}",
                )
                dashboard.image(f"{self.name}/image/{image.number}", sheet, when.step)

    def arrays(self) -> Mapping[str, Storable]:
        """Importances by image, with the number of each image in the held-out set and the class explained."""
        if self._images is None or self._found is None:
            return {}
        found = self._found.explanations
        return {
            "images": np.array([image.number for image in self._images.images]),
            "coarse": found.coarse.numpy(),
            "fine": found.fine.numpy(),
            "classes": found.chosen.numpy(),
            "probability": found.probability.float().numpy(),
        }

    def end(self) -> None:
        self._found = None

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._images = self._copies = None

    # From check to check.

    def restart(self) -> None:
        super().restart()
        self._rows, self._start = [], None

    def state(self) -> dict[str, Any]:
        start = None if self._start is None else self._start._asdict()
        return super().state() | {"rows": [row.state_dict() for row in self._rows], "start": start}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._rows = [Explanations(**row) for row in state["rows"]]
        self._start = None if state["start"] is None else TwoScaleWeights(**state["start"])


def _named(argument: str, name: str, layers: list[Layer]) -> list[Layer]:
    found = [layer for layer in layers if layer.name == name or fnmatchcase(layer.name, name)]
    if not found:
        raise ValueError(
            f"{argument}={name!r}: no layer of that name has a map (H, W) that can be measured; give one of "
            f"{', '.join(layer.name for layer in layers)}"
        )
    return found


def _sheet_row(row: Explanations, place: int, coarse: int, fine: int) -> SheetRow:
    note = f"class {int(row.chosen[place])}, p {float(row.probability[place]):.2f}"
    return SheetRow(row.when, note, row.coarse[place, :coarse].numpy(), row.fine[place, :fine].numpy())
