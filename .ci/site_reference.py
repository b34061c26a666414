"""The API reference of the docs' site: pages made from docstrings, and docs/api.md linked to them.

mkdocs runs it as a hook, griffe as an extension that turns the few reStructuredText forms of our docstrings (roles,
tables of ``=``, ``::``) into Markdown. The names, their order and their sections are those of docs/api.md, which a
test compares with every ``__all__``.
"""

from __future__ import annotations

import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

API = Path(__file__).parents[1] / "docs" / "api.md"
ENTRY = re.compile(r"^\| (?P<names>`\w+`(?:, `\w+`)*) \| (?P<what>.+) \| \[.+\]\(.+\) \|$")
ROLE = re.compile(r":(?:class|func|meth|attr|data|mod|exc):`(?P<short>~?)(?P<path>[\w.]+)`")


@cache
def sections() -> dict[str, list[str]]:
    """Names by module, in the order of docs/api.md; each name once, at the first module that lists it."""
    found: dict[str, list[str]] = {}
    module = ""
    for line in API.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            module = line.removeprefix("## ")
        elif entry := ENTRY.match(line):
            named = found.setdefault(module, [])
            named += [name for name in re.findall(r"\w+", entry["names"]) if name not in named]
    return found


def address(module: str) -> str:
    """Path of a module's page in the site's sources."""
    return f"reference/{module}.md"


def on_files(files: Files, config: Any) -> Files:
    """Add one page per public module."""
    for module, names in sections().items():
        entries = [f"{module}.{name}" for name in names]
        text = f"# {module}\n\n" + "\n".join(f"::: {entry}\n" for entry in entries if entry not in sections())
        files.append(File.generated(config, address(module), content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Link each name of docs/api.md to its entry in the reference."""
    if page.file.src_uri != "api.md":
        return markdown
    lines, module = [], ""
    for line in markdown.splitlines():
        module = line.removeprefix("## ") if line.startswith("## ") else module
        entry = ENTRY.match(line)
        if entry:
            line = line.replace(entry["names"], re.sub(r"`(\w+)`", partial(_entry, module), entry["names"]), 1)
        lines.append(line)
    return "\n".join(lines)


def _entry(module: str, found: re.Match[str]) -> str:
    path = f"{module}.{found[1]}"
    return f"[`{found[1]}`]({address(path)})" if path in sections() else f"[`{found[1]}`][{path}]"


class PlainDocstrings(griffe.Extension):
    """Docstrings in Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring before its sections are parsed."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """A docstring with its reStructuredText forms in Markdown.

    >>> as_markdown("See :class:`~convscope.alerts.When`::")
    'See [`When`][convscope.alerts.When]:'
    >>> print(as_markdown("==  ==\\na   b|\\n    c\\nd   e\\n==  =="))
    | | |
    |---|---|
    | a | b\\| c |
    | d | e |
    """
    plain = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    return re.sub(r"::(?=\n|$)", ":", ROLE.sub(_link, _with_fences(_with_tables(plain))))


def _link(role: re.Match[str]) -> str:
    path = role["path"]
    name = path.rpartition(".")[2] if role["short"] else path
    target = _public().get(path.rpartition(".")[2]) if path.startswith("convscope") else None
    return f"`{name}`" if target is None else f"[`{name}`][{target}]"


@cache
def _public() -> dict[str, str]:
    """Where the reference has each public name."""
    return {name: f"{module}.{name}" for module, names in reversed(sections().items()) for name in names}


def _with_fences(text: str) -> str:
    """Examples outside a section of examples, which griffe reads itself, as blocks of code."""
    out: list[str] = []
    inside, section = False, -1  # in a block of ours; indent of the section that we are in
    for line in [*text.split("\n"), ""]:
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent <= section:
            section = -1
        if line.strip() == "Examples:":
            section = indent
        if line.lstrip().startswith(">>>") and not inside and section < 0:
            out += ["", " " * indent + "```pycon"]
            inside, margin = True, indent
        elif inside and not line.strip():
            out.append(" " * margin + "```")
            inside = False
        out.append(line)
    return "\n".join(out[:-1])


def _with_tables(text: str) -> str:
    lines, out = text.split("\n"), []
    while lines:
        line = lines.pop(0)
        if not re.fullmatch(r"\s*=+(?: +=+)+", line):
            out.append(line)
            continue
        table, rules = [line], 1
        while lines and not (rules >= 2 and not _goes_on(lines)):
            table.append(lines.pop(0))
            rules += table[-1].strip().startswith("==")
        out += _table(table)
    return "\n".join(out)


def _goes_on(lines: list[str]) -> bool:
    """Whether another rule of this table is still to come: two enclose the head, a third one ends the rows."""
    for line in lines:
        if not line.strip():
            return False
        if line.strip().startswith("=="):
            return True
    return False


def _table(lines: list[str]) -> list[str]:
    indent = len(lines[0]) - len(lines[0].lstrip())
    starts = [found.start() for found in re.finditer(r"=+", lines[0])]
    ends = [*starts[1:], None]
    rows: list[list[str]] = []
    rules = [place for place, line in enumerate(lines) if line.strip().startswith("==")]
    for place, line in enumerate(lines):
        if place in rules:
            continue
        cells = [line[start:end].strip().replace("|", "\\|") for start, end in zip(starts, ends, strict=True)]
        if rows and not cells[0]:
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    head = rows.pop(0) if len(rules) > 2 else [""] * len(starts)
    shown = [head, ["---"] * len(starts), *rows]
    marks = ["| " + " | ".join(row) + " |" for row in shown]
    blank = "| " * len(starts) + "|"
    marks[0] = blank if not any(head) else marks[0]
    marks[1] = "|" + "---|" * len(starts)
    return ["", *(" " * indent + mark for mark in marks), ""] if indent else marks
