"""Backends without a run: names, files, and several of them at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convscope.callbacks.engine import bridge
from convscope.loggers import Backend, backend_of, mlflow_name, register_backend, tag_of_mlflow_name
from convscope.loggers import backends as known
from convscope.loggers.files import FilesBackend, tag_path
from convscope.loggers.folder import logger_folder
from convscope.loggers.several import TRIES, AllLoggers

PICTURE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
TAGS = st.text(alphabet=st.sampled_from("abu-/.@: é_\n$%0"), max_size=30)


def allowed_by_mlflow(name: str) -> bool:
    import posixpath

    normal = posixpath.normpath(name)
    plain = re.sub("[^a-zA-Z0-9_/. -]+", "", name) == name  # what Lightning's logger would otherwise take out
    return plain and normal == name and normal != "." and not normal.startswith(("..", "/")) and len(name) <= 250


@given(TAGS.filter(bool))
def test_names_for_mlflow_are_allowed_and_give_the_tag_back(tag: str) -> None:
    name = mlflow_name(tag)
    assert tag_of_mlflow_name(name) == tag
    assert allowed_by_mlflow(name)


@pytest.mark.parametrize("tag", ["probe/accuracy/layer1.0.conv1", "correlation/mean_abs/conv-1_a", "val loss"])
def test_ordinary_names_stay_as_they_are_in_mlflow(tag: str) -> None:
    assert mlflow_name(tag) == tag


def test_long_names_for_mlflow_are_cut_and_stay_different() -> None:
    names = {mlflow_name(f"probe/accuracy/{'block.' * 60}{end}") for end in ("a", "b", "c@2")}
    assert len(names) == 3
    assert all(allowed_by_mlflow(name) for name in names)


@given(TAGS, TAGS)
def test_files_of_a_tag_stay_in_the_folder_and_apart_from_others(one: str, other: str) -> None:
    path = tag_path(one)
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert not re.search(r'[<>:"\\|?*\n]', str(path))
    assert (path == tag_path(other)) == (one == other)


def test_a_file_name_never_grows_too_long() -> None:
    tags = ["é" * 400 + end for end in ("a", "b")]
    assert all(len(part.encode()) < 200 for tag in tags for part in tag_path(tag).parts)
    assert tag_path(tags[0]) != tag_path(tags[1])


def test_files_hold_what_was_written(tmp_path: Path) -> None:
    backend = FilesBackend(tmp_path / "files")
    backend.image("a/b@2", PICTURE, 3)
    backend.text("notes", "**é**", 4)
    for step in (3, 7):
        backend.histogram("h", [1.0, 2.0, 2.0, float("nan")], step)
    backend.histogram("empty", [float("nan")], 0)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "files/a/b@2/step=3.png")), PICTURE)
    assert (tmp_path / "files/notes/step=4.md").read_text(encoding="utf-8") == "**é**"
    first, second = map(json.loads, (tmp_path / "files/h/histograms.jsonl").read_text().splitlines())
    assert (first["step"], second["step"]) == (3, 7)
    assert (sum(first["counts"]), first["edges"][0], first["edges"][-1]) == (3, 1.0, 2.0)
    assert not (tmp_path / "files/empty").exists()
    assert backend.free_space > 0


class Kept(Backend):
    """Keeps what it gets; fails where it is told to."""

    def __init__(self, failing: bool = False) -> None:
        self.failing, self.got, self.tries = failing, [], 0

    @classmethod
    def of(cls, logger: Any) -> Backend | None:
        return cls() if getattr(logger, "mine", False) else None

    def histogram(self, tag: str, values: Any, step: int) -> None:
        self._keep(tag)

    def image(self, tag: str, array: Any, step: int) -> None:
        self._keep(tag)

    def text(self, tag: str, markdown: str, step: int) -> None:
        self._keep(tag)

    def _keep(self, tag: str) -> None:
        self.tries += 1
        if self.failing:
            raise ConnectionError("no server")
        self.got.append(tag)


def test_a_logger_that_fails_costs_the_others_nothing_and_is_given_up_for_the_check() -> None:
    bad, good, told = Kept(failing=True), Kept(), []
    loggers = AllLoggers({"bad": bad, "good": good}, lambda name, error: told.append((name, str(error))))
    for check in range(2):
        loggers.begin()
        for number in range(5):
            loggers.image(f"picture/{number}", PICTURE, check)
            loggers.text(f"text/{number}", "", check)
    assert len(good.got) == 20
    assert bad.tries == 2 * TRIES
    assert told == [("bad", "no server")] * 2 * TRIES
    assert loggers.usable


def test_what_the_caller_did_wrong_is_raised_and_reaches_no_logger() -> None:
    kept = Kept()
    loggers = AllLoggers({"kept": kept}, lambda name, error: pytest.fail(str(error)))
    with pytest.raises(ValueError, match="must be a non-empty"):
        loggers.image("x", PICTURE.astype(float), 0)
    loggers.text("x", "", 0)
    with pytest.raises(ValueError, match="'x' is a text in this run"):
        loggers.histogram("x", [1.0], 0)
    assert kept.got == ["x"]


def test_a_registered_backend_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_KINDS", list(known._KINDS))
    logger = SimpleNamespace(mine=True)
    assert backend_of(logger) is None
    assert register_backend(Kept) is Kept
    register_backend(Kept)
    assert known._KINDS.count(Kept) == 1
    assert isinstance(backend_of(logger), Kept)


def test_each_backend_is_one_small_file() -> None:
    root = Path(__file__).parents[2] / "loggers"
    sizes = {
        name: len((root / f"{name}.py").read_text().splitlines()) for name in ("wandb", "mlflow", "comet", "files")
    }
    assert max(sizes.values()) < 80, sizes


@pytest.mark.parametrize(
    ("logger", "folder"),
    [
        (None, "root"),
        (SimpleNamespace(log_dir="tb/v0", save_dir="tb"), "tb/v0"),
        (SimpleNamespace(save_dir="runs", name="digits", version="abc"), "runs/digits/abc"),
        (SimpleNamespace(save_dir="runs", name="digits", version=3), "runs/digits/version_3"),
        (SimpleNamespace(save_dir=None, name="1", version="abc"), "root/1/abc"),
        (SimpleNamespace(save_dir="s3://bucket/runs", name="1", version="abc"), "root/1/abc"),
        (SimpleNamespace(log_dir=lambda: None, save_dir=None, name="", version=""), "root"),
    ],
)
def test_the_folder_of_a_run(logger: Any, folder: str) -> None:
    assert logger_folder(logger, "root") == Path(folder)


def test_without_a_folder_on_this_machine_files_lie_in_the_current_one(tmp_path: Path) -> None:
    trainer = L.Trainer(default_root_dir="memory://bucket/runs", logger=False, accelerator="cpu", barebones=True)
    assert bridge.run_folder(trainer) == Path(".")
