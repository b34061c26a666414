"""``convscope replay`` as a person types it, with a class, a factory and LightningCLI's file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convscope.__main__ import main
from convscope.dashboard import read_run
from tests.callbacks.test_offline import Saving

TYPED = "tests.callbacks.test_offline"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of different weights, as Lightning writes them, without a run."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for step in (4, 8):
        torch.manual_seed(step)
        content = {"epoch": step // 4, "global_step": step, "pytorch-lightning_version": "2.6.6"}
        weights = {"state_dict": Saving(4).state_dict(), "hyper_parameters": {"width": 4}}
        torch.save(content | weights, folder / f"step={step}.ckpt")
    return folder


def run(*arguments: object) -> int:
    return main(["replay", *map(str, arguments)])


@pytest.mark.parametrize("module", [f"{TYPED}:Saving", f"{__name__}:built"])
def test_a_replay_prints_what_happened(
    module: str, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--module", module, "--data", f"{TYPED}:Data", "--suite", "light", "--device", "cpu")
    assert run(checkpoints, *given, "-o", tmp_path / "r") == 0
    assert read_run(tmp_path / "r").steps == [3, 7]
    out = capsys.readouterr().out
    assert "r: 2 checks of 7 layers from epoch 1 to epoch 2, measured on 30 held-out samples." in out
    assert f"tensorboard --logdir {tmp_path / 'r'}" in out


def built() -> Saving:
    return Saving(4)


@pytest.mark.parametrize("names_classes", [True, False])
def test_a_replay_reads_the_file_of_lightning_cli(names_classes: bool, checkpoints: Path, tmp_path: Path) -> None:
    pytest.importorskip("jsonargparse")
    named = f"model:\n  class_path: {TYPED}.Saving\n  init_args: {{width: 4}}\ndata: {TYPED}.Data\n"
    (tmp_path / "config.yaml").write_text(named if names_classes else "model: {width: 4}\ntrainer: {max_epochs: 3}\n")
    classes = () if names_classes else ("--module", f"{TYPED}:Saving", "--data", f"{TYPED}:Data")
    given = ("--config", tmp_path / "config.yaml", *classes, "--suite", "light", "--device", "cpu")
    assert run(*sorted(checkpoints.iterdir()), *given, "-o", tmp_path / "r") == 0
    assert read_run(tmp_path / "r").steps == [3, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["CKPTS"], "which network was trained? Give --module, for example my_project.model:LitNet"),
        (["CKPTS", "--module", "tests.networks:TinyResNet"], "gave a TinyResNet; it must be a LightningModule"),
        (["CKPTS", "--module", "tests.networks"], "give package.module:Name, for example my_project.model:LitNet"),
        (["CKPTS", "--module", "no.where:Net"], "No module named 'no'"),
        (["nowhere", "--module", f"{TYPED}:Saving"], "there is no such folder; give the one with Lightning's *.ckpt"),
        (["CKPTS", "--module", f"{__name__}:Other", "--data", f"{TYPED}:Data"], "does not fit Other"),
        (["CKPTS", "--config", "none.yaml"], "No such file or directory"),
        (["CKPTS", "--config", "bad.yaml"], "this is not YAML that the safe loader reads"),
        (["CKPTS", "--config", "empty.yaml"], "there is no 'model' in it"),
        (["CKPTS", "--config", "classless.yaml"], "'model' names no class_path: give its class too, --module"),
        (["CKPTS", "--config", "wrong.yaml"], "wrong.yaml: "),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    arguments: list[str], message: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("model: [")
    (tmp_path / "empty.yaml").write_text("data: x")
    (tmp_path / "classless.yaml").write_text("model: {width: 4}")
    (tmp_path / "wrong.yaml").write_text(f"model: {{class_path: {TYPED}.Saving, init_args: {{wrong: 1}}}}")
    given = [str(checkpoints) if one == "CKPTS" else one for one in arguments]
    assert run(*given, "--device", "cpu", "-o", tmp_path / "r", "--suite", "light") == 2
    error = capsys.readouterr().err.splitlines()
    assert len([line for line in error if line.startswith("convscope: ")]) == 1
    assert message in error[-1]


class Other(Saving):
    """Not the class that was trained."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(2 * width)
