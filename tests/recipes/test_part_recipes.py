"""The recipes with planted parts: their images, their help, and that they run."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from convscope.recipes import explainer, part_filters

pytest.importorskip("sklearn")


def test_the_landmarks_are_where_the_parts_are() -> None:
    pictures, labels, landmarks = part_filters.planted_parts(40, 0).tensors
    assert pictures.shape == (40, 1, 32, 32)
    assert labels.bincount().tolist() == [10] * 4
    for picture, points in zip(pictures, landmarks, strict=True):
        for row, column in points.tolist():
            part = picture[0, int(row - 3.5) : int(row + 4.5), int(column - 3.5) : int(column + 4.5)]
            assert part.shape == (8, 8)
            assert part.mean() > 0.1  # a scan, not background
    again = part_filters.planted_parts(40, 0).tensors
    assert all(torch.equal(one, other) for one, other in zip((pictures, labels, landmarks), again, strict=True))


@pytest.mark.parametrize("recipe", [part_filters, explainer])
def test_help_is_plain_text(
    recipe: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["recipe", "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        recipe.main()
    printed = capsys.readouterr().out
    assert "`" not in printed
    assert all(option in printed for option in ("--epochs", "--logdir"))


def ran(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str) -> list:
    monkeypatch.setattr("sys.argv", ["recipe", "--epochs", "1", *more])
    recipe.main()
    lines: list[str] = capsys.readouterr().out.strip().split("\n")
    assert list(Path(lines[-1].split()[-1]).glob("events.out.tfevents.*"))
    return lines


def test_filters_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ran(part_filters, monkeypatch, capsys, "--logdir", str(tmp_path), "--seeds", "1", "--images", "64")
    assert [line.split("|")[1].strip() for line in lines if " 0 |" in line] == ["ordinary", "interpretable"]


def test_an_explainer_is_distilled_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--every", "1", "--seconds", "2", "--labels", "random", "--logdir", str(tmp_path))
    lines = ran(explainer, monkeypatch, capsys, *arguments)
    assert any(line.startswith("| 0 |") for line in lines)
    assert list(tmp_path.rglob("explainer-epoch=0.pt"))
