"""Landmarks of held-out images: from a function of the inputs, or from a field of the data set's batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from convscope._arguments import refuse
from convscope.callbacks.engine import bridge
from convscope.callbacks.parts.example_images import first_image
from convscope.capture.data.heldout import HeldOut
from convscope.capture.errors import UserError

Landmarks = Callable[[Any], Any] | str | int
"""``landmarks(inputs) -> (K, 2)`` of one sample, or the name or place of a batch's field that holds ``(N, K, 2)``."""

_GIVE = (
    "a callable(inputs) -> (K, 2), the name or the place of a field of the batches that holds (N, K, 2), rows and "
    "columns in pixels, or None if there are none"
)


def check_landmarks(landmarks: Any) -> Landmarks | None:
    """The argument as it was given.

    Raises:
        ValueError: if it is neither a function, a name, a place nor None.
    """
    is_place = isinstance(landmarks, int) and not isinstance(landmarks, bool)
    if landmarks is None or callable(landmarks) or (isinstance(landmarks, str) and landmarks) or is_place:
        return landmarks  # type: ignore[no-any-return]
    raise refuse("landmarks", landmarks, _GIVE)


class LandmarkPoints:
    """Landmarks of this process's held-out samples by their number, as shares of the image's height and width.

    Args:
        points: By number, ``(K, 2)`` float32; NaN where an image lacks a landmark.
    """

    def __init__(self, points: dict[int, torch.Tensor]) -> None:
        self._points = points

    def of(self, index: torch.Tensor) -> torch.Tensor:
        """``(n, K, 2)`` of the samples numbered ``index`` ``(n,)``."""
        return torch.stack([self._points[number] for number in index.tolist()])

    def __contains__(self, number: int) -> bool:
        return number in self._points


def landmark_points(landmarks: Landmarks, heldout: HeldOut, trainer: pl.Trainer | None) -> LandmarkPoints:
    """Read the landmarks of all held-out samples of this process; every process must call it.

    Raises:
        ValueError: if they are not ``(K, 2)`` points, or the field cannot be read beside the images.
    """
    numbers = [number for number in heldout.index.tolist() if number >= 0]
    fields = None if callable(landmarks) else _field_of_all(landmarks, heldout, trainer)
    raw = {}
    for number in numbers:
        inputs = heldout.one(number)
        image = first_image(inputs)
        if image is None:
            raise ValueError(f"landmarks={_said(landmarks)}: the held-out inputs are not images (N, C, H, W)")
        given = landmarks(inputs) if callable(landmarks) else None if fields is None else fields.one(number)
        raw[number] = _as_shares(given, landmarks, image.shape[-2:])
    lengths = {len(points) for points in raw.values()}
    everywhere = {length for found in heldout.gather(lengths) for length in found}
    if len(everywhere) > 1:
        raise ValueError(
            f"landmarks={_said(landmarks)} gave {min(everywhere)} to {max(everywhere)} points; give the same K for "
            "every image, with NaN for those that it lacks"
        )
    return LandmarkPoints(raw)


def _as_shares(given: Any, landmarks: Landmarks, size: torch.Size) -> torch.Tensor:
    try:
        points = torch.as_tensor(given, dtype=torch.float32).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"landmarks={_said(landmarks)} gave a {type(given).__name__}; give {_GIVE}") from error
    points = points[0] if points.dim() == 3 and len(points) == 1 else points
    if points.dim() != 2 or points.shape[1] != 2:
        raise ValueError(f"landmarks={_said(landmarks)} gave points of shape {tuple(points.shape)}; give {_GIVE}")
    return (points + 0.5) / torch.tensor(size, dtype=torch.float32)


def _said(landmarks: Landmarks) -> str:
    return getattr(landmarks, "__name__", type(landmarks).__name__) if callable(landmarks) else repr(landmarks)


class FieldAdapter:
    """An adapter that gives a field of a batch instead of its inputs, and the targets unchanged."""

    def __init__(self, adapter: Any, field: str | int) -> None:
        self._adapter, self._field = adapter, field
        self.__name__ = f"landmarks={field!r}"

    def __call__(self, batch: Any) -> tuple[Any, Any]:
        values = _field(batch, self._field)
        if not isinstance(values, torch.Tensor):
            raise UserError(f"landmarks={self._field!r} is a {type(values).__name__} in the batches; give {_GIVE}")
        return values, self._adapter(batch)[1]


def _field(batch: Any, field: str | int) -> Any:
    try:
        if isinstance(field, int) or isinstance(batch, Mapping):
            return batch[field]
        return getattr(batch, field)
    except (KeyError, IndexError, TypeError, AttributeError):
        known = f" with {list(batch)}" if isinstance(batch, Mapping) else ""
        raise UserError(
            f"landmarks={field!r}: the held-out batches, each a {type(batch).__name__}{known}, have no such field"
        ) from None


def _field_of_all(field: str | int, heldout: HeldOut, trainer: pl.Trainer | None) -> HeldOut:
    """The same held-out samples again, with the field instead of the inputs."""
    twin = HeldOut(
        heldout.source,
        heldout.size,
        heldout.batch_size,
        heldout.stratify,
        heldout.seed,
        FieldAdapter(heldout.adapter, field),
        ignore_index=heldout.ignore_index,
        classes=heldout.classes,
    )
    default = None
    if trainer is not None and heldout.source is None:
        default = bridge.validation_loader(trainer, trainer.lightning_module, heldout.seed)
    alone = trainer is None
    twin.prepare(
        default,
        rank=0 if alone else trainer.global_rank,  # type: ignore[union-attr]
        world_size=1 if alone else trainer.world_size,  # type: ignore[union-attr]
        gather=heldout.gather,
        most=None if alone or not bridge.fast_dev_run(trainer) else heldout.batch_size,  # type: ignore[arg-type]
    )
    if twin.tapping or not _same_samples(twin, heldout):
        raise ValueError(
            f"landmarks={field!r}: the held-out samples cannot be read a second time in the same order; give a "
            "callable(inputs) -> (K, 2), or a data set whose samples are read by number"
        )
    return twin


def _same_samples(twin: HeldOut, heldout: HeldOut) -> bool:
    same = twin.index.sort().values.equal(heldout.index.sort().values)
    if same and heldout.targets is not None and twin.targets is not None:
        same = twin.targets[twin.index.argsort()].equal(heldout.targets[heldout.index.argsort()])
    return all(heldout.gather(same))
