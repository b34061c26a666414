"""The notebooks as pages of the site, and beside each page the notebook to download (a hook of mkdocs).

Docs link to ``../notebooks/first_use.py``, which is there for a reader of the repository; on the site that is the page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.structure.files import File, Files

FOLDER = Path(__file__).parents[1] / "notebooks"
LINK = re.compile(r"\]\((?:\.\./)*notebooks/(\w+)\.py\)")
DOWNLOAD = "[Download as a notebook]({name}.ipynb), or as [Python]({name}.py).\n\n"


def on_files(files: Files, config: Any) -> Files:
    """Add a page, a notebook and the program itself for each notebook."""
    for path in sorted(FOLDER.glob("*.py")):
        notebook = jupytext.read(path)
        heading, _, text = jupytext.writes(_without_header(notebook), "md").partition("\n\n")
        page = f"{heading}\n\n{DOWNLOAD.format(name=path.stem)}{text}"
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        files.append(File.generated(config, f"notebooks/{path.stem}.ipynb", content=jupytext.writes(notebook, "ipynb")))
        files.append(File.generated(config, f"notebooks/{path.stem}.py", abs_src_path=str(path)))
    return files


def _without_header(notebook: Any) -> Any:
    """The notebook's own settings would be a header of the page."""
    plain = notebook.copy()
    plain.metadata = {"jupytext": {"notebook_metadata_filter": "-all", "cell_metadata_filter": "-all"}}
    return plain


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to a notebook's program lead to its page."""
    up = "../" * page.file.src_uri.count("/")
    return LINK.sub(rf"]({up}notebooks/\1.md)", markdown)
