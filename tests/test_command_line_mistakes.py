"""Mistakes on the command line: one line with the next step, exit status 2, and nothing written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from convscope.__main__ import main
from tests.callbacks.test_offline import Saving

SAMPLE = Path(__file__).parents[1] / "tests" / "dashboard" / "sample_v1"
TYPED = "tests.callbacks.test_offline"
HERE = __name__
LAYERS = ("--input-size", "3,16,16")
REPLAY = ("--module", f"{TYPED}:Saving", "--device", "cpu", "--suite", "light")


class Failing(nn.Module):
    """Its forward has an error of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("a mean of nothing")


class Needy(nn.Module):
    """Cannot be built without an argument."""

    def __init__(self, width: int) -> None:
        super().__init__()


class WithoutValidation:
    """No DataModule, and no loaders."""


MISTAKES = [
    (("layers", f"{HERE}:Failing", *LAYERS), "cannot be run on a sample of 3×16×16 (", "give the size of one of"),
    (("layers", f"{HERE}:Needy", *LAYERS), "cannot be called without arguments", "give a function of yours"),
    (("layers", "broken:Net", *LAYERS), "importing broken failed (ZeroDivisionError", "try python -c 'import broken'"),
    (("layers", f"{HERE}:Faling", *LAYERS), "has no attribute 'Faling'", "nearest: Failing"),
    (("layers", "no_such_module:Net", *LAYERS), "No module named", "start convscope in the folder"),
    (("report", "notes.txt"), "this is no event file", "give a run's folder"),
    (("report", SAMPLE, "-o", "no/page.html"), "there is no folder no", "make it, or give a file"),
    (("report", SAMPLE, "-o", "folder"), "this is a folder", "give a file, for example folder/report.html"),
    (("report", SAMPLE, "--csv", "no/all.csv"), "--csv no/all.csv: there is no folder no", "make it"),
    (("report", SAMPLE, "--json", "folder"), "this is a folder", "for example folder/report.json"),
    (("report", SAMPLE, "-o", "/proc/page.html"), "this cannot be written here", "a folder of your own"),
    (("compare", SAMPLE, SAMPLE, "-o", "no/page.html"), "there is no folder no", "make it"),
    (("rules", "calibrate", SAMPLE, "-o", "no/rules.yaml"), "there is no folder no", "make it"),
    (("rules", "list", "folder"), "cannot be read (Is a directory)", "give a YAML file of rules"),
    (("rules", "list", "bytes.yaml"), "cannot be read (not text in UTF-8)", "give a YAML file of rules"),
    (("replay", "ckpt", *REPLAY, "--data", f"{HERE}:WithoutValidation"), "gave a WithoutValid", "return valid"),
    (("replay", "ckpt", *REPLAY, "--data", f"{TYPED}:Data", "-o", "notes.txt"), "is no folder that can", "your own"),
    (("replay", "ckpt", *REPLAY), "there is no validation loader", "give --data, for example"),
    (("replay", "damaged", *REPLAY, "--data", f"{TYPED}:Data"), "cannot be read", "it is damaged, or no checkpoint"),
    (("replay", "ckpt", "--config", "bytes.yaml"), "cannot be read (not text in UTF-8)", "give LightningCLI's"),
    (("run", "image_folder", "nowhere"), "nowhere: give a folder", "at least two classes"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder, with what users may name by mistake."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for folder in ("folder", "ckpt", "damaged"):
        Path(folder).mkdir()
    Path("notes.txt").write_text("notes", encoding="utf-8")
    Path("broken.py").write_text("1 / 0", encoding="utf-8")
    Path("bytes.yaml").write_bytes(os.urandom(8) + b"\xff\xfe\xb9")
    Path("damaged/step.ckpt").write_bytes(b"")
    content = {"epoch": 1, "global_step": 4, "pytorch-lightning_version": "2.6.6", "hyper_parameters": {"width": 4}}
    torch.save(content | {"state_dict": Saving(4).state_dict()}, "ckpt/step.ckpt")


@pytest.mark.parametrize(("arguments", "what", "step"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_is_one_line(
    arguments: tuple[object, ...], what: str, step: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert main([str(one) for one in arguments]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("convscope: ")]
    assert what in said[-1]
    assert step in said[-1]
    assert "Traceback" not in "".join(said)
    assert {path for path in tmp_path.rglob("*") if path.suffix in (".html", ".csv", ".json")} <= set(before)


@pytest.mark.parametrize("least", ["0", "-3", "x"])
def test_a_number_of_layers_is_at_least_one(least: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["layers", f"{HERE}:Failing", *LAYERS, "--max-layers", least])
    assert ended.value.code == 2
    assert "give a whole number, at least 1" in capsys.readouterr().err
