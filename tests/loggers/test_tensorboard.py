import html
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

from convscope.loggers import TensorBoardDashboard, correlation_heatmap, depth_charts, escape_markdown

LAYOUT_TAG = "custom_scalars__config__"
KINDS = ["histograms", "images", "tensors", "scalars"]


def written(logdir: Path, write: Callable[[TensorBoardDashboard], object]) -> EventAccumulator:
    """All that `write` put into a run, read back without sampling."""
    with SummaryWriter(str(logdir)) as writer:
        write(TensorBoardDashboard(writer))
    events = EventAccumulator(str(logdir), size_guidance=dict.fromkeys(KINDS, 0))
    events.Reload()
    return events


def layouts(events: EventAccumulator) -> list[layout_pb2.Layout]:
    return [
        layout_pb2.Layout.FromString(tensor_util.make_ndarray(event.tensor_proto).item())
        for event in events.Tensors(LAYOUT_TAG)
    ]


def test_histogram_holds_every_finite_value_at_its_step(tmp_path: Path) -> None:
    values = np.random.default_rng(0).gamma(0.5, 1e-4, size=(8, 64))
    spoiled = np.concatenate([values.ravel(), [np.nan, np.inf, -np.inf]])
    events = written(tmp_path, lambda d: [d.histogram("importance/taylor/conv1", spoiled, step) for step in (3, 7)])
    first, second = events.Histograms("importance/taylor/conv1")
    assert (first.step, second.step) == (3, 7)
    histogram = first.histogram_value
    assert histogram.num == values.size == sum(histogram.bucket)
    assert histogram.min == pytest.approx(values.min())
    assert histogram.max == pytest.approx(values.max())
    assert histogram.sum == pytest.approx(values.sum())
    counts, edges = np.histogram(values, bins=64)
    below = dict(zip(histogram.bucket_limit, np.cumsum(histogram.bucket), strict=True))
    for edge, count in zip(edges[1:], np.cumsum(counts), strict=True):
        nearest = min(below, key=lambda limit: abs(limit - edge))
        assert below[nearest] == count


@pytest.mark.parametrize(
    "values", [[0.0] * 9, [1e-30] * 9, [1e30] * 9, [1.0, 1.0 + 1e-16], [1.0, np.nextafter(1.0, 2)]]
)
def test_histogram_of_equal_values(tmp_path: Path, values: list[float]) -> None:
    events = written(tmp_path, lambda d: d.histogram("h", values, 0))
    histogram = events.Histograms("h")[0].histogram_value
    assert sum(histogram.bucket) == len(values)
    assert (histogram.min, histogram.max) == (min(values), max(values))


@pytest.mark.parametrize("values", [[], [np.nan, np.inf]])
def test_histogram_without_finite_values_is_left_out(tmp_path: Path, values: list[float]) -> None:
    assert written(tmp_path, lambda d: d.histogram("h", values, 0)).Tags()["histograms"] == []


def test_picture_comes_back_pixel_by_pixel(tmp_path: Path) -> None:
    import io

    from PIL import Image

    picture = correlation_heatmap(np.eye(3), "conv1")
    events = written(tmp_path, lambda d: d.image("correlation/matrix/conv1", picture, 11))
    (event,) = events.Images("correlation/matrix/conv1")
    assert event.step == 11
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(event.encoded_image_string))), picture)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_no_picture_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    with SummaryWriter(str(tmp_path)) as writer, pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        TensorBoardDashboard(writer).image("x", array, 0)


def test_layout_names_exact_tags_in_order(tmp_path: Path) -> None:
    tags = ["probe/accuracy/layer1.0.conv1", "probe/accuracy/a+b(c)[d]|e$", "probe/accuracy/aaa"]
    events = written(tmp_path, lambda d: d.layout({"probe": {"accuracy": tags}, "empty": {"none": []}}))
    (layout,) = layouts(events)
    assert [category.title for category in layout.category] == ["probe"]
    (chart,) = layout.category[0].chart
    assert chart.title == "accuracy"
    others = ["probe/accuracy/layer1x0.conv1", "probe/accuracy/layer1.0.conv10", "x/probe/accuracy/aaa"]
    for pattern, tag in zip(chart.multiline.tag, tags, strict=True):
        assert [name for name in tags + others if re.match(pattern, name)] == [tag], "read as the plugin reads it"


def test_same_layout_is_written_once_and_another_replaces_it(tmp_path: Path) -> None:
    def write(dashboard: TensorBoardDashboard) -> None:
        for tags in (["a"], ["a"], ["a", "b"], ["a", "b"]):
            dashboard.layout({"probe": {"accuracy": tags}})
        dashboard.layout({})

    found = layouts(written(tmp_path, write))
    assert [len(layout.category[0].chart[0].multiline.tag) for layout in found] == [1, 2]


def test_callers_list_may_change_afterwards(tmp_path: Path) -> None:
    def write(dashboard: TensorBoardDashboard) -> None:
        tags = ["a"]
        dashboard.layout({"probe": {"accuracy": tags}})
        tags.append("b")
        dashboard.layout({"probe": {"accuracy": tags}})

    assert len(layouts(written(tmp_path, write))) == 2


def test_text_comes_back(tmp_path: Path) -> None:
    events = written(tmp_path, lambda d: d.text("convscope/about", "**512** images", 5))
    (event,) = events.Tensors("convscope/about/text_summary")
    assert event.step == 5
    assert tensor_util.make_ndarray(event.tensor_proto).item() == b"**512** images"


def test_tag_of_two_kinds_is_refused(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        dashboard = TensorBoardDashboard(writer)
        dashboard.histogram("importance/conv1", [1.0, 2.0], 0)
        with pytest.raises(ValueError, match=r"'importance/conv1' is a histogram .* show its scalar too"):
            dashboard.layout({"importance": {"all": ["importance/conv1"]}})
        with pytest.raises(ValueError, match=r"is a histogram .* show its image too"):
            dashboard.image("importance/conv1", np.zeros((2, 2, 3), np.uint8), 0)


def test_tensorboard_itself_loses_the_second_kind(tmp_path: Path) -> None:
    """Why two kinds are refused: the server keeps the first plugin of a tag only."""
    from tensorboard.backend.event_processing import plugin_event_accumulator

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("x", 1.0, 0)
        writer.add_histogram("x", np.arange(9), 0)
        writer.add_histogram("y", np.arange(9), 0)
    events = plugin_event_accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.PluginTagToContent("histograms").keys() == {"y"}


def test_write_error_is_passed_on(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    with SummaryWriter(str(logdir)) as writer:
        dashboard = TensorBoardDashboard(writer)
        writer.close()
        shutil.rmtree(logdir)
        logdir.write_text("a file where the writer wants its folder")
        with pytest.raises(OSError, match=re.escape(str(logdir))):
            dashboard.image("x", np.zeros((2, 2, 3), np.uint8), 0)


@pytest.mark.parametrize(("layers", "groups"), [(1, 0), (5, 0), (6, 2), (20, 4), (24, 5)])
def test_depth_charts_cover_all_layers_in_order(layers: int, groups: int) -> None:
    tags = [f"probe/accuracy/conv{index}" for index in range(layers)]
    first, *rest = depth_charts("Probe accuracy", tags).values()
    assert first == tags
    assert len(rest) == groups
    assert not rest or [tag for group in rest for tag in group] == tags
    assert all(2 <= len(group) <= 5 for group in rest)


def rendered(markdown: str) -> str:
    """What TensorBoard's own renderer shows of it."""
    return html.unescape(re.sub(r"<[^>]*>", "", markdown_to_safe_html(markdown))).strip()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_escaped_text_shows_as_it_is(text: str) -> None:
    shown = " ".join(text.split())
    assert rendered("name: " + escape_markdown(text)) == f"name: {shown}".strip()


@pytest.mark.parametrize(
    "name", ["layer_1.conv_2", "**bold**", "<b>x</b>", "a|b", "`code`", "[x](http://y)", "# x", "1. x", "&lt;", "a\nb"]
)
def test_escaped_name_in_list_and_table(name: str) -> None:
    shown = " ".join(name.split())
    assert rendered(f"- {escape_markdown(name)}") == shown
    table = markdown_to_safe_html(f"| layer | x |\n|---|---|\n| {escape_markdown(name)} | 1 |")
    assert html.unescape(re.findall("<td>(.*?)</td>", table)[0]) == shown
