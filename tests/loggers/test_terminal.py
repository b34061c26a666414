"""Terminals, pipes and logs that cannot show every character, or are gone."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convscope.loggers import layer_table
from convscope.loggers.terminal import printable, say

ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "koi8-r", "shift_jis", "utf-8", "utf-16", "no-such-encoding"]
ROWS = {"conv1": {"mean |ρ|": 0.5, "Δw/w": None}, "нейрон.conv2": {"mean |ρ|": 17.2, "Δw/w": 1e-7}}


def strict(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)


@given(st.text(), st.sampled_from(ENCODINGS))
def test_what_is_printable_can_be_encoded_and_is_kept_where_it_could_be_before(text: str, encoding: str) -> None:
    shown = printable(text, encoding)
    codec = "ascii" if encoding == "no-such-encoding" else encoding
    shown.encode(codec)
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        assert shown != text
    else:
        assert shown == text
    assert printable(text, None) == text


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", "|rho| -> 3x3 - ... d2 \\u65e5"),
        ("latin-1", "|rho| -> 3×3 - ... d² \\u65e5"),
        ("cp1252", "|rho| -> 3×3 – … d² \\u65e5"),
        ("utf-8", "|ρ| → 3×3 – … Δ² 日"),
    ],
)
def test_degraded_text_says_the_same(encoding: str, expected: str) -> None:
    assert printable("|ρ| → 3×3 – … Δ² 日", encoding) == expected


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_the_table_lines_up_in_what_stands_for_missing_characters(encoding: str) -> None:
    table = layer_table(ROWS, "epoch 3 – now", encoding)
    table.encode(encoding)
    lines = table.split("\n")[1:]
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[0] == "layer"
    assert ("rho" in lines[0]) == (encoding != "utf-8")
    assert layer_table({}, "epoch – 1", "ascii").split("\n")[0] == "epoch - 1"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_log_record_comes_through_to_a_strict_stream(encoding: str) -> None:
    stream, log = strict(encoding), logging.getLogger("convscope")
    handler = logging.StreamHandler(stream)
    log.addHandler(handler)
    try:
        try:
            raise ValueError("слой → ρ")
        except ValueError as error:
            log.warning("convscope: %s moved by %s → %d", "слой", "ρ", 3, exc_info=error)
    finally:
        log.removeHandler(handler)
    written = stream.buffer.getvalue().decode(encoding)
    assert "\\u0441\\u043b\\u043e\\u0439 moved by rho -> 3" in written
    assert "ValueError: \\u0441\\u043b\\u043e\\u0439 -> rho" in written


def test_a_record_that_every_stream_can_show_is_left_as_it_is(caplog: Any) -> None:
    handler = logging.StreamHandler(strict("ascii"))
    log = logging.getLogger("convscope")
    log.addHandler(handler)
    try:
        log.warning("convscope: %d layers", 3)
    finally:
        log.removeHandler(handler)
    (record,) = caplog.records
    assert (record.msg, record.args) == ("convscope: %d layers", (3,))


def test_no_stream_is_no_error_and_a_stream_without_encoding_takes_all() -> None:
    say("ρ", None)
    stream = io.StringIO()
    say("ρ →", stream)
    assert stream.getvalue() == "ρ →\n"
