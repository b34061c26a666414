"""Alert files: JSON lines, and a Markdown list for loggers that show text."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from convscope.loggers.tensorboard import escape_markdown

AlertRow = Mapping[str, Any]


class JsonlSink:
    """Append records to a file, one JSON object per line.

    A line is one ``write`` to a descriptor opened for appending, then flushed to disk. If the process is killed in
    between, the line is cut off at the end of the file, and the next record begins on a new line.
    A record whose ``key`` is in the file already is not written again, so that a run resumed from an older
    checkpoint repeats nothing. NaN and infinite numbers are written as strings, since JSON has none.

    Args:
        path: The file; its folder is made at the first record.
        key: Names of the fields that identify a record.

    Raises:
        OSError: if the file cannot be written (a full disk); only this line is lost.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "alerts.jsonl"
        >>> sink = JsonlSink(path, key=("rule", "step"))
        >>> sink.write({"rule": "dead_filters", "step": 3}), sink.write({"rule": "dead_filters", "step": 3})
        (True, False)
        >>> path.read_text()
        '{"rule": "dead_filters", "step": 3}\\n'
    """

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self.path, self._key = Path(path), tuple(key)
        self._known: set[tuple[Any, ...]] = set()
        self._read = 0  # bytes of the file whose identities are known

    def write(self, record: AlertRow) -> bool:
        """Append ``record``; return False if it was there already."""
        self._learn()
        if self._identity(record) in self._known:
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            self._append(descriptor, ("\n" if self._cut_off() else "") + line)
        finally:
            os.close(descriptor)
        return True

    def _learn(self) -> None:
        """Read the lines added since the last time: all of them at first, then one or two."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self._read:  # the file was replaced
            self._known, self._read = set(), 0
        if size > self._read:
            with self.path.open("rb") as file:
                file.seek(self._read)
                added = file.read()
            whole = added.rfind(b"\n") + 1  # the last part may still be being written
            self._known |= {self._identity(known) for known in _records(added[:whole])}
            self._read += whole

    def _append(self, descriptor: int, text: str) -> None:
        data = text.encode("utf-8")
        if os.write(descriptor, data) < len(data):
            raise OSError(f"{self.path}: only a part of a line could be written; is the disk full?")
        os.fsync(descriptor)

    def _cut_off(self) -> bool:
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    def _identity(self, record: AlertRow) -> tuple[Any, ...]:
        # In the form of the file, where a tuple has become a list.
        return tuple(json.dumps(_plain(record.get(name)), sort_keys=True) for name in self._key)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Records of a file of JSON lines; lines that are cut off are skipped; a missing file gives none.

    Example:
        >>> read_jsonl(Path("no such file"))
        []
    """
    return list(_records(Path(path).read_bytes())) if Path(path).exists() else []


def _records(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):  # not splitlines: a text may hold a line separator of Unicode's
        try:
            record = json.loads(line.decode("utf-8", errors="replace"))
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            yield record


def alerts_markdown(records: Sequence[AlertRow]) -> str:
    """A Markdown list of incidents, one sentence or two each; alerts by themselves are listed in the same way.

    Args:
        records: In the order in which they are to be read, as :meth:`convscope.alerts.Incident.as_dict` or
            :meth:`convscope.alerts.Alert.as_dict` give them; fields that are missing are left out.

    Example:
        >>> print(alerts_markdown([{"epoch": 4, "severity": "warning", "rule": "dead", "message": "conv1: 3 died"}]))
        - **warning**, epoch 4: conv1: 3 died\\. *dead*
    """
    if not records:
        return "No alerts so far."
    return "\n".join(line for record in records for line in _item(record))


def _item(record: AlertRow) -> Iterator[str]:
    severity, rule = (escape_markdown(str(record.get(name, ""))) for name in ("severity", "rule"))
    text = record.get("text") or record.get("message", "")
    text = str(text) if str(text)[-1:] in (".", "") else f"{text}."
    yield f"- **{severity}**, {_time(record)}: {escape_markdown(text)} *{rule}*"


def _time(record: AlertRow) -> str:
    """Moment of an alert, or beginning and end of an incident."""
    opened, closed = record.get("opened") or record, record.get("closed")
    if closed:
        return f"{_label(opened)} to {_label(closed)}, {escape_markdown(str(record.get('ending', '')))}"
    return f"open since {_label(opened)}" if "opened" in record else _label(opened)


def _label(when: Mapping[str, Any]) -> str:
    return f"epoch {escape_markdown(str(when.get('epoch', '?')))}"


def _plain(value: Any) -> Any:
    """``value`` with numbers that JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
