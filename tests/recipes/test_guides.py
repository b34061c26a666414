"""Recipes that end in advice: what they print is what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convscope import read_run
from convscope.recipes import freeze_guide, label_noise, pruning_guide, width_and_depth
from convscope.recipes.digits import DigitsCNN

pytest.importorskip("sklearn")


def test_layers_find_wrong_labels(tmp_path: Path) -> None:
    _, trust, wrong = label_noise.train(epochs=3, share=0.1, logdir=tmp_path)
    assert len(trust.numbers) == 1297
    assert int(wrong.sum()) == 130
    assert label_noise.report(trust, wrong)["the layers' belief in the label"] > 0.97


@pytest.mark.parametrize("unit", ["features.0", "features.1", "features.3", "features.4"])
def test_removing_filters_is_the_same_as_silencing_them(unit: str) -> None:
    model, gone, images = DigitsCNN().eval(), [1, 5, 6], torch.rand(4, 1, 8, 8)
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.bias)
    smaller = pruning_guide.without(model, unit, gone)
    model.get_submodule(unit).register_forward_hook(lambda unit, given, maps: maps.index_fill(1, torch.tensor(gone), 0))
    torch.testing.assert_close(smaller(images), model(images))
    assert smaller.get_submodule(unit)[0].out_channels == model.get_submodule(unit)[0].out_channels - 3


def test_every_order_has_every_filter_once(tmp_path: Path) -> None:
    trainer, model = pruning_guide.train(epochs=1, logdir=tmp_path)
    orders = pruning_guide.removal_orders(read_run(str(trainer.log_dir)), "features.3.0")
    assert list(orders) == list(pruning_guide.ORDERS)
    assert all(sorted(order) == list(range(32)) for order in orders.values())
    found = pruning_guide.report(model, str(trainer.log_dir), share=0.25)
    assert all(0 <= value <= 1 for layer in found.values() for value in layer.values())


def test_layers_freeze_from_the_input_on(tmp_path: Path) -> None:
    trainer, freeze, _ = freeze_guide.train(epochs=4, limit=0.5, checks=1, logdir=tmp_path)
    assert list(freeze.frozen)[:2] == ["0", "1"]
    assert list(freeze.frozen.values()) == sorted(freeze.frozen.values())
    first = trainer.lightning_module.features.get_submodule("0")  # type: ignore[union-attr]
    assert not any(weight.requires_grad for weight in first.parameters())


def test_advice_on_depth_and_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = width_and_depth.train(width=4, depth=6, epochs=1, logdir=tmp_path)
    idle, full = width_and_depth.advice(read_run(str(trainer.log_dir)))
    printed = capsys.readouterr().out
    assert printed.count("adds nothing") == len(idle)
    assert printed.count("no room") == len(full) > 0
    assert "features.0.0" not in idle
