"""Part interpretability through a real fit: against sums over the network's own maps, and on planted parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from convscope import HeldOut, PartInterpretability
from tests.callbacks.conftest import Classifier, loaders
from tests.metrics.test_parts import written_out
from tests.networks import Plain, images

SIDE, MARKED = 12, 40


class Spotted(nn.Module):
    """One filter that is the image itself, and one that is the same everywhere, whatever the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.conv.weight.data.zero_()
        self.conv.weight.data[0, 0, 1, 1] = 1
        self.conv.bias.data[:] = torch.tensor([0.0, 1.0])
        self.head = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).amax((2, 3)))


def spots() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images with one bright pixel each, labels, and where it is."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(2, SIDE - 3, (MARKED, 2), generator=generator)
    pictures = torch.zeros(MARKED, 1, SIDE, SIDE)
    pictures[torch.arange(MARKED), 0, places[:, 0], places[:, 1]] = 1 + torch.rand(MARKED, generator=generator)
    return pictures, torch.arange(MARKED) % 3, places[:, None].float()


def latest(run: Any, quantity: str, layer: str = "net.conv") -> float:
    return float(run.trainer.callback_metrics[f"parts/{quantity}/{layer}"])


def still(net: nn.Module) -> Classifier:
    return Classifier(net, lr=0.0)


def spot_loaders() -> tuple[DataLoader, DataLoader]:
    return tuple(DataLoader(TensorDataset(*spots()[:2]), 8) for _ in range(2))  # type: ignore[return-value]


def test_the_logged_numbers_are_the_sums_over_the_networks_own_maps(fit: Any) -> None:
    data = tuple(DataLoader(TensorDataset(*images(30, channels=1, seed=s)), 8) for s in (0, 1))
    callback = PartInterpretability(heldout=HeldOut(batch_size=7), on_error="raise")
    run = fit([callback], Classifier(Plain()), data)
    pictures, labels = images(30, channels=1, seed=1)
    net = run.module.net
    with torch.no_grad():
        first = torch.relu(net.conv1(pictures))
        maps = {"net.conv1": first, "net.conv2": torch.relu(net.conv2(first))}
    for layer, found in maps.items():
        sums = torch.tensor([written_out(found[:, c].double().numpy()) for c in range(found.shape[1])])
        for quantity, expected in zip(("filter_loss", "category_entropy", "spatial_entropy"), sums.T, strict=True):
            assert latest(run, quantity, layer) == pytest.approx(float(expected.median()), rel=1e-4)
        means = torch.stack([found[labels == k].sum((2, 3)).mean(0) for k in range(3)])
        purity = (means.amax(0) / means.sum(0))[means.sum(0) > 0]
        assert latest(run, "pure_filters", layer) == pytest.approx(float((purity > 0.8).float().mean()))


def test_what_is_written(fit: Any) -> None:
    run = fit([PartInterpretability(on_error="raise")])
    tags = run.events.Tags()
    for quantity in ("filter_loss", "category_entropy", "spatial_entropy", "pure_filters", "instability_proxy"):
        assert len(run.curve(f"parts/{quantity}/net.layer2.0.conv2")) == 3
    assert "parts/instability/net.conv1" not in tags["scalars"]  # there are no landmarks
    assert {"parts/maps/net.conv1", "parts/map/filter_loss"} <= set(tags["images"])
    assert "parts/filters/net.conv1" in tags["histograms"]


@pytest.mark.parametrize("batch_size", [1, 11])
def test_numbers_do_not_depend_on_chunks(fit: Any, batch_size: int) -> None:
    def numbers(size: int) -> dict[str, float]:
        torch.manual_seed(0)
        arguments: dict[str, Any] = {"images": 20, "proxy_images": 9, "heldout": HeldOut(batch_size=size)}
        run = fit([PartInterpretability(**arguments, on_error="raise")], Classifier(lr=0.0), max_epochs=1)
        return {key: float(v) for key, v in run.trainer.callback_metrics.items() if key.startswith("parts")}

    assert numbers(batch_size) == pytest.approx(numbers(30), rel=1e-4, abs=1e-6)


class Marked(Dataset):
    """Image, label and landmark, as a tuple or as a dict."""

    def __init__(self, named: bool) -> None:
        self.rows, self.named = spots(), named

    def __len__(self) -> int:
        return MARKED

    def __getitem__(self, i: int) -> Any:
        picture, label, place = (column[i] for column in self.rows)
        return {"image": picture, "label": label, "keypoints": place} if self.named else (picture, label, place)


def brightest(inputs: torch.Tensor) -> torch.Tensor:
    place = int(inputs[0, 0].argmax())
    return torch.tensor([[place // SIDE, place % SIDE]])


class OfFields(Classifier):
    """Takes batches with fields."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(_pair(batch), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(_pair(batch), batch_idx)


def _pair(batch: Any) -> Any:
    return (batch["image"], batch["label"]) if isinstance(batch, dict) else batch[:2]


@pytest.mark.parametrize(("named", "landmarks"), [(False, 2), (True, "keypoints"), (False, brightest)])
def test_a_filter_that_marks_its_part_is_stable(fit: Any, named: bool, landmarks: Any) -> None:
    data = tuple(DataLoader(Marked(named), 8) for _ in range(2))
    callback = PartInterpretability(landmarks=landmarks, filters=1, on_error="raise", heldout=HeldOut(size=30))
    run = fit([callback], OfFields(Spotted(), lr=0.0), data, max_epochs=1)
    assert latest(run, "instability") == pytest.approx(0, abs=1e-7)
    assert "parts/instability_proxy/net.conv" not in run.trainer.callback_metrics


def test_instability_of_a_filter_that_stands_still_is_the_spread_of_the_landmark(fit: Any) -> None:
    callback = PartInterpretability(landmarks=brightest, on_error="raise")
    run = fit([callback], still(Spotted()), spot_loaders(), max_epochs=1)
    places = spots()[2][:, 0]
    distance = ((places + 0.5) - 0.5).norm(dim=1) / (2**0.5 * SIDE)  # a constant map peaks at its first cell
    assert latest(run, "instability") == pytest.approx(distance.std(correction=0).item() / 2, rel=1e-3)


def test_the_proxy_is_zero_for_a_filter_that_moves_with_the_image(fit: Any) -> None:
    moving = PartInterpretability(filters=1, on_error="raise", name="moving")
    both = PartInterpretability(on_error="raise", proxy_images=12)
    run = fit([moving, both], still(Spotted()), spot_loaders(), max_epochs=1)
    metrics = run.trainer.callback_metrics
    assert float(metrics["moving/instability_proxy/net.conv"]) == pytest.approx(0, abs=1e-6)
    assert float(metrics["parts/instability_proxy/net.conv"]) > 0.1


def test_images_and_filters_limit_what_is_measured(fit: Any) -> None:
    callback = PartInterpretability(images=5, filters=2, on_error="raise", proxy_images=0)
    seen: list[tuple[int, ...]] = []
    compute = callback.compute

    def watched(layer: Any) -> Any:
        seen.append(tuple(callback._scores.of(layer).joined_maps()[1].shape))
        return compute(layer)

    callback.compute = watched  # type: ignore[method-assign]
    run = fit([callback], max_epochs=1)
    assert {shape[:2] for shape in seen} == {(5, 2)}
    assert not any("proxy" in key for key in run.trainer.callback_metrics)


def test_regression_has_filter_losses_and_no_purity(fit: Any) -> None:
    pictures, _ = images(30)
    targets = pictures.mean((2, 3))
    data = tuple(DataLoader(TensorDataset(pictures, targets), 8) for _ in range(2))

    class Regressor(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return nn.functional.mse_loss(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

    run = fit([PartInterpretability(on_error="raise")], Regressor(), data, max_epochs=1)
    assert "parts/filter_loss/net.conv1" in run.trainer.callback_metrics
    assert "parts/pure_filters/net.conv1" not in run.trainer.callback_metrics


class Vectors(nn.Module):
    """A one-dimensional convolution, then one with a single position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(3, 4, 3)
        self.conv2 = nn.Conv2d(3, 4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        line, point = self.conv1(x.mean(3)).relu().mean(2), self.conv2(x).relu().flatten(1)
        return self.head(torch.cat([line, point], 1))


def test_layers_without_maps_are_named(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(MisconfigurationException, match=r"it can measure none of the chosen layers: .*conv1.*conv2"):
        fit([PartInterpretability()], Classifier(Vectors()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 1}, "images=1: give a whole number of held-out images, at least 2"),
        ({"filters": 0}, "filters=0: give a whole number of filters, at least 1, or None for all filters"),
        ({"scale": "log"}, "scale='log': give one of 'as_is', 'total'"),
        ({"landmarks": 1.5}, r"landmarks=1.5: give a callable\(inputs\) -> \(K, 2\), the name or the place"),
        ({"proxy_images": -1}, "proxy_images=-1: give a whole number of images, at least 1, or 0 for no proxy"),
        ({"pictured": 1.0}, "pictured=1.0: give a whole number of filters"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartInterpretability(**arguments)


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (7, r"landmarks=7: the held-out batches, each a list, have no such field"),
        ("points", r"landmarks='points': the held-out batches, each a list, have no such field"),
        (lambda inputs: "here", r"gave a str; give a callable"),
        (lambda inputs: torch.zeros(3), r"gave points of shape \(3,\)"),
        (lambda inputs: torch.zeros(1 + int(inputs.sum() > 0), 2), r"gave 1 to 2 points; give the same K"),
    ],
)
def test_faulty_landmarks_are_refused_before_training(fit: Any, landmarks: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit([PartInterpretability(landmarks=landmarks)], data=loaders())
