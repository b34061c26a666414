"""Recipes that take something from outside: a folder, a YAML file, several processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convscope.recipes import configured, image_folder
from tests.support import forked

pytest.importorskip("sklearn")
PIL = pytest.importorskip("PIL.Image")
ROOT = Path(__file__).parents[2]


def a_folder(path: Path) -> Path:
    for name, shade in (("dark", 20), ("light <b>", 230)):
        (path / name / "more").mkdir(parents=True)
        for number in range(10):
            where = path / name / ("more" if number % 2 else "") / f"{number}.png"
            PIL.new("RGB", (20 + number, 30), (shade, shade, shade + number)).save(where)
    (path / "dark" / "broken.png").write_bytes(b"no picture")
    return path


def test_a_folder_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_folder(tmp_path / "images")
    images, labels, names = image_folder.read_folder(folder, 32)
    assert images.shape == (20, 3, 32, 32)
    assert names == ["dark", "light <b>"]
    assert bool((images[labels == 1].mean() > images[labels == 0].mean() + 0.5).all())
    assert "broken.png cannot be read and is left out" in capsys.readouterr().out
    trainer = image_folder.train(folder, 32, 1, tmp_path / "runs")
    assert 0 <= float(trainer.callback_metrics["probe/accuracy/output"]) <= 1


def test_a_folder_without_classes_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="give a folder with a subfolder of images for each of at least two classes"):
        image_folder.read_folder(tmp_path / "nowhere", 32)


def test_the_file_in_the_docs_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jsonargparse")
    found = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text(), re.DOTALL)
    assert found is not None
    (tmp_path / "digits.yaml").write_text(found[1].replace("max_epochs: 5", "max_epochs: 1"))
    monkeypatch.chdir(tmp_path)
    configured.main(["fit", "--config", "digits.yaml", "--trainer.accelerator", "cpu"])
    events = EventAccumulator(str(next((tmp_path / "lightning_logs").iterdir())))
    events.Reload()
    assert "probe_logistic/accuracy/features.0.0" in events.Tags()["scalars"]


def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    arguments = ["convscope.recipes.processes", "--epochs", "1", "--logdir", str(tmp_path), "--devices"]
    (one,) = forked.run(*arguments, "1", folder=tmp_path)
    done = subprocess.run([sys.executable, "-m", *arguments, "2"], capture_output=True, text=True)  # as a person does
    assert done.returncode == 0, done.stderr[-3000:]
    printed = [
        [line for line in text.splitlines() if line.startswith(("| probe", "| correlation"))]
        for text in (one, done.stdout)
    ]
    assert len(printed[0]) == 9
    assert printed[0] == printed[1]
