"""The explorer page in a real Chromium, over a real service and a small index."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from persona4rec_pipeline.serving.explorer import CONTENT_SECURITY_POLICY, page_files
from persona4rec_pipeline.serving.security import ApiKeys
from persona4rec_pipeline.settings import load_settings
from persona4rec_tests.serving import explored
from persona4rec_tests.serving.explored import (
    HATER,
    HOSTILE_CATALOG,
    HOSTILE_ITEM,
    HOSTILE_USER,
    READER,
    STRANGER,
    Visitor,
    explored_shop,
    launch,
    running,
    visiting,
)

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
VIEWS = {
    "home": "#/",
    "user": f"#/user/{READER}",
    "what-if": f"#/user/{READER}?liked=books%2Ftide",
    "reorder": f"#/user/{READER}/reorder",
    "stranger": f"#/user/{STRANGER}",
    "item": "#/item/books/dune",
    "item-for-user": f"#/item/books/dune?user={READER}",
    "map": "#/map",
    "map-for-user": f"#/map?user={READER}",
    "search": "#/search/other",
    "hostile-user": f"#/user/{quote(HOSTILE_USER, safe='')}",
    "hostile-item": f"#/item/{HOSTILE_CATALOG}/{quote(HOSTILE_ITEM, safe='')}?user={quote(HOSTILE_USER, safe='')}",
    "nowhere": "#/nowhere",
}
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    shop = explored_shop(tmp_path_factory.mktemp("home"))
    shop.publish()
    return shop.home


@pytest.fixture(scope="module")
def base(home) -> Iterator[str]:
    with running(home) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = launch(playwright)
        yield found
        found.close()


@pytest.fixture
def visitor(browser, base) -> Iterator[Visitor]:
    """A tab in which nothing went wrong by the end of a test."""
    with visiting(browser, base) as found:
        yield found


def settled(page: Page) -> Page:
    """The page when nothing is still on its way of what can be seen; what lies further down is asked for later."""
    expect(page.locator("h1").first).to_be_attached()
    until(
        page,
        "[...document.querySelectorAll('[aria-busy=true], .skeleton')].every((one) => {"
        " const box = one.getBoundingClientRect(); return !box.height || box.top > innerHeight || box.bottom < 0; })",
    )
    return page


def until(page: Page, condition: str) -> None:
    """Wait for a condition in the page. Playwright's own way is an eval there, which the policy of the page forbids."""
    deadline = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"It did not come true: {condition}"
        page.wait_for_timeout(30)


def titles(page: Page) -> list[str]:
    return [title.removeprefix("Title of ") for title in page.locator(".card h3").all_text_contents()]


def card_of(page: Page, item: str):
    return page.locator(".card").filter(has=page.get_by_role("heading", name=f"Title of {item}", exact=True))


# The files


def test_the_page_and_its_files_are_served_with_a_policy_that_lets_nothing_else_in(base):
    for path in ("/", *(f"/static/{name}" for name in page_files())):
        answer = httpx.get(base + path)
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-cache"
    assert httpx.get(f"{base}/static/app.js").headers["content-type"].startswith("text/javascript")
    assert "unsafe" not in CONTENT_SECURITY_POLICY


def test_a_browser_that_has_a_file_is_told_that_it_did_not_change(base):
    first = httpx.get(f"{base}/static/style.css")
    again = httpx.get(f"{base}/static/style.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    weak = httpx.get(f"{base}/static/style.css", headers={"if-none-match": f'"x", W/{first.headers["etag"]}'})
    assert weak.status_code == 304
    assert httpx.get(f"{base}/static/style.css", headers={"if-none-match": '"another"'}).status_code == 200


@pytest.mark.parametrize(
    "name",
    ["../explorer.py", "%2e%2e/explorer.py", "..%2fexplorer.py", "%2fetc%2fpasswd", "", "index.html/", "__init__.py"],
)
def test_no_path_leads_out_of_the_pages_files(base, name):
    # Sent as it stands: a client library would tidy it up.
    with httpx.Client(base_url=base) as client:
        request = client.build_request("GET", "/static/")
        request.url = request.url.copy_with(raw_path=b"/static/" + name.encode())
        answer = client.send(request)
    assert answer.status_code == 404 and answer.headers["content-type"] == "application/problem+json"
    assert b"def " not in answer.content


def test_the_page_has_no_script_or_style_in_its_markup_and_never_writes_markup():
    folder = resources.files("persona4rec_pipeline.serving").joinpath("static")
    sources = {file.name: file.read_text() for file in folder.iterdir()}
    markup = sources["index.html"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\bsrc=)", markup)
    for name, text in sources.items():
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), f"{name} names another server"
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "DOMParser",
        ):
            assert forbidden not in text, f"{name}: {forbidden}"
    used = re.findall(r'(?:src|href)="static/([^"]+)"', markup)
    used += [name for text in sources.values() for name in re.findall(r'from "\./([^"]+)"', text)]
    assert set(used) == set(sources) - {"index.html"}


# A user's list


def test_a_user_is_typed_and_their_list_comes_with_persona_reason_quotes_and_the_runner_up(visitor):
    page = visitor.go("")
    field = page.get_by_role("combobox", name="Choose or type a user")
    field.fill("an")
    expect(page.get_by_role("option", name=READER)).to_be_visible()
    field.press("ArrowDown")
    field.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(READER)
    settled(page)
    assert titles(page)[:2] == ["dune", "emma"] and len(titles(page)) == 10
    assert "odd" not in titles(page)
    first = page.locator(".card").first
    expect(first.locator(".persona")).to_have_text("Reader 1 of dune")
    expect(first.locator(".reason")).to_have_text("Likes dune for reason 1.")
    expect(first.locator("blockquote")).to_have_text("Quote 1 of dune.")
    expect(first.locator("dt")).to_contain_text(["Best match", "Runner-up", "Speaks against it"])
    assert first.locator(".bar-number").all_text_contents() == ["1.00", "0.45", "0.71"]
    expect(first.locator(".verdict")).to_contain_text("Clearly ahead of the runner-up, by 0.55.")
    expect(page.get_by_role("complementary").get_by_role("link", name="Title of odd")).to_be_visible()


def test_the_list_is_that_of_the_api_and_shows_more_of_it_when_asked(visitor):
    page = settled(visitor.go(VIEWS["user"]))
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".card")).to_have_count(25)
    settled(page)
    listed = httpx.get(f"{visitor.base}/v1/users/{READER}/recommendations", params={"k": 25}).json()["recommendations"]
    assert page.locator(".card h3").all_text_contents() == [entry["title"] for entry in listed]


def test_one_more_liked_item_changes_the_list_and_the_back_button_takes_it_away(visitor):
    page = settled(visitor.go(VIEWS["user"]))
    before = titles(page)
    field = page.get_by_role("combobox", name="What if they also liked")
    field.fill("tide")
    page.get_by_role("option", name="Title of tide").click()
    expect(page.locator(".chip", has_text="Title of tide")).to_be_visible()
    expect(page.locator(".card h3").first).to_have_text("Title of wave")
    settled(page)
    after = titles(page)
    assert "tide" not in after and after[:2] == ["wave", "deep"]
    expect(card_of(page, "deep").locator(".moved")).to_have_text("new")
    expect(card_of(page, "dune").locator(".moved")).to_contain_text("fallen by")
    expect(card_of(page, "dune").locator(".moved")).to_contain_text("was 1")
    expect(page.locator(".effect")).to_contain_text("new")
    expect(page.locator(".under")).to_contain_text("Left the list: ")
    expect(page.get_by_role("status").first).to_contain_text("new")
    assert re.search(r"liked=books%2Ftide", page.url)
    page.go_back()
    expect(page.locator(".chip")).to_have_count(0)
    expect(page.locator(".card h3").first).to_have_text("Title of dune")
    assert titles(settled(page)) == before and page.locator(".moved").count() == 0


def test_a_what_if_comes_back_with_its_address_and_is_taken_away_by_keyboard(visitor):
    page = settled(visitor.go(VIEWS["what-if"]))
    expect(page.locator(".chip")).to_contain_text("Title of tide")
    page.get_by_role("button", name="Remove Title of tide").press("Enter")
    expect(page.locator(".card h3").first).to_have_text("Title of dune")
    expect(page.get_by_role("combobox", name="What if they also liked")).to_be_focused()


def test_an_answer_that_comes_too_late_does_not_replace_a_newer_one(visitor):
    page = settled(visitor.go(VIEWS["user"]))
    held: list[Route] = []

    def hold(route: Route) -> None:
        if '"session"' in (route.request.post_data or "") and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/recommendations", hold)
    page.get_by_role("combobox", name="What if they also liked").fill("tide")
    page.get_by_role("option", name="Title of tide").click()
    expect(page.locator(".chip")).to_have_count(1)
    page.get_by_role("button", name="Remove Title of tide").click()
    expect(page.locator(".chip")).to_have_count(0)
    settled(page)
    with page.expect_response("**/v1/recommendations"):
        held[0].continue_()
    assert titles(settled(page))[0] == "dune"


def test_a_user_whom_nobody_knows_is_told_so_and_a_liked_item_makes_a_list(visitor):
    page = settled(visitor.go(VIEWS["stranger"]))
    expect(page.locator(".notice")).to_contain_text("The index does not know this user")
    expect(page.locator(".card .reason").first).to_contain_text("Popular:")
    page.get_by_role("combobox", name="What if they also liked").fill("tide")
    page.get_by_role("option", name="Title of tide").click()
    expect(page.locator(".notice")).to_contain_text("The list follows the items that you added")
    settled(page)
    assert titles(page)[0] == "deep"
    expect(page.locator(".card").first.locator(".verdict")).to_be_visible()


def test_a_user_who_liked_nothing_is_told_so(visitor):
    page = settled(visitor.go(f"#/user/{HATER}"))
    expect(page.locator(".notice")).to_contain_text("nothing in it that they liked")


# The blend


def test_the_slider_moves_candidates_between_their_own_order_and_the_users(visitor):
    page = settled(visitor.go(VIEWS["reorder"]))
    own_order = page.locator(".bump-column").first.locator(".bump-row")
    now = page.locator(".bump-column").last.locator(".bump-row a")
    candidates = [text.lstrip("0123456789") for text in own_order.all_text_contents()]
    assert len(candidates) == 20 and page.locator(".card").count() == 20
    slider = page.get_by_role("slider", name="How much the personas count")
    slider.focus()
    slider.press("Home")
    expect(page.locator("output")).to_have_text("0 % personas")
    expect(page).to_have_url(re.compile("weight=0"))
    expect(page.locator(".card .moved.risen")).to_have_count(0)
    assert now.all_text_contents() == candidates
    assert slider.get_attribute("aria-valuetext") == "0 % personas, 100 % the candidates' own order"
    slider.press("End")
    expect(page).to_have_url(re.compile("weight=1"))
    expect(page.locator(".card .moved.risen").first).to_be_visible()
    assert titles(settled(page))[0] == "dune"
    page.reload()
    settled(page)
    expect(page.locator("output")).to_have_text("100 % personas")
    page.get_by_role("button", name="Back to the learned weight").click()
    expect(page).not_to_have_url(re.compile("weight"))


def test_a_list_that_is_pasted_is_reordered_and_an_unknown_item_keeps_its_place(visitor):
    page = settled(visitor.go(VIEWS["reorder"]))
    page.get_by_text("Use another list").click()
    page.get_by_role("textbox", name="Candidates").fill("tide\n no-such-item \nbooks/dune")
    page.get_by_role("button", name="Reorder these").click()
    expect(page.locator(".card")).to_have_count(3)
    settled(page)
    assert titles(page) == ["dune", "no-such-item", "tide"]
    expect(page.locator(".card").nth(1)).to_contain_text("The index does not know this item")
    expect(card_of(page, "dune").locator(".moved")).to_contain_text("was 3")
    page.get_by_role("button", name="Back to the popular items").click()
    expect(page.locator(".card")).to_have_count(20)


def test_without_a_profile_there_is_nothing_to_blend(visitor):
    page = settled(visitor.go(f"#/user/{STRANGER}/reorder"))
    expect(page.get_by_role("slider")).to_be_disabled()
    expect(page.locator(".notice")).to_contain_text("the candidates stay in their own order")


# Items


def test_an_item_is_opened_from_a_list_and_the_back_button_leads_to_the_same_place_of_it(visitor):
    page = settled(visitor.go(VIEWS["user"]))
    link = page.locator(".card").nth(5).get_by_role("link")
    link.scroll_into_view_if_needed()
    settled(page)
    until(page, "scrollY > 0 && history.state?.top === Math.round(scrollY)")
    until(
        page,
        "[...document.querySelectorAll('.card')].some((one) => one.dataset.key === history.state.card?.key"
        " && Math.round(one.getBoundingClientRect().top) === history.state.card.below)",
    )
    title, below = link.inner_text(), "document.querySelectorAll('.card-title')[5]?.getBoundingClientRect().top"
    at = page.evaluate(below)
    link.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    assert page.evaluate("scrollY") == 0
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text(READER)
    until(page, f"Math.abs({below} - {at}) < 3")
    # And it stays there when everything has come.
    settled(page)
    until(page, f"Math.abs({below} - {at}) < 3")


def test_an_item_shows_all_its_personas_by_polarity_and_how_it_fits_the_user(visitor):
    page = settled(visitor.go(VIEWS["item-for-user"]))
    for polarity, name in {"appreciative": "Reader 1", "mixed": "Reader 2", "critical": "Reader 3"}.items():
        group = page.locator(f".group.{polarity}")
        expect(group.locator("h4")).to_have_text(f"{name} of dune")
        expect(group.locator("blockquote")).to_contain_text("of dune.")
    assert page.locator(".fit .bar-number").all_text_contents() == ["1.00", "0.45", "0.71"]
    expect(page.locator(".alike li").first).to_be_visible()
    page.get_by_role("link", name="What if they liked it?").click()
    expect(page.locator(".chip")).to_contain_text("Title of dune")
    settled(page)
    assert "dune" not in titles(page)


def test_an_item_that_is_not_there_is_said_in_the_words_of_the_service(visitor):
    visitor.expected.append("404")
    page = visitor.go("#/item/books/no-such-item")
    expect(page.get_by_role("alert")).to_contain_text("has no item no-such-item of catalogue books")
    assert page.get_by_role("button", name="Try again").count() == 0


def test_an_item_with_critical_personas_alone_says_that_it_is_recommended_to_nobody(visitor):
    page = settled(visitor.go(f"#/item/books/grim?user={READER}"))
    expect(page.locator(".fit .verdict")).to_have_text("Only critical personas: it is recommended to nobody.")
    expect(page.locator(".group.appreciative")).to_contain_text("Nobody among its reviewers.")


# The map


def test_the_map_is_walked_by_keyboard_and_opens_the_item_of_a_persona(visitor):
    page = settled(visitor.go(VIEWS["map-for-user"]))
    surface = page.get_by_role("application")
    surface.focus()
    surface.press("ArrowRight")
    chosen = page.locator(".map-info h2")
    expect(chosen).to_contain_text("Reader")
    first = chosen.inner_text()
    for key in ("ArrowLeft", "ArrowUp", "ArrowDown", "ArrowRight"):
        surface.press(key)
    surface.press("+")
    assert page.locator(".ring").get_attribute("r") != "0"
    expect(page.locator(".map-info blockquote")).to_be_visible()
    expect(page.get_by_role("status").first).to_contain_text("Reader")
    title = page.locator(".map-info a").inner_text()
    assert first
    surface.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(title)


def test_the_map_shows_a_persona_under_the_pointer_and_marks_the_user_and_what_is_behind_their_list(visitor):
    page = settled(visitor.go(VIEWS["map-for-user"]))
    expect(page.locator(".mine .star")).to_be_attached()
    assert page.locator(".points.behind").get_attribute("d").count("M") == 10
    box = page.locator(".mine .star").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    surface = page.locator(".map-surface").bounding_box()
    # Somewhere on a line through the drawing there is a persona.
    for step in range(40):
        page.mouse.move(surface["x"] + surface["width"] * step / 40, box["y"] + box["height"] / 2)
    expect(page.locator(".map-info h2")).to_contain_text("Reader")


def test_the_map_is_there_as_a_table_that_can_be_searched_and_follows_the_legend(visitor):
    page = settled(visitor.go(VIEWS["map"]))
    page.get_by_text("The same as a table").click()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_label("Only those with").fill("of dune")
    expect(rows).to_have_count(3)
    drawn = page.locator(".points.critical").get_attribute("d")
    page.get_by_role("checkbox", name="Critical").uncheck()
    expect(rows).to_have_count(2)
    assert drawn and not page.locator(".points.critical").get_attribute("d")
    expect(rows.first.get_by_role("link", name="Title of dune")).to_be_visible()


# Finding things, by keyboard alone


def test_an_item_is_found_by_keyboard_alone(visitor):
    page = settled(visitor.go(VIEWS["user"]))
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    search = page.get_by_role("combobox", name="Find an item or a user")
    for _ in range(4):
        page.keyboard.press("Tab")
    expect(search).to_be_focused()
    page.keyboard.type("dun")
    option = page.get_by_role("option", name="Title of dune")
    expect(option).to_be_visible()
    expect(search).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    expect(option).to_have_attribute("aria-selected", "true")
    assert search.get_attribute("aria-activedescendant") == option.get_attribute("id")
    page.keyboard.press("Escape")
    expect(search).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("ArrowDown")
    expect(option).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Title of dune")


def test_words_that_name_nothing_at_once_lead_to_what_was_found(visitor):
    page = settled(visitor.go(""))
    search = page.get_by_role("combobox", name="Find an item or a user")
    search.fill("ann")
    expect(page.get_by_role("option", name=READER)).to_be_visible()
    search.fill("other-0")
    search.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("“other-0”")
    expect(page.locator(".plain a")).to_have_count(10)
    search.fill("zzz")
    expect(page.locator(".options-note:visible")).to_contain_text("No item has this")


def test_the_skip_link_leads_to_the_content_and_not_to_another_view(visitor):
    page = settled(visitor.go(VIEWS["map"]))
    page.get_by_role("link", name="Skip to the content").press("Enter")
    expect(page.locator("main")).to_be_focused()
    assert page.url.endswith(VIEWS["map"])


# Texts of strangers


@pytest.mark.parametrize("view", ["hostile-user", "hostile-item"])
def test_nothing_of_a_hostile_text_runs_and_all_of_it_is_shown_as_text(visitor, view):
    page = settled(visitor.go(VIEWS[view]))
    if view == "hostile-user":
        expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE_USER)
        card = page.locator(".card").filter(has_text="onerror").first
        expect(card.locator("h3")).to_have_text(f"{explored.IMAGE}{explored.SCRIPT}")
        expect(card.locator(".persona")).to_have_text(f"{explored.SCRIPT}{explored.IMAGE}")
        expect(card.locator(".reason")).to_contain_text(explored.ADDRESS)
        expect(card.locator("blockquote").first).to_have_text(f"{explored.IMAGE}{explored.FRAME}")
        card.get_by_role("link").first.click()
        settled(page)
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{explored.IMAGE}{explored.SCRIPT}")
    expect(page.locator(".summary")).to_have_text(f"{explored.DRAWING}{explored.LINK}")
    expect(page.locator(".fit .facts")).to_contain_text(HOSTILE_USER[:30])
    for opener in page.locator("summary").all():
        opener.click()
    expect(page.locator(".group.critical h4")).to_have_text(f"{explored.SCRIPT}{explored.IMAGE}")
    main = page.locator("main")
    assert main.locator("img, script, iframe, b, svg[onload]").count() == 0
    assert main.locator("a:not([href^='#/'])").count() == 0
    page.get_by_role("link", name="What if they liked it?").click()
    expect(page.locator(".chip")).to_contain_text("onerror")
    settled(page)


def test_hostile_texts_stay_texts_in_suggestions_search_and_the_table_of_the_map(visitor):
    page = settled(visitor.go(""))
    search = page.get_by_role("combobox", name="Find an item or a user")
    search.fill("onerror")
    expect(page.get_by_role("option").first).to_contain_text(explored.IMAGE)
    search.fill(HOSTILE_USER[:6])
    expect(page.get_by_role("option").first).to_contain_text(HOSTILE_USER[:40])
    search.fill(explored.IMAGE)
    search.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"“{explored.IMAGE}”")
    settled(page)
    visitor.go(VIEWS["map"])
    settled(page)
    page.get_by_text("The same as a table").click()
    page.get_by_label("Only those with").fill("script")
    expect(page.locator("tbody th").first).to_have_text(f"{explored.SCRIPT}{explored.IMAGE}")
    assert page.locator("main").locator("img, script, iframe, b").count() == 0


@pytest.mark.parametrize(
    "address", ["#/user/%", "#/item/books", "#javascript:window.ran=1", "#/map/x", "#/user//reorder", "#/a/b/c"]
)
def test_an_address_that_names_nothing_says_so(visitor, address):
    page = visitor.go(address)
    expect(page.get_by_role("alert")).to_contain_text("There is no such view")
    page.get_by_role("link", name="Choose a user").click()
    expect(page.get_by_role("combobox", name="Choose or type a user")).to_be_visible()


@pytest.mark.parametrize("user", ["__proto__", "constructor", "a/../b", "ümläut 日本 \U0001f469", "x" * 900])
def test_any_user_id_has_a_view(visitor, user):
    page = settled(visitor.go(f"#/user/{quote(user, safe='')}"))
    expect(page.get_by_role("heading", level=1)).to_contain_text(user[:100])
    assert page.locator(".card").count() == 10


# What goes wrong


def test_a_service_that_does_not_answer_is_said_and_asked_again(visitor):
    visitor.expected.append("net::ERR_FAILED")
    page = visitor.page
    page.route("**/v1/recommendations", lambda route: route.abort())
    visitor.go(VIEWS["user"])
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer")
    page.unroute("**/v1/recommendations")
    page.get_by_role("button", name="Try again").click()
    assert titles(settled(page))[0] == "dune"
    assert page.get_by_role("alert").count() == 0


def test_a_problem_of_the_service_is_shown_in_its_own_words(visitor):
    visitor.expected.append("503")
    page = visitor.page
    body = '{"title": "x", "status": 503, "detail": "No index is open yet; <b>publish</b> one."}'
    page.route(
        "**/v1/map*", lambda route: route.fulfill(status=503, body=body, content_type="application/problem+json")
    )
    visitor.go(VIEWS["map"])
    expect(page.get_by_role("alert")).to_contain_text("No index is open yet; <b>publish</b> one.")


def test_a_key_is_asked_for_where_it_is_needed_and_kept_for_the_tab_alone(browser, home):
    settings = load_settings({}, home=home)
    key = ApiKeys(settings.serving_path).add("explorer")
    with running(home, require_key=True) as base, visiting(browser, base) as visitor:
        visitor.expected.append("401")
        page = visitor.go(VIEWS["user"])
        dialogue = page.get_by_role("dialog")
        dialogue.get_by_label("Key", exact=True).fill("not a key")
        dialogue.get_by_role("button", name="Continue").click()
        expect(dialogue).to_have_count(1)
        dialogue.get_by_label("Key", exact=True).fill("p4r_wrong")
        dialogue.get_by_role("button", name="Continue").click()
        expect(dialogue.get_by_role("alert")).to_contain_text("Send a valid API key")
        dialogue.get_by_label("Key", exact=True).fill(key)
        dialogue.get_by_label("Key", exact=True).press("Enter")
        settled(page)
        assert titles(page)[0] == "dune"
        expect(page.locator("#generation")).to_contain_text("Generation 1")
        page.reload()
        settled(page)
        assert page.get_by_role("dialog").count() == 0 and titles(page)[0] == "dune"
        assert page.evaluate("[localStorage.length, document.cookie, Object.values(sessionStorage)]") == [0, "", [key]]
        assert key not in page.content() and key not in page.url


# For everybody


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_view_has_a_barrier(browser, base, view, scheme):
    with visiting(browser, base, color_scheme=scheme, reduced_motion="reduce") as visitor:
        page = settled(visitor.go(VIEWS[view]))
        for opener in page.locator("summary:visible").all():
            opener.click()
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        barriers = [
            f"{one['id']}: {node['html'][:200]} {node['failureSummary']}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]
        assert barriers == []


@pytest.mark.parametrize("view", VIEWS)
def test_no_view_is_wider_than_a_phone(browser, base, view):
    with visiting(browser, base, **PHONE) as visitor:
        page = settled(visitor.go(VIEWS[view]))
        for opener in page.locator("summary:visible").all():
            opener.click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), widest(page)
        # Mobile browsers widen the page to what does not fit, instead of scrolling.
        assert page.evaluate("innerWidth") == 360, widest(page)


def widest(page: Page) -> str:
    """What reaches beyond the right edge."""
    return page.evaluate(
        "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > 361)"
        ".map((e) => `${e.tagName}.${e.className} ${Math.round(e.getBoundingClientRect().right)}`).slice(0, 8).join('; ')"
    )


def test_on_a_phone_a_persona_of_the_map_is_shown_by_the_first_touch_and_opened_by_the_second(browser, base):
    with visiting(browser, base, **PHONE) as visitor:
        page = settled(visitor.go(VIEWS["map-for-user"]))
        page.locator(".map-surface").scroll_into_view_if_needed()
        # The star stands where personas are.
        box = page.locator(".mine .star").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.touchscreen.tap(x, y)
        expect(page.locator(".map-info h2")).to_contain_text("Reader")
        page.touchscreen.tap(x, y)
        expect(page.locator(".item-view")).to_be_visible()


def test_nothing_moves_for_those_who_asked_for_it(browser, base):
    with visiting(browser, base, reduced_motion="reduce") as visitor:
        page = settled(visitor.go(VIEWS["user"]))
        page.evaluate("() => { Element.prototype.animate = () => { throw new Error('moved'); }; }")
        page.get_by_role("combobox", name="What if they also liked").fill("tide")
        page.get_by_role("option", name="Title of tide").click()
        expect(page.locator(".card h3").first).to_have_text("Title of wave")
        assert page.evaluate("document.getAnimations().length") == 0


def test_each_view_says_what_it_is_to_those_who_do_not_see_it(visitor):
    page = settled(visitor.go(""))
    seen = {page.title()}
    for view in ("user", "item", "map", "search"):
        page.evaluate("(hash) => { location.hash = hash; }", VIEWS[view])
        settled(page)
        expect(page.get_by_role("heading", level=1)).to_be_focused()
        assert page.get_by_role("heading", level=1).count() == 1
        for role in ("banner", "main", "contentinfo", "search"):
            assert page.get_by_role(role).count() == 1
        seen.add(page.title())
    assert len(seen) == 5
