"""A running service with the explorer page, and a browser that looks at it, for tests of the page."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright

from persona4rec_pipeline.serving.service import create_app
from persona4rec_pipeline.settings import load_settings
from persona4rec_tests.index.builders import Shop, axis, unit

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
READER, STRANGER, HATER = "ann", "nobody", "bob"
# Everything that would run somewhere, if it were taken for markup, for a script or for an address.
IMAGE = "<img src=x onerror=\"window.ran='image'\">"
SCRIPT = "</script><script>window.ran='script'</script>"
ADDRESS = "javascript:window.ran='address'"
DRAWING = "<svg/onload=\"window.ran='drawing'\">"
FRAME = "<iframe srcdoc=\"<script>parent.ran='frame'</script>\"></iframe>"
LINK = "<a href=\"javascript:window.ran='link'\">here</a>"
HOSTILE_USER = f'"><b onmouseover="window.ran=1">{SCRIPT}#/?&%2F'
HOSTILE_ITEM = f"{LINK}/../%00?#&'"
HOSTILE_CATALOG = "films"
# Said by every page before any script of its own.
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


def browser_path() -> str:
    """Where Chromium is; without it the test fails, as what it proves is not proven."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail("These tests need Chromium: apt-get install -y chromium (or any of " + ", ".join(BROWSERS) + ").")
    return found


def launch(playwright: Playwright) -> Browser:
    """Chromium as this machine has it; root may run it without its sandbox alone."""
    return playwright.chromium.launch(
        executable_path=browser_path(), args=["--no-sandbox"] if os.geteuid() == 0 else [], timeout=120_000
    )


def explored_shop(home: Path) -> Shop:
    """A reader whose list changes with one more liked item, more items than fit a list, and one that is all hostile.

    `ann` liked `odd`, along axis 0. Along it lie `dune`, `emma` and, less and less so, 55 others; `wave` lies between axes 0
    and 2, `deep` and `tide` along axis 2. `grim` has a critical persona alone.
    """
    shop = Shop(home)
    shop.item("dune", (axis(0), "appreciative"), (unit(1, 0, 0, 0, 2), "mixed"), (unit(1, 1), "critical"))
    shop.item("emma", (unit(3, 1), "appreciative"))
    shop.item("wave", (unit(1, 0, 2), "appreciative"))
    shop.item("deep", (unit(0, 0, 1, 0, 0, 0.2), "appreciative"))
    shop.item("tide", (axis(2), "appreciative"), item_vector=axis(2), categories=["Sea"])
    shop.item("grim", (axis(0), "critical"))
    shop.item("odd", (axis(6), "appreciative"))
    for number in range(55):
        shop.item(f"other-{number:02}", (unit(1, 0, 0, 0.5 + number / 50), "appreciative"))
    shop.interaction(READER, "odd", axis(0)).interaction(HATER, "emma", positive=False)
    shop.item(HOSTILE_ITEM, (unit(2, 0, 0, 0, 0, 1), "appreciative"), (axis(5), "critical"), catalog=HOSTILE_CATALOG)
    shop.interaction(HOSTILE_USER, "odd", axis(0))
    for row in shop.rows["personas"]:
        if row["item_id"] == HOSTILE_ITEM:
            row |= {"name": f"{SCRIPT}{IMAGE}", "preference_rationale": f"{DRAWING} {ADDRESS}"}
            row |= {"description": f"{FRAME}{IMAGE}", "quotes": [f"{IMAGE}{FRAME}", ADDRESS, f"{LINK}{SCRIPT}"]}
    for table in ("items", "item_summaries"):
        shop.rows[table][-1]["title"] = f"{IMAGE}{SCRIPT}"
    shop.rows["item_summaries"][-1]["summary"] = f"{DRAWING}{LINK}"
    return shop


@contextmanager
def running(home: Path, **serving: Any) -> Iterator[str]:
    """The service over the index in `home`, answering on a free port of this machine; its address."""
    options = {"access_log": False, "look_every_s": 3600.0} | serving
    app = create_app(load_settings({}, home=home, serving=options))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        assert thread.is_alive(), "the service did not start"
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listener.close()


class Visitor:
    """A tab of a browser that remembers what went wrong in it.

    expected: parts of console messages that belong to a test, such as that of an answer which is an error.
    """

    def __init__(self, context: BrowserContext, base: str) -> None:
        self.base = base
        self.page: Page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.add_init_script(WATCH)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.expected: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.said.append(f"uncaught: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialogue: {dialog.message}"))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.said.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def go(self, view: str) -> Page:
        """Open a view by its address."""
        self.page.goto(f"{self.base}/{view}")
        return self.page

    def complaints(self) -> list[str]:
        """What a page that works never does: errors, things the policy stopped, scripts of strangers, requests elsewhere."""
        found = [line for line in self.said if not any(part in line for part in self.expected)]
        found += [f"violation: {one}" for one in self.page.evaluate("window.violations ?? []")]
        ran = self.page.evaluate("window.ran ?? null")
        found += [] if ran is None else [f"ran: {ran}"]
        return found + [f"asked {url}" for url in self.asked if not url.startswith(f"{self.base}/")]


@contextmanager
def visiting(browser: Browser, base: str, **options: Any) -> Iterator[Visitor]:
    """A visitor in a context of its own, with whom nothing went wrong by the end."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    visitor = Visitor(context, base)
    try:
        yield visitor
        assert visitor.complaints() == []
    finally:
        context.close()
