"""Per-filter arrays of the record that the tab's table of filters shows."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest

import convscope
from convscope.dashboard import Run, read_run
from tests.callbacks.conftest import Classifier, loaders


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    L.seed_everything(0)
    folder: Path = tmp_path_factory.mktemp("arrays")
    watched = [convscope.ClassFilters(top=2), convscope.PartInterpretability(filters=5, proxy_images=0, pictured=0)]
    trainer = L.Trainer(
        max_epochs=1, logger=False, callbacks=watched, accelerator="cpu", default_root_dir=folder,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Classifier(), *loaders())
    return read_run(folder)


def test_every_filter_has_the_number_of_classes_that_it_serves(run: Run) -> None:
    sizes = dict(zip(run.array("class_filters", "layers"), run.array("class_filters", "sizes"), strict=True))
    channels = {layer["name"]: layer["channels"] for layer in run.manifest["layers"] if not layer["output"]}
    assert sizes == channels

    served, rho = run.array("class_filters", "served"), run.array("class_filters", "rho")
    assert len(served) == len(rho) == sum(sizes.values())
    shares, start = run.values("class_filters", "serving")[-1], 0
    for place, (layer, size) in enumerate(sizes.items()):
        own = served[start : start + size]
        assert np.mean(own > 0) == pytest.approx(shares[run.layers.index(layer)]), place
        assert own.sum() <= 2 * 3  # two filters of each of three classes
        start += size


def test_the_class_of_a_filter_is_that_of_its_largest_correlation(run: Run) -> None:
    strongest, rho = run.array("class_filters", "strongest"), run.array("class_filters", "rho")
    assert set(strongest.tolist()) <= {0, 1, 2}
    assert np.abs(rho.astype(float)).max() <= 1


def test_purity_is_that_of_the_measured_filters(run: Run) -> None:
    layers, sizes = run.array("parts", "layers"), run.array("parts", "sizes").tolist()
    numbers, purity = run.array("parts", "numbers"), run.array("parts", "purity").astype(float)
    assert sum(sizes) == len(numbers) == len(purity)
    start = 0
    for layer, size in zip(layers, sizes, strict=True):
        known = next(one for one in run.manifest["layers"] if one["name"] == layer)
        assert size == min(5, known["channels"])
        own = numbers[start : start + size]
        assert own[0] == 0
        assert own[-1] == known["channels"] - 1
        pure = np.mean(purity[start : start + size] > 0.8)
        assert pure == pytest.approx(run.values("parts", "pure_filters")[-1][run.layers.index(layer)], abs=1 / size)
        start += size
