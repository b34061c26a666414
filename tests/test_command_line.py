"""``convscope layers`` as a person types it, and the recipe as the README runs it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convscope.__main__ import main

ROOT = Path(__file__).parents[1]


def test_layers_lists_name_unit_channels_size_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "tests.networks:TinyResNet", "--input-size", "3,16,16"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["#", "name", "unit", "channels", "spatial", "cost"]
    cells = [row.split() for row in rows]
    assert cells[0][:5] == ["1", "conv1", "Conv2d+BatchNorm2d+relu", "8", "16×16"]
    assert [row[1] for row in cells][3:] == ["layer2.0.downsample.0", "layer2.0.conv1", "layer2.0.conv2"]
    # 3×3 convolutions of 8 filters: 3 input channels against 8.
    share = {row[1]: float(row[5].rstrip("%")) for row in cells}
    assert share["layer1.0.conv1"] / share["conv1"] == pytest.approx(8 / 3, rel=0.02)
    assert sum(share.values()) == pytest.approx(100, abs=1)


def test_layers_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["layers", "tests.networks:TinyResNet", "--input-size", "3,16,16"]
    assert main([*arguments, "--layers", "layer1.*", "fc"]) == 0
    names = [row.split()[1] for row in capsys.readouterr().out.splitlines()[1:]]
    assert names == ["layer1.0.conv1", "layer1.0.conv2", "fc"]
    assert main([*arguments, "--max-layers", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("tests.networks", "give package.module:Name, for example torchvision.models:resnet18"),
        ("tests.nowhere:Net", "No module named 'tests.nowhere'"),
        ("tests.networks:Nothing", "has no attribute 'Nothing'"),
        ("tests.networks:images", "gave a tuple; it must return a torch.nn.Module"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], model: str, message: str) -> None:
    assert main(["layers", model, "--input-size", "3,16,16"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_wrong_input_size(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["layers", "tests.networks:TinyResNet", "--input-size", "3,x"])
    assert "'3,x': give one sample's size without the batch, such as 3,32,32" in capsys.readouterr().err


def test_the_digits_recipe_runs_prints_tables_and_names_its_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convscope.recipes.digits", "--epochs", "2", "--logdir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=tmp_path)
    assert done.stdout.count("probe acc") == 3  # before training and after each epoch
    assert "features.0.0" in done.stdout
    logdir = done.stdout.split("tensorboard --logdir ")[1].split()[0]
    tags = EventAccumulator(logdir).Reload().Tags()
    assert "probe/accuracy/output" in tags["scalars"]
    assert "probe/map/accuracy" in tags["images"]


LAYERS = ["-m", "convscope", "layers", "tests.networks:TinyResNet", "--input-size", "3,16,16"]


def test_layers_on_an_ascii_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(LAYERS[2:]) == 0
    assert main([*LAYERS[2:], "--layers", "слой"]) == 2
    head, first = out.buffer.getvalue().decode("ascii").splitlines()[:2]
    assert "16x16" in first
    assert first.index("16x16") == head.index("spatial")
    assert b"\\u0441\\u043b\\u043e\\u0439" in err.buffer.getvalue()


def test_layers_into_a_pipe_that_nobody_reads() -> None:
    program = subprocess.Popen([sys.executable, *LAYERS], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None
    program.stdout.close()
    errors = program.stderr.read() if program.stderr else b""
    assert (program.wait(), errors) == (0, b"")
