"""The report: one HTML page with a summary that needs no JavaScript, the tab's views, and the data that they show."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from convscope.dashboard.embedding import BUDGET, embed
from convscope.dashboard.leading_quantities import leading
from convscope.dashboard.moments import moment, number
from convscope.dashboard.record import Run
from convscope.dashboard.scalars import ScalarCurve
from convscope.dashboard.story import sentences

SCRIPT = Path(__file__).parent / "static" / "index.js"

# Nothing is loaded from anywhere, and nothing is sent.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_STYLE = """
body { font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; margin: 0; padding: 0 16px 32px; }
.report { max-width: 60rem; padding: 16px 0; }
.report h1 { font-size: 20px; margin: 0 0 8px; }
.report h2 { font-size: 16px; margin: 18px 0 6px; overflow-wrap: anywhere; }
.report h3 { font-size: 14px; margin: 12px 0 4px; }
.report ul { margin: 0; padding: 0 0 0 1.2em; list-style: disc; }
.report li { margin: 2px 0; overflow-wrap: anywhere; }
.report table { border-collapse: collapse; margin: 4px 0; font-variant-numeric: tabular-nums; }
.report th, .report td { text-align: right; padding: 2px 10px 2px 0; border-bottom: 1px solid var(--line, #d5d9df); }
.report th { font-weight: 600; vertical-align: bottom; }
.report th:first-child, .report td:first-child { text-align: left; overflow-wrap: break-word; min-width: 7em; }
.report .critical { color: var(--critical, #b3261e); }
.report .warning { color: var(--warning, #8a5a00); }
.report .small { color: var(--muted, #565d68); font-size: 12px; }
@media print {
  .report { max-width: none; }
  .report table, .report li { break-inside: avoid; }
  #convscope-view { break-before: page; }
  #convscope-view nav, .map-check, .map-row, .curves-check { display: none; }
  /* Names of layers are buttons, chosen quantities are selects: on paper they are words. */
  #convscope-view button, #convscope-view select {
    appearance: none; border: 0; padding: 0; background: none; font: inherit;
  }
}
"""


def report(runs: dict[str, Run], curves: dict[str, dict[str, ScalarCurve]], budget: int = BUDGET) -> str:
    """The page as HTML.

    Args:
        runs: Records by the names that the report gives them.
        curves: The scalars of each run, by tag.
        budget: Bytes of the data that the views show.
    """
    data = embed(runs, curves, budget)
    script = base64.b64encode(SCRIPT.read_bytes()).decode("ascii")
    title = escape(", ".join(runs))
    parts = [
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>convscope: {title}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<style>{_STYLE}</style>\n</head>\n<body>\n<section class="report" aria-label="Summary">',
        f"<h1>{'Report' if len(runs) == 1 else f'Report on {len(runs)} runs'}</h1>",
        _side_by_side(runs) if len(runs) > 1 else "",
        *(part for name, run in runs.items() for part in _summary(name, run)),
        *(f'<p class="small">{escape(note)}</p>' for note in data.notes),
        '<noscript><p class="small">The views need JavaScript; the summary does not.</p></noscript>\n</section>',
        '<div id="convscope-view"></div>',
        f'<script type="application/json" id="convscope-data">{data.as_text()}</script>',
        f'<script type="module">import {{ render }} from "data:text/javascript;base64,{script}"; render();</script>',
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _summary(name: str, run: Run) -> Iterator[str]:
    yield f"<h2>{escape(name)}</h2>"
    yield _bullets(sentences(run, name))
    if run.incidents:
        yield f"<h3>Incidents</h3>\n{_bullets_of_incidents(run.incidents)}"
    if run.steps:
        yield f"<h3>Layers at the last check ({escape(moment(run, -1))})</h3>\n{_layers(run)}"
    made = ", ".join(f"{tool} {version}" for tool, version in run.manifest["versions"].items() if version)
    yield f'<p class="small">Recorded with {escape(made)}.</p>' if made else ""


def _side_by_side(runs: dict[str, Run]) -> str:
    """One line per run: its checks, its incidents, and the mean over layers of what says most."""
    labels = list(dict.fromkeys(one.label for run in runs.values() for one in leading(run)))
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in ("Run", "Checks", "Incidents", *labels))
    rows = [f"<tr><td>{escape(name)}</td>{_cells(run, labels)}</tr>" for name, run in runs.items()]
    means = '<p class="small">Means over the layers at the last check of each run.</p>'
    return f"<h2>Side by side</h2>\n<table>\n<tr>{head}</tr>\n" + "\n".join(rows) + f"\n</table>\n{means}"


def _cells(run: Run, labels: list[str]) -> str:
    found = {one.label: run.values(one.family, one.quantity)[-1:].ravel() for one in leading(run)}
    known = {label: values[np.isfinite(values)] for label, values in found.items()}
    means = [float(known[label].mean()) if label in known and known[label].size else float("nan") for label in labels]
    shown = [str(len(run.steps)), str(len(run.incidents)), *map(number, means)]
    return "".join(f"<td>{text}</td>" for text in shown)


def _bullets(texts: list[str]) -> str:
    return "\n".join(["<ul>", *(f"<li>{escape(text)}</li>" for text in texts), "</ul>"])


def _bullets_of_incidents(incidents: list[dict[str, Any]]) -> str:
    """Incidents, the newest first."""
    lines = []
    for one in reversed(incidents):
        severity = str(one.get("severity", "warning"))
        marked = severity if severity in ("critical", "warning", "info") else "warning"
        when = f"epoch {(one.get('opened') or one).get('epoch', '–')}"
        text = str(one.get("text") or one.get("message", ""))
        lines.append(f'<li><strong class="{marked}">{escape(severity)}</strong>, {escape(when)}: {escape(text)}</li>')
    return "\n".join(["<ul>", *lines, "</ul>"])


def _layers(run: Run) -> str:
    shown = leading(run)
    head = "".join(f'<th scope="col">{escape(one.label)}</th>' for one in shown)
    columns = [run.values(one.family, one.quantity)[-1] for one in shown]
    rows = [
        f"<tr><td>{escape(layer)}</td>{''.join(f'<td>{number(float(column[place]))}</td>' for column in columns)}</tr>"
        for place, layer in enumerate(run.layers)
        if not columns or np.isfinite([column[place] for column in columns]).any()
    ]
    return f'<table>\n<tr><th scope="col">Layer</th>{head}</tr>\n' + "\n".join(rows) + "\n</table>"
