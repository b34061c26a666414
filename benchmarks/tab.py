"""The TensorBoard tab: how quick it is in a browser, and its pictures in the documentation.

Run ``python -m benchmarks.tab`` (``--help`` for options) from a clone with the test requirements, chromium and
chromedriver. It records the runs (about two minutes), starts ``tensorboard``, prints a table, and writes the pictures.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import tab_runs
from tests.dashboard import tab_views
from tests.dashboard.tab_page import TabPage
from tests.loggers import _browser
from tests.support.tensorboards import Served, serve

DYING, CORRUPTED, HEALTHY = "dying_relu/version_0", "label_corruption/version_0", "digits_full/version_0"
PICTURES: dict[str, tuple[int, dict[str, str]]] = {
    "tab-overview": (930, {"run": DYING}),
    "tab-incidents": (640, {"run": DYING, "view": "incidents"}),
    "tab-layer": (1900, {"run": DYING, "view": "layer", "layer": "features.2.0"}),
    "tab-predictions": (900, {"run": HEALTHY, "view": "predictions"}),
    "tab-compare": (700, {"run": DYING, "view": "compare", "other": CORRUPTED}),
    "tab-methods": (800, {"run": HEALTHY, "view": "methods"}),
}
WIDTH, OUTER = 1400, 180  # pixels; height of TensorBoard's own bar and what chromium takes
_PLACE = "sessionStorage.setItem('convscope:/data/plugin_entry.html', arguments[0])"
_MARK = "return performance.getEntriesByName(`convscope:${arguments[0]}`)[0]?.startTime ?? 0"
_BYTES = "return performance.getEntriesByType('resource').reduce((sum, one) => sum + one.transferSize, 0)"


def record(folder: Path) -> None:
    """Record the runs that are not there yet."""
    made = {DYING: tab_runs.dying, CORRUPTED: tab_runs.corrupted, HEALTHY: tab_runs.healthy}
    for name, train in made.items():
        if not (folder / name).exists():
            train(folder)
    if not (folder / "large").exists():
        tab_runs.large(folder / "large")


def measure(page: TabPage, server: Served) -> dict[str, float]:
    """Milliseconds of the first paint and of moves of the slider, on the run of 100 layers and 500 checks."""
    page.open(server)  # the browser has the script from now on, the data not yet
    page.wait_for_text("check")
    tab_views.show(page, server, run="large")
    found = {
        "first map, milliseconds from the begin of loading": float(page.script(_MARK, "map")),
        "all of the page, milliseconds": float(page.script(_MARK, "shown")),
        "kB over the wire": float(page.script(_BYTES)) / 1000,
    }
    times = [tab_views.slide(page, check) for check in range(490, 90, -10)]
    found["slider, median milliseconds"] = statistics.median(times)
    found["slider, slowest of 40, milliseconds"] = max(times)
    return found


def draw(page: TabPage, server: Served, folder: Path) -> None:
    """Write the pictures, with TensorBoard around the tab; the overview in the dark theme too."""
    from urllib.parse import urlencode

    for name, (height, place) in PICTURES.items():
        page.driver.set_window_size(WIDTH, height + OUTER)
        page.driver.get(f"{server.url}/data/plugin_entry.html?name=convscope")
        page.script(_PLACE, urlencode(place))
        page.open(server)
        tab_views.settle(page)
        _save(page, folder / f"{name}.png")
        if name == "tab-overview":
            page.script("window.parent.document.body.classList.add('dark-mode')")
            tab_views.settle(page)
            _save(page, folder / f"{name}-dark.png")


def _save(page: TabPage, path: Path) -> None:
    """The picture in 256 colours: half of the bytes, and no difference to be seen."""
    from PIL import Image

    page.driver.execute_async_script("setTimeout(arguments[0], 700)")
    picture: Any = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").replace("``", ""))
    parser.add_argument("--runs", type=Path, default=None, help="folder of the runs, kept (default: a temporary one)")
    parser.add_argument("--pictures", type=Path, default=Path("docs/images"), help="default docs/images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runs = (options.runs or Path(scratch) / "runs").absolute()
        record(runs)
        with (
            serve(runs, entry_points=Path(scratch) / "paths") as server,
            _browser.browser(Path(scratch) / "profile") as driver,
        ):
            server.wait(runs=4)
            page = TabPage(driver)
            for name, value in measure(page, server).items():
                print(f"| {name} | {value:.0f} |")
            draw(page, server, options.pictures)


if __name__ == "__main__":
    main()
