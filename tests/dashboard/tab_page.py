"""The tab in headless chromium: open it, look into its frame, read the console."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.loggers._browser import _FIND, wait_for
from tests.support.tensorboards import Served

_FRAME = (
    _FIND
    + """
return seen.find((e) => e.tagName === 'IFRAME' && (e.src || e.srcdoc || e.contentDocument) && visible(e)) || null;
"""
)
BAD = ("violates", "Refused", "Uncaught", "Error", "error", "Failed to load")


class TabPage:
    """The tab "convscope" of a running TensorBoard, or a report's page, in a browser.

    Args:
        driver: A chromium driven by selenium.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, server: Served, fragment: str = "convscope") -> None:
        """Open TensorBoard at the tab and go into its frame, once it has content."""
        self.driver.switch_to.default_content()
        self.driver.get("about:blank")
        self.console()  # empties it
        self.driver.get(f"{server.url}/#{fragment}")
        self.enter()

    def open_file(self, address: str) -> None:
        """Open a page that is not in a frame, such as a report."""
        self.driver.switch_to.default_content()
        self.driver.get("about:blank")
        self.console()
        self.driver.get(address)

    def leave(self) -> None:
        """Leave the page while its server is there; the console must be without complaints."""
        found = self.complaints()
        self.driver.switch_to.default_content()
        self.driver.get("about:blank")
        self.console()
        assert found == []

    def enter(self) -> None:
        """Go into the tab's frame."""
        self.driver.switch_to.default_content()
        frame = wait_for(lambda: self.driver.execute_script(_FRAME), "the tab's frame")
        self.driver.switch_to.frame(frame)
        wait_for(lambda: self.script("return document.body && document.body.childElementCount"), "the tab's content")

    def script(self, code: str, *arguments: Any) -> Any:
        """Run JavaScript in the frame."""
        return self.driver.execute_script(code, *arguments)

    @property
    def text(self) -> str:
        """Text that is shown."""
        return str(self.script("return document.body.innerText"))

    def wait_for_text(self, word: str, seconds: float = 30.0) -> None:
        """Wait until a text is shown."""
        wait_for(lambda: word in self.text, f"{word!r} in {self.text[:500]!r}", seconds)

    def find(self, selector: str) -> Any:
        """The first element of a CSS selector that is shown, waited for."""
        found: Callable[[], Any] = lambda: next(  # noqa: E731
            (one for one in self.driver.find_elements("css selector", selector) if one.is_displayed()), None
        )
        return wait_for(found, selector)

    def console(self) -> list[str]:
        """Lines of the browser's console since the last call."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]

    def complaints(self) -> list[str]:
        """Lines of the console that tell of an error, a refusal, or a broken content security policy."""
        time.sleep(0.2)
        # TensorBoard does not find its own fonts below a path prefix, and has no icon for the frame's page alone.
        lines = [line for line in self.console() if "/font-roboto/" not in line and "/favicon.ico" not in line]
        return [line for line in lines if any(word in line for word in BAD)]
