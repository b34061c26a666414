"""Names and files from outside: shown as text, never run, never a path; nothing is read that could run code."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import markdown
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import convscope
from convscope.loggers import alerts_markdown
from tests.callbacks.conftest import Classifier
from tests.compatibility.cells import observers, small, train

ROOT = Path(__file__).parents[2]
PACKAGES = ("src", "alerts", "callbacks", "capture", "loggers", "metrics")
SOURCES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# Bytes that our own worker process has just made, which torch's queue would unpickle as well.
OWN_BYTES = {"capture/data/reader.py": {"pickle.loads"}}
HOSTILE = [
    "<script>alert(1)</script>", "a|b", "$\\frac{1}{0}$", "$unclosed", "../../up", "{curly}", "100%s", "`code`",
    "**bold**", "[x](javascript:1)", "naïve 名", "a b\tc", "\\n", "#h", "re:[", "*", "-", "&lt;",
]  # fmt: skip


class Named(nn.Module):
    """Convolutions under names that no one should choose."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({name.replace(".", "·"): nn.Conv2d(3, 3, 1) for name in names})
        self.head = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs.values():
            x = torch.relu(conv(x)) + x
        return self.head(x.mean((2, 3)))


@pytest.mark.slow
def test_layers_of_any_name_are_observed_drawn_and_written(fit: Any, tmp_path: Path, capsys: Any) -> None:
    rule = {"name": "any", "when": [{"metric": "probe/accuracy/*", "detector": {"kind": "threshold", "limit": -1.0}}]}
    callbacks = [*observers(), convscope.LayerTable(), convscope.DriftAlert([{**rule, "message": "{layer}{others}"}])]
    before = {path for path in tmp_path.parent.rglob("*") if tmp_path not in path.parents and path != tmp_path}
    run = fit(callbacks, module=Classifier(Named(HOSTILE)), max_epochs=1)
    tags = run.events.Tags()
    layers = {tag.removeprefix("importance/gini/") for tag in tags["scalars"] if tag.startswith("importance/gini/")}
    assert len(layers) == len(HOSTILE)
    assert float(run.trainer.callback_metrics["zz_convscope/errors"]) == 0.0
    written = [path for path in tmp_path.parent.rglob("*") if tmp_path not in path.parents and path != tmp_path]
    assert set(written) == before  # nothing beside the run's own folder
    texts = [
        event.tensor_proto.string_val[0].decode()
        for tag in tags["tensors"] if "text_summary" in tag
        for event in run.events.Tensors(tag)
    ]  # fmt: skip
    assert texts
    for text in texts:
        assert "<script" not in as_html(text)
        assert "javascript:" not in links(text)


def as_html(text: str) -> str:
    return markdown.markdown(text, extensions=["markdown.extensions.tables", "markdown.extensions.fenced_code"])


def links(text: str) -> str:
    return " ".join(re.findall(r'(?:href|src)="([^"]*)"', as_html(text)))


@pytest.mark.parametrize("name", HOSTILE)
def test_what_an_alert_says_is_text_in_one_item(name: str) -> None:
    record = {"epoch": 1, "severity": "warning", "rule": "x", "message": f"layer {name} fell", "likely": name}
    html = as_html(alerts_markdown([record]))
    assert "<script" not in html
    assert links(alerts_markdown([record])) == ""
    assert html.count("<li") == 1  # whatever a name holds


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    marker, file = tmp_path / "ran", tmp_path / "model.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Payload(marker)}, file)
    with pytest.raises(Exception, match="weights_only=True"):
        train([convscope.RepresentationDrift(reference=str(file))], tmp_path, make=small, max_epochs=1)
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists()  # it would have


def test_what_we_put_into_a_checkpoint_is_plain_data(tmp_path: Path) -> None:
    train([*observers(), convscope.DriftAlert(), ModelCheckpoint(tmp_path, save_last=True)], tmp_path, make=small)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    ours = [key for key in saved["callbacks"] if key.split("{")[0] in convscope.__all__]
    assert len(ours) == len(observers()) + 1


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.system ['true']", "- !!python/name:os.system", "- name: !!python/tuple [a, b]"],
)
def test_rules_are_read_by_the_safe_loader(text: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match="safe loader"):
        convscope.DriftAlert(str(file))


@pytest.mark.parametrize("name", ["../up", "a/b", "a b", "", "nul\n"])
def test_a_rules_name_is_a_word_since_files_are_named_after_it(name: str) -> None:
    rule = {"name": name, "when": [{"metric": "val_loss", "detector": {"kind": "finite"}}]}
    with pytest.raises(ValueError, match="name"):
        convscope.DriftAlert([rule])


# Checkpoints for a replay are read so unless the user says that they are trusted.
LOADS = {"callbacks/parts/checkpoints.py": "weights_only"}


def calls(tree: ast.AST) -> list[str]:
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_the_package_has_no_call_that_runs_what_it_reads(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    forbidden = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "os.system", "compile"}
    assert forbidden & set(calls(tree)) == OWN_BYTES.get(path.as_posix(), set())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            wanted = LOADS.get(path.as_posix(), "True")
            assert safe.get("weights_only") == wanted, f"{path}:{node.lineno}"
