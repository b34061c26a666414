"""TensorBoard in headless chromium: start the server, open a tab, wait until something is drawn, take a picture."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

Answer = TypeVar("Answer")

CHROMIUM_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,1200",
)

_FIND = """
const seen = [];
const walk = (root) => root.querySelectorAll('*').forEach((element) => {
  seen.push(element);
  if (element.shadowRoot) walk(element.shadowRoot);
});
walk(document);
const visible = (element) => {
  const box = element.getBoundingClientRect();
  return box.width > 1 && box.height > 1;
};
const shown = seen.filter(visible);
"""

# How many lines, pictures and histograms a person sees, and the text. TensorBoard keeps hidden spinners and
# inactive tabs in the page, so only what has a size counts.
WALK = (
    _FIND
    + """
const lines = shown.filter((e) => e.tagName.toLowerCase() === 'path' && (e.getAttribute('d') || '').length > 20);
const inside = (element, names) => {
  for (let at = element; at; at = at.parentNode || at.host) {
    if (at.tagName && names.includes(at.tagName)) return true;
  }
  return false;
};
return {
  scalars: lines.filter((e) => inside(e, ['LINE-CHART', 'VZ-LINE-CHART2'])).length,
  images: shown.filter((e) => e.tagName === 'IMG' && e.naturalWidth > 0).length,
  histograms: lines.filter((e) => inside(e, ['TB-HISTOGRAM', 'VZ-HISTOGRAM-TIMESERIES'])).length,
  text: shown.filter((e) => !['STYLE', 'SCRIPT'].includes(e.tagName))
    .map((e) => [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join('').trim())
    .filter(Boolean).join('\\n'),
};
"""
)

# [natural width, shown width] of every picture.
IMAGE_WIDTHS = (
    _FIND
    + """
return shown.filter((e) => e.tagName === 'IMG' && e.naturalWidth > 0)
            .map((e) => [e.naturalWidth, e.getBoundingClientRect().width]);
"""
)


def missing() -> str | None:
    """Why the browser cannot be used here, or None."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def wait_for(question: Callable[[], Answer], what: str, seconds: float = 30.0) -> Answer:
    """Ask until the answer is true-like; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if answer := question():
                return answer
        time.sleep(0.2)
    raise TimeoutError(f"waited {seconds:.0f} s for {what}")


class Server:
    """A running TensorBoard."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/data/{path}", timeout=10) as reply:
            return json.load(reply)


@contextlib.contextmanager
def tensorboard(logdir: Path) -> Iterator[Server]:
    """Serve `logdir`; ready once a run and its scalars are listed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--load_fast=false", "--reload_interval", "1"]
    # From the log folder, as `-m` would import a file named tensorboard.py from the current one.
    process = subprocess.Popen(command, cwd=logdir, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Server(f"http://127.0.0.1:{port}")
    try:
        wait_for(lambda: server.get("runs"), "TensorBoard to list a run", 60)
        wait_for(lambda: any(server.get("plugin/scalars/tags").values()), "TensorBoard to list scalars")
        yield server
    finally:
        process.terminate()
        process.wait(timeout=10)


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """A headless chromium with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for option in (*CHROMIUM_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def look_at(driver: Any, server: Server, tab: str, drawn: str, picture: Path) -> dict[str, Any]:
    """Open `tab`, wait until it shows something of the kind `drawn`, let it settle, take a screenshot."""
    driver.get("about:blank")
    driver.get(f"{server.url}/#{tab}")
    wait_for(lambda: driver.execute_script(WALK)[drawn], f"{drawn} in the tab {tab}")
    time.sleep(2)
    driver.save_screenshot(str(picture))
    found: dict[str, Any] = driver.execute_script(WALK)
    return found
