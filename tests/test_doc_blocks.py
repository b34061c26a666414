"""Every code block of the README and the docs is tried, as ``tests/support/doc_blocks.py`` says."""

from __future__ import annotations

import argparse
import importlib
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convscope.__main__ import main
from convscope.alerts import load_rules
from tests.callbacks.conftest import Classifier
from tests.support.doc_blocks import ROOT, Block, Data, blocks, names_of, reader_files

MARKS = ("run", "test", "inside: ", "not run: ")
STANDALONE = [block for block in blocks("python") if block.mark == "run"]
PAGES = sorted({block.page for block in blocks("python") if not block.mark})
COMMANDS = [block for block in blocks("bash", "console", "sh") if not block.mark and block.page != "CONTRIBUTING.md"]


def test_marks_are_known_and_say_why() -> None:
    marked = [block for block in blocks("python", "bash", "console", "sh", "yaml") if block.mark]
    unknown = [block.where for block in marked if not block.mark.startswith(MARKS)]
    assert unknown == []
    assert [block.where for block in marked if block.mark.startswith("not run: ") and len(block.mark) < 20] == []


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.where)
def test_python_compiles(block: Block) -> None:
    compile(block.code, block.where, "exec")


@pytest.mark.parametrize("block", STANDALONE, ids=lambda block: block.where)
def test_programs_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(block.code, encoding="utf-8")
    if "wandb" in block.code.lower():  # its service cannot be begun again in a process that has ended it
        subprocess.run([sys.executable, "example.py"], check=True)
    else:
        runpy.run_path("example.py", run_name="__main__")
    for cls in re.findall(r"class (\w+)\(.*LayerObserver\)", block.code):
        assert tags_written(tmp_path / "lightning_logs" / "version_0") >= TAGS[cls]


TAGS = {
    "ActiveLayers": {"active/share/features.0.0", "active/share/features.4.0", "zz_convscope/errors"},
    "FilterSensitivity": {
        "sensitivity/mean/features.0.0",
        "sensitivity/first_to_last",
        "sensitivity/filters/features.0.0",
        "sensitivity/map/mean",
    },
    "MeanActivation": {"mean/activation/features.0.0", "mean/activation/features.3.0"},
    "WhereActive": {"where/top_row/features.0.0", "where/map/features.0.0", "where/map/features.4.0"},
}
"""What the callbacks in docs/extending.md and docs/migration.md write."""


def tags_written(folder: Path) -> set[str]:
    """Tags of a run's scalars, pictures and histograms; none of its checks may have failed."""
    events = EventAccumulator(str(folder)).Reload()
    assert {event.value for event in events.Scalars("zz_convscope/errors")} == {0.0}
    return {tag for kind in ("scalars", "images", "histograms") for tag in events.Tags()[kind]}


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_a_page_run_one_after_the_other(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader types them, with one epoch where they say more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEAM_HOOK", "http://127.0.0.1:9/hook")
    names = names_of(page, tmp_path)
    for block in blocks("python"):
        if block.page == page and not block.mark:
            code = re.sub(r"max_epochs=\d+", "max_epochs=1", block.code)
            exec(compile(code, block.where, "exec"), names)
            if block.page == "README.md":
                trained(names)


def trained(names: dict[str, Any]) -> None:
    """Let a trainer that a block has made, and not used, train for an epoch: its callbacks must work together."""
    trainer = names["trainer"]
    if trainer.current_epoch == 0:
        trainer.fit_loop.max_epochs = 1
        trainer.fit(Classifier(), datamodule=Data())
    assert any(key.startswith(("probe/", "alert")) for key in trainer.callback_metrics)


def words(block: Block) -> Iterator[list[str]]:
    """The commands of a block, each as a list of words."""
    for line in block.code.replace("\\\n", " ").splitlines():
        for command in line.removeprefix("$ ").split("&&"):
            if found := shlex.split(command, comments=True):
                yield found


class Parsed(Exception):
    """A recipe's arguments are accepted."""


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.where)
def test_commands_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    reader_files(tmp_path)
    for command in words(block):
        tried(command, monkeypatch)
    for module in [name for name in sys.modules if name.split(".")[0] in ("my_project", "package")]:
        del sys.modules[module]


def tried(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of convscope, read the arguments of another program as that program does."""
    if command[:2] == ["convscope", "run"] and len(command) > 2:
        recipe(command[2].replace("-", "_"), command[3:], monkeypatch)
    elif command[0] == "convscope":
        assert main([*command[1:], *(["--device", "cpu"] if command[1] == "replay" else [])]) == 0
    elif command[:2] == ["python", "-m"] and command[2].startswith("convscope.recipes."):
        recipe(command[2].removeprefix("convscope.recipes."), command[3:], monkeypatch)
    elif command[:2] == ["python", "-m"]:
        assert (ROOT / command[2].replace(".", "/")).with_suffix(".py").exists() or importlib.util.find_spec(command[2])
    elif command[0] == "tensorboard":
        from tensorboard.program import TensorBoard

        TensorBoard().configure(tuple(command))
    elif command[:2] == ["pip", "install"]:
        assert set(re.findall(r"convscope\[(.+?)\]", " ".join(command))) <= extras()
    else:
        raise AssertionError(f"no way to try {shlex.join(command)}: add one, or say why with <!-- not run: … -->")


def recipe(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a recipe's arguments with its own parser; the tests of the recipes train."""
    program = importlib.import_module(f"convscope.recipes.{name}")
    if name == "configured":  # LightningCLI, which reads a file: tests/recipes trains with the one in the docs
        return
    real = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *given: object, **named: object) -> None:
        real(self, *given, **named)  # type: ignore[call-overload]
        raise Parsed

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", parse)
        patched.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(Parsed):
            program.main()


def extras() -> set[str]:
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.where)
def test_yaml_is_read(block: Block, tmp_path: Path) -> None:
    content = yaml.safe_load(block.code)
    if isinstance(content, list):
        (tmp_path / "rules.yaml").write_text(block.code, encoding="utf-8")
        assert len(load_rules(tmp_path / "rules.yaml")) == len(content)
    else:  # a file for LightningCLI: tests/recipes/test_other_doors.py trains with it
        assert {"trainer", "model"} <= set(content)
