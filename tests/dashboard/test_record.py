"""The record's reader: sizes, cut and growing files, resumed runs, versions, several runs; without a training run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.callbacks.engine.recording import matrix_sides
from convscope.dashboard import Run, find_runs, form, read_run, read_runs
from convscope.dashboard.events import EventFile
from convscope.loggers.record import TensorWriter
from tests.support.records import Checks

SAMPLE = Path(__file__).parent / "sample_v1"


def test_a_record_gives_back_what_was_found(tmp_path: Path) -> None:
    names = ["a/b<script>", "日本.conv", "output@2"]
    checks = Checks(tmp_path, [6, 5, 3], names)
    for step in (0, 4):
        checks.write(step, epoch=step // 4)
    run = read_run(tmp_path)
    assert (run.steps, run.layers, run.epochs.tolist()) == ([0, 4], names, [1, 2])
    assert run.triggers == ["validation"] * 2
    assert run.families == ["probe", "importance", "health", "correlation", "convscope"]
    for row, step in enumerate(run.steps):
        found = checks.written[step]
        for family in ("probe", "correlation"):
            for place, (name, result) in enumerate(found[family].layers.items()):
                for quantity, value in result.scalars.items():
                    assert run.values(family, quantity)[row, place] == np.float32(value), (name, quantity)
        assert run.summary("probe")["best"][row] == np.float32(found["probe"].summary["best"])
        for name, result in found["importance"].layers.items():
            np.testing.assert_allclose(run.filters("importance", name)[row], result.distribution, rtol=1e-3)
        for name, result in found["correlation"].layers.items():
            kept = run.correlation("correlation", name, row)
            blank = kept.order == 0
            expected = result.matrix[np.ix_(kept.order, kept.order)]
            np.testing.assert_allclose(kept.matrix[~blank][:, ~blank], expected[~blank][:, ~blank], atol=1e-3)
            assert np.isnan(kept.matrix[blank]).all()
            assert (kept.partner[0], kept.rho[0]) == (0, 0.0)
            one, other, rho = kept.pairs(0.0)[0]
            assert abs(rho) == pytest.approx(np.abs(np.triu(result.matrix, 1)).max(), abs=1e-3)
            assert result.matrix[one, other] == pytest.approx(rho, abs=1e-3)
    assert run.manifest["heldout"][0]["class_names"] == ["a", "b"]
    assert run.summary("convscope")["seconds"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("channels", "most"),
    [([500] * 100, 1_000_000), ([64] * 5 + [128] * 5 + [256] * 5 + [512] * 5, 100_000), ([64] * 20, 100_000)],
    ids=["100 layers of 500 filters", "a ResNet-18", "20 layers of 64 filters"],
)
def test_a_check_is_small(channels: list[int], most: int, tmp_path: Path) -> None:
    checks = Checks(tmp_path, channels)
    checks.write(0)
    assert checks.file.stat().st_size <= most  # with the manifest, which is not written again
    kept = read_run(tmp_path).correlation("correlation", checks.layers[-1].name)
    assert len(kept.order) == channels[-1]
    assert len(kept.matrix) >= 30


@given(st.lists(st.integers(1, 600), min_size=1, max_size=40), st.integers(50_000, 10**6))
def test_matrices_fit_into_the_room_there_is(sizes: list[int], room: int) -> None:
    sides = matrix_sides(sizes, room)
    assert all(1 <= side <= size for side, size in zip(sides, sizes, strict=True))
    assert sum(side * (side + 1) for side in sides) <= room


@settings(deadline=None)
@given(st.floats(0, 1))
def test_a_cut_file_gives_the_checks_that_are_whole(share: float) -> None:
    (sample,) = SAMPLE.glob("*tfevents*")
    data = sample.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / sample.name
        file.write_bytes(data[: int(share * len(data))])
        if not any(tag == form.MANIFEST for tag, _, _ in EventFile(file).added()):
            assert share < 0.5
            with pytest.raises(ValueError, match="holds no record"):
                Run(folder)
            return
        run = Run(folder)
        whole = Run(SAMPLE)
        assert run.steps == whole.steps[: len(run.steps)]
        for family in run.families:
            for quantity in run.quantities(family):
                np.testing.assert_array_equal(
                    run.values(family, quantity), whole.values(family, quantity)[: len(run.steps)]
                )


def test_a_growing_file_is_read_on_and_a_spoiled_record_is_left_out(tmp_path: Path) -> None:
    (sample,) = SAMPLE.glob("*tfevents*")
    data, file = sample.read_bytes(), tmp_path / sample.name
    file.write_bytes(data[: len(data) // 2])
    run = Run(tmp_path)
    first = len(run.steps)
    assert not run.refresh()
    for end in range(len(data) // 2, len(data) + 997, 997):
        file.write_bytes(data[:end])
        run.refresh()
    assert len(run.steps) == 2 > first
    assert json.dumps(run.manifest) == json.dumps(Run(SAMPLE).manifest)
    with file.open("ab") as more:
        more.write((7).to_bytes(8, "little") + b"____" + b"\x0aspoils" + b"____" + bytes(64))
    assert Run(tmp_path).steps == run.steps


def test_the_record_of_version_1_stays_readable() -> None:
    run = read_run(SAMPLE)
    expected = json.loads((SAMPLE / "expected.json").read_text())
    assert run.manifest["version"] == 1
    assert run.layers == expected["layers"]
    assert run.steps == expected["steps"]
    for family, tables in expected["values"].items():
        for quantity, table in tables.items():
            known = np.array([[np.nan if value is None else value for value in row] for row in table])
            np.testing.assert_allclose(run.values(family, quantity), known, rtol=1e-6)
    assert [one["rule"] for one in run.incidents] == expected["incidents"]
    assert run.array("prediction", "thumbnails")[0].startswith(b"\x89PNG")
    assert run.picture(run.pictures[0]).startswith(b"\x89PNG")
    assert run.correlation("correlation", run.layers[0]).order.tolist() == expected["order"]


def test_a_record_of_a_newer_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    writer = TensorWriter(form.PLUGIN, tmp_path)
    writer.write(form.MANIFEST, json.dumps({"version": form.VERSION + 1, "layers": [], "families": {}}), 0)
    writer.close()
    with pytest.raises(ValueError, match=r"has version 2, of a newer convscope; this one reads up to 1"):
        read_run(tmp_path)


def test_what_a_resumed_run_does_again_replaces_what_it_had_done(tmp_path: Path) -> None:
    first = Checks(tmp_path / "a", [4, 4])
    for step in (0, 3, 7, 11):
        first.write(step)
    second = Checks(tmp_path / "b", [4, 4, 4])  # another layer is watched now
    second.random = np.random.default_rng(1)
    for step in (8, 15):
        second.write(step)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "events.out.tfevents.100.host.1.0.convscope").write_bytes(first.file.read_bytes())
    (folder / "events.out.tfevents.1000.host.1.0.convscope").write_bytes(second.file.read_bytes())
    run = read_run(folder)
    assert run.steps == [0, 3, 7, 8, 15]
    table = run.values("probe", "quantity_0")
    assert np.isnan(table[:3, 2]).all()
    assert np.isfinite(table[3:]).all()
    for row, step in enumerate(run.steps):
        source = second if step >= 8 else first
        result = source.written[step]["probe"].layers[source.layers[1].name]
        assert table[row, 1] == np.float32(result.scalars["quantity_0"])


def test_several_runs_under_one_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Checks(tmp_path / name, [4]).write(0)
    (tmp_path / "empty").mkdir()
    assert len(find_runs(tmp_path)) == 2
    assert sorted(name.split("/")[0] for name in read_runs(tmp_path)) == ["one", "two"]
    with pytest.raises(ValueError, match=r"holds 2 runs: give one of them \(one/convscope/"):
        read_run(tmp_path)
    assert read_run(tmp_path / "one").steps == [0]
    with pytest.raises(ValueError, match="holds no record of convscope"):
        read_run(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        read_run(tmp_path / "nowhere")


def test_tables_for_notebooks(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    run = read_run(SAMPLE)
    frame = run.to_pandas()
    assert list(frame.columns) == ["step", "epoch", "family", "quantity", "layer", "value"]
    accuracy = frame[(frame.family == "probe") & (frame.quantity == "accuracy")]
    table = run.values("probe", "accuracy")
    assert len(accuracy) == np.isfinite(table).sum()
    last = accuracy[(accuracy.step == run.steps[-1]) & (accuracy.layer == run.layers[0])]
    assert last.value.item() == pytest.approx(float(table[-1, 0]))
    np.testing.assert_array_equal(run.to_dict()["probe"]["accuracy"], table)


def test_the_reader_needs_neither_torch_nor_lightning_nor_tensorflow() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'lightning', 'pytorch_lightning', 'tensorflow', 'pandas'): sys.modules[name] = None\n"
        "import convscope\n"
        f"run = convscope.read_run({str(SAMPLE)!r})\n"
        "print(len(run.steps), run.values('probe', 'accuracy').shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("2 (2, "), done.stderr
