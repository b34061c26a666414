"""What a person sees in TensorBoard, in a real browser."""

import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from convscope.loggers import (
    TensorBoardDashboard,
    correlation_heatmap,
    depth_charts,
    escape_markdown,
    learning_map,
)
from tests.loggers import _browser

pytest.importorskip("selenium", reason="the browser test drives chromium with selenium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(_browser.missing() is not None, reason=str(_browser.missing())),
]

EPOCHS = 8
STEPS = [469 * (epoch + 1) - 1 for epoch in range(EPOCHS)]
LAYERS = ["conv1"]
for stage in (1, 2, 3, 4):
    LAYERS += [f"layer{stage}.0.conv1", f"layer{stage}.0.conv2"]
    LAYERS += [f"layer{stage}.0.downsample.0"] if stage > 1 else []
    LAYERS += [f"layer{stage}.1.conv1", f"layer{stage}.1.conv2"]


def accuracy() -> np.ndarray:
    """Probes as they look while a ResNet trains: later layers know more, and learn it later."""
    depth = np.linspace(0, 1, len(LAYERS))[:, None]
    epoch = np.linspace(0, 1, EPOCHS)[None, :]
    return 0.25 + 0.1 * depth + 0.6 * depth * (1 - np.exp(-4 * epoch)) + 0.05 * epoch


def correlation(filters: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(400, 6))[:, rng.integers(0, 6, filters)] * rng.choice([-1, 1], filters)
    matrix = np.corrcoef(shared + rng.normal(size=(400, filters)), rowvar=False)
    matrix[:2], matrix[:, :2] = 0.0, 0.0
    return matrix


def write_run(logdir: Path) -> None:
    """Twenty layers, eight epochs, all that the dashboard writes."""
    table = accuracy()
    with SummaryWriter(str(logdir)) as writer:
        dashboard = TensorBoardDashboard(writer)
        for quantity in ("probe/accuracy", "importance/gini", "correlation/effective_rank"):
            for epoch, step in enumerate(STEPS):
                for row, layer in enumerate(LAYERS):
                    writer.add_scalar(f"{quantity}/{layer}", table[row, epoch], step)
        accuracy_tags = [f"probe/accuracy/{name}" for name in LAYERS]
        gini_tags = [f"importance/gini/{name}" for name in LAYERS]
        dashboard.layout(
            {
                "probe": depth_charts("Probe accuracy", accuracy_tags),
                "importance": depth_charts("Importance, Gini", gini_tags),
            }
        )
        for epoch, step in enumerate(STEPS):
            write_pictures(dashboard, table[:, : epoch + 1], epoch, step)
        dashboard.text("convscope/layers", "\n".join(f"- {escape_markdown(name)}" for name in LAYERS), STEPS[0])


def write_pictures(dashboard: TensorBoardDashboard, table: np.ndarray, epoch: int, step: int) -> None:
    epochs = list(range(epoch + 1))
    title, unit = "Probe accuracy by layer and epoch", "accuracy (0 to 1)"
    dashboard.image("learning_map/probe_accuracy", learning_map(table, LAYERS, epochs, title, unit, 0, 1), step)
    for number, layer in enumerate(LAYERS):
        rng = np.random.default_rng(number)
        scores = rng.gamma(0.5 + epoch, 1e-3, size=64)
        dashboard.histogram(f"importance/taylor/{layer}", scores, step)
        if epoch in (0, EPOCHS - 1):
            dashboard.image(f"correlation/matrix/{layer}", correlation_heatmap(correlation(64, number), layer), step)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_browser.Server]:
    logdir = tmp_path_factory.mktemp("logs")
    write_run(logdir / "version_0")
    with _browser.tensorboard(logdir) as running:
        yield running


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    profile = tmp_path_factory.mktemp("profile")
    with _browser.browser(profile) as running:
        yield running
    shutil.rmtree(profile, ignore_errors=True)


def test_server_lists_what_was_written(server: _browser.Server) -> None:
    tags = server.get("plugin/scalars/tags")["version_0"]
    assert set(tags) == {
        f"{quantity}/{layer}"
        for quantity in ("probe/accuracy", "importance/gini", "correlation/effective_rank")
        for layer in LAYERS
    }


@pytest.mark.parametrize(
    ("tab", "drawn", "words"),
    [
        ("timeseries", "scalars", ["correlation", "version_0"]),
        ("scalars", "scalars", ["effective_rank/conv1"]),
        (
            "custom_scalars",
            "scalars",
            ["Probe accuracy, all 20 layers", "Probe accuracy, layers 1–5", "Matches (20)", "Matches (5)"],
        ),
        ("images", "images", ["matrix/conv1"]),
        ("histograms", "histograms", ["taylor/conv1"]),
        ("text", "text", ["layer1.0.conv1"]),
    ],
)
def test_tab_shows_something(
    server: _browser.Server, driver: Any, tmp_path: Path, tab: str, drawn: str, words: list[str]
) -> None:
    picture = tmp_path / f"{tab}.png"
    found = _browser.look_at(driver, server, tab, drawn, picture)
    assert found[drawn]
    assert picture.stat().st_size > 10_000
    for word in words:
        assert word in found["text"], found["text"][:2000]


def test_empty_page_shows_nothing(driver: Any) -> None:
    driver.get("about:blank")
    found = driver.execute_script(_browser.WALK)
    assert found == {"scalars": 0, "images": 0, "histograms": 0, "text": ""}


def test_lines_of_a_chart_come_in_depth_order(server: _browser.Server) -> None:
    """The server sorts nothing, so the legend follows the order in which layers were first logged."""
    layout = server.get("plugin/custom_scalars/layout")
    chart = layout["category"][0]["chart"][0]
    pattern = "|".join(f"({tag})" for tag in chart["multiline"]["tag"])  # what the page sends
    query = urllib.parse.urlencode({"run": "version_0", "tag": pattern})
    answer = server.get(f"plugin/custom_scalars/scalars?{query}")
    assert answer["regex_valid"]
    assert list(answer["tag_to_events"]) == [f"probe/accuracy/{name}" for name in LAYERS]
    steps = [step for _, step, _ in answer["tag_to_events"]["probe/accuracy/conv1"]]
    assert steps == STEPS


def test_pictures_are_shown_pixel_by_pixel(server: _browser.Server, driver: Any, tmp_path: Path) -> None:
    """Cards do not smooth, so a picture of any other width than theirs has garbled text."""
    _browser.look_at(driver, server, "images", "images", tmp_path / "images.png")
    sizes = driver.execute_script(_browser.IMAGE_WIDTHS)
    assert sizes
    assert all(natural == shown == 350 for natural, shown in sizes)
