import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convscope.loggers import layer_table
from convscope.loggers.names import short_labels, shorten_middle
from convscope.loggers.table import format_value

COLUMNS = ["probe acc", "Δ", "gini", "eff. rank", "mean |ρ|"]
LAYERS = [f"layer{stage}.{block}.conv{conv}" for stage in range(1, 5) for block in range(2) for conv in (1, 2)]


def test_rows_keep_depth_order_and_columns_line_up() -> None:
    rows = {name: dict.fromkeys(COLUMNS, 0.5) for name in LAYERS}
    title, head, *lines = layer_table(rows, "epoch 3").split("\n")
    assert title == "epoch 3"
    assert [line.split()[0] for line in lines] == LAYERS
    assert {len(line) for line in lines} == {len(head)}
    assert len(head) <= 100
    ends = [head.index(column) + len(column) for column in COLUMNS]
    for line in lines:
        assert [line[end - 5 : end] for end in ends] == ["0.500"] * 5


@pytest.mark.parametrize("width", [30, 40, 60, 80])
def test_no_line_is_longer_than_the_terminal_and_no_value_is_lost(width: int) -> None:
    rows = {name: {column: place / 10 for place, column in enumerate(COLUMNS, 1)} for name in LAYERS}
    lines = layer_table(rows, "epoch 3", width=width).split("\n")
    assert max(map(len, lines)) <= width
    found = [value for line in lines if line.startswith(LAYERS[0]) for value in line.split()[1:]]
    assert found == ["0.100", "0.200", "0.300", "0.400", "0.500"]


def test_columns_come_in_the_order_of_first_mention() -> None:
    head = layer_table({"a": {"x": 1.0}, "b": {"y": 2.0, "x": 3.0}}, "t").split("\n")[1]
    assert head.split() == ["layer", "x", "y"]


@pytest.mark.parametrize("value", [None, math.nan])
def test_missing_values_are_dashes(value: float | None) -> None:
    assert layer_table({"a": {"x": value}, "b": {"x": 1.0}}, "t").split("\n")[2].split() == ["a", "–"]


def test_value_that_a_row_does_not_name_is_a_dash() -> None:
    assert layer_table({"a": {}, "b": {"x": 1.0}}, "t").split("\n")[2].split() == ["a", "–"]


def test_no_rows_say_so() -> None:
    assert layer_table({}, "epoch 0") == "epoch 0\nno layers were measured"


def test_long_names_are_shortened_and_stay_apart() -> None:
    names = [f"model.backbone.stages.{stage}.blocks.7.very.long.way.to.a.layer.conv" for stage in range(12)]
    lines = layer_table({name: dict.fromkeys(COLUMNS, 1.0) for name in names}, "t").split("\n")[2:]
    assert max(map(len, lines)) <= 100
    assert len({line[:40] for line in lines}) == 12


@given(st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.none()))
def test_any_value_is_short_and_close(value: float | None) -> None:
    text = format_value(value)
    assert len(text) <= 9
    if value is None or math.isnan(value):
        assert text == "–"
    else:
        assert math.isclose(float(text), value, rel_tol=0.05, abs_tol=1e-300) or math.isinf(float(text))


@given(st.text(max_size=80), st.integers(3, 60))
def test_shortening_keeps_both_ends(name: str, limit: int) -> None:
    short = shorten_middle(name, limit)
    assert len(short) <= max(limit, 0)
    if len(name) <= limit:
        assert short == name
    else:
        assert name.startswith(short[0])
        assert name.endswith(short[-1])


@given(st.lists(st.text("abc.", min_size=1, max_size=40), unique=True, max_size=30))
def test_labels_of_different_layers_differ(names: list[str]) -> None:
    labels = short_labels(names, 12)
    assert len(set(labels)) == len(names)
    assert all(len(label) <= 12 for label in labels)


def test_limits_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="limit must be at least 3"):
        shorten_middle("conv1", 2)
    with pytest.raises(ValueError, match="limit must be at least 8"):
        short_labels(["conv1"], 7)
