"""Renew the pictures of the explorer page in docs/images from a service that is running.

    persona4rec serve &
    python scripts/explorer_screenshots.py --url http://127.0.0.1:8080

It needs Chromium (apt-get install -y chromium), and looks like the pictures that are there with the fonts that the page asks
for first and Debian has: apt-get install -y fonts-inter fonts-urw-base35. Each picture becomes a PNG with a palette.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 780}
COLOURS = 256
# From the user to a persona near by.
WALK = ("ArrowRight", "ArrowUp")
# The item of the what-if stands so far down in the user's list.
UNEXPECTED = 30
# What a phone's screens are parted by, in pixels, and the ground behind them.
GAP, GROUND = 24, "#8f92a1"


def _part(text: str) -> str:
    return quote(text, safe="")


def _shot(
    browser: Browser,
    address: str,
    scheme: str,
    size: dict[str, int],
    scroll_to: str | None = None,
    press: tuple[str, Sequence[str]] | None = None,
) -> Image.Image:
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", device_scale_factor=1)
    page = context.new_page()
    page.goto(address)
    page.locator("h1").first.wait_for()
    if scroll_to is not None:
        page.locator(scroll_to).first.evaluate("(one) => scrollTo(0, one.getBoundingClientRect().top + scrollY - 90)")
    _settle(page)
    if press is not None:
        for key in press[1]:
            page.locator(press[0]).press(key)
        _settle(page)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    context.close()
    return picture


def _settle(page: Page) -> None:
    """Wait until nothing that can be seen is on its way, three looks in a row: answers and scrolling ask for more."""
    quiet = 0
    while quiet < 3:
        page.wait_for_timeout(200)
        waits = page.evaluate(
            "[...document.querySelectorAll('.skeleton')].some((one) => one.getBoundingClientRect().top < innerHeight)"
        )
        quiet = 0 if waits else quiet + 1


def _side_by_side(pictures: list[Image.Image]) -> Image.Image:
    width = sum(one.width for one in pictures) + GAP * (len(pictures) + 1)
    whole = Image.new("RGB", (width, pictures[0].height + 2 * GAP), GROUND)
    for number, one in enumerate(pictures):
        whole.paste(one, (GAP + number * (one.width + GAP), GAP))
    return whole


def _keep(name: str, picture: Image.Image) -> None:
    path = IMAGES / f"explorer-{name}.png"
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> int:
    """Take all pictures; 0 when they are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="where the service answers")
    parser.add_argument("--user", help="whose list is shown; default: the first user with a profile")
    parser.add_argument("--liked", help="catalogue/item of the what-if; default: an item from further down their list")
    given = parser.parse_args()
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        print("Chromium is missing: apt-get install -y chromium", file=sys.stderr)
        return 1
    user = given.user or httpx.get(f"{given.url}/v1/users", params={"limit": 1}).json()["users"][0]
    listed = httpx.get(f"{given.url}/v1/users/{_part(user)}/recommendations", params={"k": UNEXPECTED}).json()[
        "recommendations"
    ]
    best = listed[0]
    liked = given.liked or f"{_part(listed[-1]['catalog'])}/{_part(listed[-1]['item_id'])}"
    home = f"{given.url}/#/"
    of_user = f"{home}user/{_part(user)}"
    of_item = f"{home}item/{_part(best['catalog'])}/{_part(best['item_id'])}?user={_part(user)}"
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=executable, args=[*sandbox, "--hide-scrollbars"])
        _keep("user", _shot(browser, of_user, "light", DESK))
        _keep("what-if", _shot(browser, f"{of_user}?liked={_part(liked)}", "light", DESK))
        _keep("blend", _shot(browser, f"{of_user}/reorder", "dark", DESK))
        _keep("item", _shot(browser, of_item, "light", DESK))
        _keep(
            "map", _shot(browser, f"{home}map?user={_part(user)}", "dark", DESK, ".view-head", (".map-surface", WALK))
        )
        phones = [
            _shot(browser, home, "light", PHONE),
            _shot(browser, of_user, "dark", PHONE, ".cards"),
            _shot(browser, f"{of_user}/reorder", "light", PHONE, ".weight"),
        ]
        _keep("phone", _side_by_side(phones))
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
