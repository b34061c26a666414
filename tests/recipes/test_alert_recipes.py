"""The recipes with something wrong in them: the alerts that they promise come, and none before."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from convscope.recipes import (
    digits,
    dying_relu,
    forgetting,
    freeze_guide,
    input_resampling,
    label_corruption,
    label_noise,
    multi_scale,
    pruning_guide,
    segmentation,
    self_supervised,
    sweep,
    width_and_depth,
)

pytest.importorskip("sklearn")


RECIPES = [
    digits,
    dying_relu,
    forgetting,
    freeze_guide,
    input_resampling,
    label_corruption,
    label_noise,
    multi_scale,
    pruning_guide,
    segmentation,
    self_supervised,
    sweep,
    width_and_depth,
]


@pytest.mark.slow
def test_wrong_labels_are_found_at_once(tmp_path: Path) -> None:
    alerts = label_corruption.train(epochs=8, from_epoch=6, share=0.4, logdir=tmp_path)[1].alerts
    assert "training_loss_surge" in {alert.rule for alert in alerts if alert.epoch == 6}
    assert min(alert.epoch for alert in alerts) == 6


@pytest.mark.slow
def test_dead_filters_are_found_at_once(tmp_path: Path) -> None:
    alerts = dying_relu.train(epochs=8, at_epoch=7, factor=6.0, logdir=tmp_path)[1].alerts
    assert "dead_filter_surge" in {alert.rule for alert in alerts}
    assert min(alert.epoch for alert in alerts) == 7


@pytest.mark.slow
def test_forgetting_is_found(tmp_path: Path) -> None:
    alerts = forgetting.train(epochs=4, learning_rate=3e-3, logdir=tmp_path)[1].alerts
    assert "forgetting" in {alert.rule for alert in alerts}


@pytest.mark.slow
def test_evidence_that_moves_onto_a_mark_is_found_at_once(tmp_path: Path) -> None:
    alerts = multi_scale.train(epochs=6, from_epoch=5, share=0.9, logdir=tmp_path)[1].alerts
    assert [(alert.rule, alert.epoch) for alert in alerts] == [("explanation_shift", 5)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_is_plain_text(
    recipe: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["recipe", "--help"])
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit, match=r"^0$"):
        recipe.main()
    printed = capsys.readouterr().out
    assert "`" not in printed
    assert (recipe.__doc__ or "").split("\n")[0] in " ".join(printed.split())
    assert all(len(line) <= 60 for line in printed.split("\n"))
    assert all(option in printed for option in ("--epochs", "--logdir"))


def test_every_recipe_is_tested_here() -> None:
    elsewhere = {"part_filters", "explainer", "processes", "image_folder", "configured", "cifar10"}
    known = {path.stem for path in Path(digits.__file__).parent.glob("[a-z]*.py")}
    assert known == {recipe.__name__.rpartition(".")[2] for recipe in RECIPES} | elsewhere


@pytest.mark.parametrize("epochs", ["0", "-1", "many"])
def test_a_run_without_an_end_is_refused(
    epochs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["recipe", "--epochs", epochs])
    with pytest.raises(SystemExit, match=r"^2$"):
        digits.main()
    assert f"argument --epochs: '{epochs}': give a whole number, at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs_and_says_how_to_see_the_run(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["recipe", "--epochs", "1", "--logdir", str(tmp_path)])
    recipe.main()
    line = capsys.readouterr().out.strip().split("\n")[-1]
    assert line.startswith(f"See it all:  tensorboard --logdir {tmp_path}")
    assert list(Path(line.split()[-1]).glob("events.out.tfevents.*"))
