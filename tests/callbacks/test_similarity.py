"""LayerSimilarity, ClassFilters and FilterPictures in a real fit, against NumPy on activations taken by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convscope import ClassFilters, FilterPictures, HeldOut, LayerSimilarity
from convscope.metrics.functional import linear_cka
from tests.callbacks.conftest import Classifier
from tests.networks import images

Fit = Callable[..., Any]
ONCE: dict[str, Any] = {"every_n_epochs": 2, "on_start": False, "on_error": "raise"}


def held_out() -> HeldOut:
    return HeldOut(images(45, seed=5), batch_size=16)


def last(run: Any, tag: str) -> float:
    return run.curve(tag)[-1][1]


@torch.no_grad()
def by_hand(module: Classifier) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The stem's map, the first block's inner map and the logits of the trained network."""
    net, x = module.eval().net, images(45, seed=5)[0]
    stem = F.relu(net.bn1(net.conv1(x)))
    block = net.layer1[0]
    return stem, F.relu(block.bn1(block.conv1(stem))), net(x)


@pytest.mark.parametrize("debiased", [False, True])
def test_similarity_of_layers_to_one_another_and_to_the_output(fit: Fit, debiased: bool) -> None:
    layers = ["net.conv1", "net.layer1.0.conv1"]
    run = fit([LayerSimilarity(heldout=held_out(), layers=layers, debiased=debiased, **ONCE)])
    stem, inner, logits = by_hand(run.module)
    a, b = stem.mean((2, 3)), inner.mean((2, 3))
    pairs = [linear_cka(a, b, debiased), linear_cka(a, logits, debiased), linear_cka(b, logits, debiased)]
    assert last(run, "similarity/to_previous/net.layer1.0.conv1") == pytest.approx(float(pairs[0]), abs=1e-4)
    assert last(run, "similarity/to_output/net.conv1") == pytest.approx(float(pairs[1]), abs=1e-4)
    assert last(run, "similarity/to_previous/output") == pytest.approx(float(pairs[2]), abs=1e-4)
    assert last(run, "similarity/mean") == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-4)
    assert "similarity/layers" in run.events.Tags()["images"]


def test_the_filters_of_each_class_are_those_of_numpys_correlation(fit: Fit) -> None:
    run = fit([ClassFilters(heldout=held_out(), layers="net.layer1.0.conv1", top=1, **ONCE)])
    _, inner, logits = by_hand(run.module)
    pooled = inner.mean((2, 3)).numpy()
    rho = np.array([[_rho(pooled[:, c], logits[:, k].numpy()) for k in range(3)] for c in range(pooled.shape[1])])
    layer = "net.layer1.0.conv1"
    assert last(run, f"class_filters/strongest/{layer}") == pytest.approx(rho.max(0).mean(), abs=1e-4)
    served = np.clip(rho, 0, None) ** 2
    shares = (served.max(0) / np.maximum(served.sum(0), 1e-12)).mean()
    assert last(run, f"class_filters/top_share/{layer}") == pytest.approx(shares, abs=1e-4)
    text = run.events.Tensors(f"class_filters/top/{layer}/text_summary")[-1].tensor_proto.string_val[0].decode()
    for k, line in enumerate(text.splitlines()[2:]):
        named = f"| {k} | {served[:, k].argmax()} (" if served[:, k].max() > 0 else f"| {k} | none"
        assert line.startswith(named)


def _rho(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def test_pictures_show_the_samples_with_the_highest_peaks(fit: Fit) -> None:
    class Keeps(FilterPictures):
        def end(self) -> None:
            self.kept = (self._peaks, self._rows) if self._rows else getattr(self, "kept", None)
            super().end()

    callback = Keeps(heldout=held_out(), layers="net.conv1", criterion="weight_l1", filters=2, images=3, **ONCE)
    run = fit([callback])
    stem, _, _ = by_hand(run.module)
    peaks, rows = callback.kept
    for number in range(4):
        expected = stem[:, number].amax((1, 2)).sort(descending=True).values[:3]
        found = peaks["net.conv1"].of(number)
        torch.testing.assert_close(torch.stack([m.max() for _, m in found]), expected, rtol=1e-4, atol=1e-5)
        for sample, activation in found:
            torch.testing.assert_close(activation, stem[sample, number], rtol=1e-4, atol=1e-5)
    norms = run.module.net.conv1.weight.abs().flatten(1).sum(1)
    assert [number for number, _ in rows["net.conv1"][:2]] == norms.argsort(descending=True)[:2].tolist()
    assert len(run.events.Images("filter_pictures/net.conv1")) == 1


def test_inputs_that_are_no_images_have_no_pictures(fit: Fit) -> None:
    class Signals(Classifier):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x[..., None].expand(-1, -1, -1, 8))

    x, y = images(40)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x[..., 0], y), 8)
    run = fit([FilterPictures(every_n_epochs=1)], module=Signals(), data=[data, data])
    assert not [tag for tag in run.events.Tags()["images"] if tag.startswith("filter_pictures")]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(ClassFilters, {"top": 0}), (FilterPictures, {"filters": 0}), (FilterPictures, {"images": True}),
     (FilterPictures, {"criterion": "magic"})],
)  # fmt: skip
def test_bad_arguments_are_refused_by_name(kind: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        kind(**arguments)
