"""Explainer network: the share of a layer's features that part filters express, distilled while the model trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from convscope._arguments import flag, number, whole_number, whole_number_or_none, whole_number_or_zero
from convscope.callbacks.engine import bridge
from convscope.callbacks.engine.findings import Findings, LayerResult, MapSpec, Moment
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.example_images import ExampleImages, first_image
from convscope.callbacks.parts.explainer_pictures import part_rows
from convscope.callbacks.parts.explaining import (
    Clock,
    Split,
    agreement,
    applied,
    instability,
    instability_proxy,
    judged_error,
    predictions,
    trained,
)
from convscope.callbacks.parts.feature_maps import FeatureMaps, maps_of, values_of
from convscope.callbacks.parts.landmarks import LandmarkPoints, Landmarks, check_landmarks, landmark_points
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.run_files import checkpoint_folder, moment_name, save_whole
from convscope.capture.data.heldout import HeldOut, HeldOutLike, as_heldout
from convscope.capture.network.layers import select_layers
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record, trace_layers
from convscope.explainers.distillation import DistilSettings
from convscope.explainers.two_track import ExplainerNetwork
from convscope.loggers import Backend
from convscope.loggers.filter_grid import FilterRow, example_grid

MOST_VALUES = 1 << 26
"""Number of feature values kept at once, a quarter of a gigabyte; with large maps fewer samples are used."""

_JUDGED = 4  # one sample in so many is not trained on


class Explainer(LayerObserver):
    """Distils an explainer network on the frozen model at each check, and measures the share that part filters express.

    An interpretable track (two convolutions with template masks and the filter loss) and an ordinary one, mixed by
    ``p = sigmoid(w)``, reconstruct the model's next features from those of a layer; no labels are used. Source:
    reconstruction (Zhang et al., arXiv 1805.07468, whose body is not public). Training is not touched: the features
    come from the shared pass, and the explainer has an optimizer and random streams of its own. It is saved beside the
    checkpoints, ``explainer-epoch=3.pt``; ``ExplainerNetwork.load(path)`` reads it.

    Args:
        target: Name of the layer whose features are reconstructed, after the explained one; by default the next conv
            unit, or after the last one the model's output.
        images: Images to distil on, or what ``HeldOut(...)`` reads them from: the training data set. By default three
            quarters of the held-out samples; what is logged is then measured on the others.
        samples: Number of held-out samples used, drawn once; fewer if their features would take more than 256 MB.
        steps: Largest number of optimizer steps per check.
        seconds: Time after which the steps end in any case, and the log says so.
        batch_size: Samples per step.
        learning_rate: Learning rate of Adam.
        interpretable: Weight η of ``-log p``, which rewards interpretable features; at least 0.
        filter_weight: Weight of the filter loss of the interpretable track; at least 0.
        filters: Number of filters per track; None for as many as the layer has, at most 128.
        warm_start: Continue from the last check's explainer; False starts over at each check.
        landmarks: As in :class:`~convscope.PartInterpretability`.
        proxy_images: Without landmarks, the number of held-out images moved for the proxy; 0 for none.
        pictured: Number of part filters in the picture; 0 for no picture.
        **arguments: See :class:`~convscope.LayerObserver`; by default ``every_n_epochs`` is 5, ``on_start`` False and
            ``max_layers`` 1, the last one.

    Logged for each layer:
        ``explainer/p/<layer>`` (share of the interpretable track, 0 to 1), ``explainer/error/<layer>`` (normalised
        reconstruction error, 0 best, 1 as good as the mean), ``explainer/agreement/<layer>`` (share of predictions
        that stay when the reconstruction replaces the model's features) and ``explainer/error_change/<layer>`` (rise of
        the error rate then) for classes; with landmarks ``explainer/instability/<layer>`` and
        ``explainer/original_instability/<layer>``, else the same with ``_proxy`` (image diagonals);
        ``explainer/steps/<layer>``.

    Picture: ``explainer/parts/<layer>``, the part filters' maps above those of the layer's own filters most like them.
    """

    family = "explainer"
    needs_filters = True
    includes_output = True
    intervenes = True
    charts: ClassVar[dict[str, str]] = {"p": "p, interpretable share", "error": "reconstruction error"}
    maps: ClassVar[dict[str, MapSpec]] = {"error": MapSpec("Explainer: reconstruction", "normalised error", 0.0, 1.0)}
    columns: ClassVar[dict[str, str]] = {"p": "p parts", "error": "expl. error"}

    def __init__(
        self,
        *,
        target: str | None = None,
        images: HeldOutLike = None,
        samples: int = 512,
        steps: int = 300,
        seconds: float = 60.0,
        batch_size: int = 64,
        learning_rate: float = 1e-2,
        interpretable: float = 0.1,
        filter_weight: float = 0.05,
        filters: int | None = None,
        warm_start: bool = True,
        landmarks: Landmarks | None = None,
        proxy_images: int = 64,
        pictured: int = 3,
        every_n_epochs: int = 5,
        on_start: bool = False,
        max_layers: int | None = 1,
        **arguments: Any,
    ) -> None:
        self.target, self.images = _name_or_none(target), as_heldout(images, "images")
        self.samples = whole_number("samples", samples, "a whole number of held-out samples", least=2 * _JUDGED)
        self.seconds = number("seconds", seconds, "seconds", least=0.0, above=True)
        self.filters = whole_number_or_none("filters", filters, "as many as the layer has", "a whole number of filters")
        self.warm_start = flag("warm_start", warm_start)
        self.landmarks = check_landmarks(landmarks)
        self.proxy_images = whole_number_or_zero("proxy_images", proxy_images, "no proxy", "a whole number of images")
        self.pictured = whole_number_or_zero("pictured", pictured, "no picture", "a whole number of filters")
        self.settings = DistilSettings(
            whole_number("steps", steps, "a whole number of steps"),
            whole_number("batch_size", batch_size, "a whole number of samples", least=2),
            number("learning_rate", learning_rate, least=0.0, above=True),
            number("interpretable", interpretable, least=0.0),
            number("filter_weight", filter_weight, least=0.0),
        )
        super().__init__(every_n_epochs=every_n_epochs, on_start=on_start, max_layers=max_layers, **arguments)
        self._trainer: pl.Trainer | None = None
        self._folder = Path()
        self._plan: Plan | None = None
        self._sample: HeldOut | None = None
        self._split: Split | None = None
        self._targets: dict[str, Layer] = {}
        self._points: LandmarkPoints | None = None
        self._moved: HeldOut | None = None
        self._features: FeatureMaps | None = None
        self._networks: dict[str, ExplainerNetwork] = {}
        self._found: dict[str, dict[str, float]] = {}
        self._distilled_now: set[str] = set()  # in this check
        self._steps = 0
        self._rows: dict[str, list[FilterRow]] = {}
        self.saved: list[Path] = []
        """Files written in this run, on the main process."""

    def suits(self, layer: Layer) -> bool:
        return layer.is_output or (len(layer.spatial) == 2 and min(layer.spatial) > 1)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._trainer, self.saved = trainer, []
        # Here, on every process, since it is a collective.
        self._folder = bridge.run_folder(trainer) / "checkpoints"

    # Before training.

    def ready(self, plan: Plan) -> None:
        self._plan, heldout = plan, plan.heldout
        explained = [layer for layer in plan.layers[self.name] if not layer.is_output]
        output = next((layer for layer in plan.layers[self.name] if layer.is_output), None)
        units = self._units(plan)
        self._targets = {layer.name: self._target_of(layer, units, output) for layer in explained}
        needed = {layer.id: layer for layer in [*explained, *self._targets.values(), *([output] if output else [])]}
        plan.layers[self.name] = sorted(needed.values(), key=lambda layer: layer.order)
        values = sum(values_of(layer) for layer in needed.values())
        self._sample = heldout.sample(min(self.samples, max(2 * _JUDGED, MOST_VALUES // values)))
        self._read_training_images()
        self._split = self._divided(plan, self._sample)
        self._ready_for_places(plan)
        for name, target in self._targets.items():
            plan.messages.append(
                f"{self.name} distils an explainer of {name} (next features: {target.name}) at each check, in at most "
                f"{self.settings.steps} steps and {self.seconds:g} s"
            )
        if not plan.outputs.classes:
            plan.messages.append(
                f"{self.name} compares no predictions: the model's outputs are not known to be classes"
            )

    def _units(self, plan: Plan) -> list[Layer]:
        """Layers whose features may be reconstructed, in the order in which they run."""
        found = trace_layers(plan.subject, plan.heldout)[0]
        named = [self.target] if self.target is not None and self.target != "output" else None
        return [layer for layer in select_layers(found, named) if not layer.problem]

    def _target_of(self, layer: Layer, units: list[Layer], output: Layer | None) -> Layer:
        later = [unit for unit in units if unit.order > layer.order and len(unit.spatial) == 2]
        if self.target == "output":
            later = []
        elif self.target is not None and not later:
            raise ValueError(
                f"target={self.target!r} does not run after {layer.name}, or has no maps (C, H, W); give a layer that "
                "does, or None for the next conv unit"
            )
        if later:
            return later[0]
        if output is None or len(output.spatial) > 0:
            raise ValueError(
                f"Explainer has no next features to reconstruct after {layer.name}: no conv unit follows, and the "
                "model's output is not one row (N, K); choose an earlier layer, Explainer(layers=...)"
            )
        return output

    def _read_training_images(self) -> None:
        if self.images is not None and self._trainer is not None and self._plan is not None:
            self.images.prepare(
                transfer=bridge.transfer(self._trainer),
                rank=self._trainer.global_rank,
                world_size=self._trainer.world_size,
                gather=self._plan.heldout.gather,
                most=self.images.batch_size if bridge.fast_dev_run(self._trainer) else None,
            )

    def _divided(self, plan: Plan, sample: HeldOut) -> Split:
        here = {n: -1 for n in sample.index.tolist() if n >= 0}
        if plan.outputs.classes and sample.targets is not None:
            labels = plan.outputs.true_classes(sample.labels.canonical(sample.targets))
            here |= {n: int(k) for n, k in zip(sample.index.tolist(), labels.tolist(), strict=True) if n >= 0}
        known = {n: label for part in plan.heldout.gather(here) for n, label in part.items()}
        numbers = torch.tensor(sorted(known))
        fitted = torch.zeros(len(numbers), dtype=torch.bool)
        if self.images is None:
            judged = sample.sample(max(1, len(numbers) // _JUDGED))
            chosen = torch.cat(plan.heldout.gather(judged.index))
            fitted = ~torch.isin(numbers, chosen)
        return Split(numbers, fitted, torch.tensor([known[n] for n in sorted(known)]))

    def _ready_for_places(self, plan: Plan) -> None:
        image = first_image(plan.heldout.one(int(plan.heldout.index[0])))
        self._size = (1, 1) if image is None else (int(image.shape[-2]), int(image.shape[-1]))
        self._examples = ExampleImages(plan.heldout)
        if self.landmarks is not None:
            self._points = landmark_points(self.landmarks, plan.heldout, self._trainer)
        elif self.proxy_images and image is None:
            plan.messages.append(
                f"{self.name} has no equivariance proxy: the held-out inputs are not images (N, C, H, W)"
            )
        elif self.proxy_images:
            self._moved = plan.heldout.sample(self.proxy_images)

    # In a check.

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._features = FeatureMaps(layers, None if self._sample is None else self._sample.index)
        self._found, self._rows, self._distilled_now = {}, {}, set()

    def on_activation(self, record: Record) -> None:
        if self._features is not None:
            self._features.on_activation(record)

    def intervene(self, layer: Layer) -> None:
        plan, split = self._plan, self._split
        if layer.name not in self._targets or plan is None or split is None or self._features is None:
            return
        target = self._targets[layer.name]
        features, wanted = self._features.of(layer), self._features.of(target)
        network = self._distilled(layer, target, features, wanted, split, plan)
        found, parts = applied(network, features, plan.chunk_size)
        results = {"p": float(network.p.detach()), "error": judged_error(found, wanted, split)}
        if plan.outputs.classes and self._sample is not None:
            output = next(each for each in self._features.layers.values() if each.is_output)
            own = plan.outputs.predicted(self._features.of(output)).cpu()
            results |= agreement(predictions(plan, self._sample, target, found, split), own, split)
        if self._points is not None:
            results |= instability(features, parts, self._points, plan, split, self._size)
        elif self._moved is not None:
            results |= instability_proxy(network, layer, plan, self._moved, self._size)
        self._found[layer.name] = results | {"steps": float(self._steps)}
        if self.pictured and self.pictures:
            self._rows[layer.name] = part_rows(parts, features, split, self._examples, self.pictured)

    def _distilled(
        self, layer: Layer, target: Layer, features: torch.Tensor, wanted: torch.Tensor, split: Split, plan: Plan
    ) -> ExplainerNetwork:
        if layer.name in self._distilled_now:  # measured again with a smaller chunk
            return self._networks[layer.name]
        if self.images is None:
            rows = split.fitted.to(features.device)
            features, wanted = features[rows], wanted[rows]
        else:
            seen = maps_of(plan.subject, self.images, [layer, target], plan.chunk_size)
            features, wanted = seen.of(layer), seen.of(target)
        before = self._networks.get(layer.name) if self.warm_start else None
        clock = Clock(self.seconds, plan.heldout)

        def go_on(step: int) -> bool:
            self._tell_progress()
            return clock(step)

        network, self._steps = trained(before, features, wanted, self.filters, self.settings, go_on)
        made, most = self._steps, self.settings.steps
        if made < most:
            rank_zero_info(f"convscope: {self.name}: {self.seconds:g} s were over after {made} of {most} steps")
        self._networks[layer.name] = network
        self._distilled_now.add(layer.name)
        return network

    def _tell_progress(self) -> None:
        """Report one step of a layer's distillation to the engine's progress bar."""
        progress = getattr(self.session, "progress", None)
        if progress is not None:
            progress.advance(1 / self.settings.steps)

    def compute(self, layer: Layer) -> LayerResult | None:
        return LayerResult(dict(self._found[layer.name])) if layer.name in self._found else None

    def remember(self, findings: Findings, when: Moment) -> None:
        """Keep the explainers, and save them beside the checkpoints."""
        super().remember(findings, when)
        trainer = self._trainer
        if trainer is None or not trainer.is_global_zero or bridge.fast_dev_run(trainer):
            return
        for name in findings.layers:
            suffix = f"-{name}" if len(self._targets) > 1 else ""
            path = checkpoint_folder(trainer, self._folder) / f"{self.name}-{moment_name(when)}{suffix}.pt"
            about = {"layer": name, "target": self._targets[name].name, "epoch": when.epoch, "step": when.step}
            save_whole(self._networks[name].saved(**about), path)
            self.saved.append(path)

    def draw(self, dashboard: Backend, when: Moment) -> None:
        for name, rows in self._rows.items():
            if rows:
                dashboard.image(
                    f"{self.name}/parts/{name}", example_grid(rows, f"{name}, epoch {when.epoch}"), when.step
                )

    def end(self) -> None:
        self._features, self._found, self._rows = None, {}, {}

    def state(self) -> dict[str, Any]:
        kept = {name: network.saved() for name, network in self._networks.items()} if self.warm_start else {}
        return super().state() | {"networks": kept}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._networks = {name: ExplainerNetwork.restored(saved) for name, saved in state["networks"].items()}

    def restart(self) -> None:
        super().restart()
        self._networks = {}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._trainer = self._plan = self._sample = self._split = self._points = self._moved = None


def _name_or_none(target: Any) -> str | None:
    if target is None or (isinstance(target, str) and target):
        return target
    raise ValueError(f"target={target!r}: give the name of a layer, 'output', or None for the next conv unit")
