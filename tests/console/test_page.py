"""The page in headless Chromium: it loads, follows what happens, finds who is looked up, and can be read and used by everybody."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from flows import last_told
from online_model.serving.options import Options
from online_model.serving.token import Token
from replay.console.console import Console
from tests.console.conftest import HOSTILE, Site
from tests.processes import PATIENCE_S
from tests.serving.http import Running, running

pytestmark = pytest.mark.browser

TOKEN = "canary-3f1c9a77b2e04d56"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page of a server, with all that its scripts wrote to the console, and every address that was asked for."""

    page: Page
    console: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, server: Running, path: str = "/console", **options: Any) -> Iterator[Opened]:
    context: BrowserContext = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
    context.set_default_timeout(PATIENCE_S * 1000)
    expect.set_options(timeout=PATIENCE_S * 1000)
    try:
        out = Opened(context.new_page())
        out.page.on("console", lambda message: out.console.append(message.text))
        out.page.on("pageerror", lambda error: out.console.append(str(error)))
        out.page.on("request", lambda request: out.asked.append(request.url))
        out.page.goto(f"http://127.0.0.1:{server.client.port}{path}")
        yield out
    finally:
        context.close()


def test_it_loads_follows_and_stays_itself(browser: Browser, site: Site) -> None:
    """One page while events arrive, hostile ones among them, are applied, and their user is looked up; then its server goes."""
    with running(site.settings, make_beside=Console) as made, opened(browser, made) as seen:
        page = seen.page
        expect(page.locator("#pulse")).to_have_text("live")
        flows = page.locator("#flows tbody tr").filter(has=page.locator("th", has_text=re.compile("^actions$")))
        before = made.client.get("/v1/console")["flows"]["said"]
        count = before["counts"]["records"]
        events = page.locator(".tile").filter(has_text="Events")
        expect(events).to_contain_text(f"{count:,} in all")
        expect(page.locator(".tile").filter(has_text="Freshness")).to_contain_text("no event waits")

        page.locator("#id").fill(HOSTILE)
        page.locator("#id").press("Enter")
        # A line, as an input is one: what stood behind breaks and noughts is another ID.
        asked = page.locator("#id").input_value()
        expect(page.locator("#looked")).to_contain_text("nothing is known of it")

        site.append({"user_id": asked, "pin_id": 77}, {"user_id": asked, "action": HOSTILE}, b"<script>document.title='owned'</script>")
        expect(flows).to_contain_text("not running")
        expect(page.locator(".attend")).to_contain_text("actions lags and nobody runs it")
        site.apply()
        expect(events).to_contain_text(f"{count + 3:,} in all")
        expect(page.locator("#looked")).to_contain_text("Last 1 action")
        expect(page.locator("#looked button[data-look=pin]")).to_have_text("77")
        letters = page.locator("#letters .samples > li")
        letter = letters.filter(has=page.locator("pre", has_text=re.compile("^<script>")))
        letter.locator("summary").click()
        expect(letter.locator("pre")).to_be_visible()
        expect(letter.locator("pre")).to_have_text("<script>document.title='owned'</script>")

        page.locator("#looked button[data-look=pin]").click()
        expect(page.locator("#looked h3")).to_contain_text("pin 77")
        assert page.locator("#kind").input_value() == "pin"
        # What was opened stays so, though others come before it.
        site.append(b"newer")
        site.apply()
        expect(letters.filter(has=page.locator("pre", has_text=re.compile("^newer$")))).to_have_count(1)
        expect(letter.locator("pre")).to_be_visible()
        assert page.locator("#letters details[open]").count() == 1

        last_told.tell(site.settings, last_told.AUDIT, {"mismatches": 2, "entities": 10, "complete": 3, "tasks": 4, "examples": [HOSTILE]})
        expect(page.locator("#checks")).to_contain_text("2 mismatches")
        expect(page.locator(".attend")).to_contain_text("the last audit has 2 mismatches")
        expect(page).to_have_title("! Tidemark console")
        assert page.locator("main script, main img, main iframe").count() == 0
        assert seen.console == []
        # Nothing was asked of anybody else.
        assert {url.split("/")[2] for url in seen.asked} == {f"127.0.0.1:{made.client.port}"}
        page.route("**/v1/console", lambda route: route.abort())
        expect(page.locator("#pulse")).to_have_text("the server does not answer; trying again")
        page.unroute("**/v1/console")
        expect(page.locator("#pulse")).to_have_text("live")


def test_it_asks_for_the_token_and_keeps_it_out_of_addresses(browser: Browser, shared: Site) -> None:
    options = Options(timeout_s=PATIENCE_S, token=Token(TOKEN, "test"))
    with running(shared.settings, options, Console) as made:
        with opened(browser, made) as seen:
            page = seen.page
            field_ = page.get_by_label("Token", exact=True)
            expect(field_).to_be_focused()
            expect(page.locator("#board")).to_be_hidden()
            for wrong in ("not the token of it", "ünpaßend"):
                field_.fill(wrong)
                field_.press("Enter")
                expect(page.get_by_role("alert")).to_have_text("That is not the token of this server.")
            field_.fill(TOKEN)
            page.get_by_role("button", name="Open").click()
            expect(page.locator("#pulse")).to_have_text("live")
            expect(page.locator("#login")).to_be_hidden()
            page.reload()
            expect(page.locator("#pulse")).to_have_text("live")
            assert not [url for url in seen.asked if TOKEN in url]
            # The browser's own words of each request that was refused; nothing else.
            assert {re.sub(r"\(.*", "", text).strip() for text in seen.console} <= {
                "Failed to load resource: the server responded with a status of 401"
            }
        with opened(browser, made, f"/#token={TOKEN}") as seen:
            expect(seen.page.locator("#pulse")).to_have_text("live")
            assert seen.page.url.endswith("/console")
            assert seen.console == []


KEPT = "sessionStorage.getItem('tidemark-token')"


def test_a_token_in_the_address_is_heard_whenever_it_comes(browser: Browser, shared: Site) -> None:
    options = Options(timeout_s=PATIENCE_S, token=Token(TOKEN, "test"))
    with running(shared.settings, options, Console) as made, opened(browser, made) as seen:
        page = seen.page
        expect(page.locator("#login")).to_be_visible()
        # As whoever pastes it into the tab does: nothing is loaded anew.
        page.evaluate(f"location.hash = '#token={TOKEN}'")
        expect(page.locator("#pulse")).to_have_text("live")
        expect(page.locator("#board")).to_be_visible()
        assert page.url.endswith("/console")
        assert page.evaluate(KEPT) == TOKEN
        page.evaluate("location.hash = '#user=3'")
        expect(page.locator("#looked h3")).to_contain_text("user 3")
        page.evaluate(f"location.hash = '#token={TOKEN}'")
        page.wait_for_function("!location.hash")
        page.evaluate("location.hash = '#token=another-0123456789abcdef'")
        expect(page.get_by_role("alert")).to_have_text("That is not the token of this server.")
        assert (page.url.endswith("/console"), page.evaluate(KEPT)) == (True, None)


def test_what_no_header_can_carry_is_asked_for_again_and_no_token_is_kept_unheard(browser: Browser, shared: Site) -> None:
    options = Options(timeout_s=PATIENCE_S, token=Token(TOKEN, "test"))
    with running(shared.settings, options, Console) as made:
        for broken in ("€", "%E2%82%AC", "%", "two%20words", ""):
            with opened(browser, made, f"/console#token={broken}") as seen:
                expect(seen.page.get_by_role("alert")).to_have_text("That is not the token of this server.")
                assert seen.page.url.endswith("/console")
                seen.page.get_by_label("Token", exact=True).fill(TOKEN)
                seen.page.keyboard.press("Enter")
                expect(seen.page.locator("#pulse")).to_have_text("live")
        with opened(browser, made) as seen:
            seen.page.route("**/v1/console", lambda route: route.abort())
            seen.page.evaluate(f"location.hash = '#token={TOKEN}'")
            expect(seen.page.locator("#pulse")).to_have_text("the server does not answer; trying again")
            assert seen.page.evaluate(KEPT) is None


# To be read and used by everybody ----------------------------------------------------------------------------------------------------

CONTRAST = """() => {
  const channel = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (at) => {
    for (let e = at; e; e = e.parentElement) {
      const c = parts(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const out = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest(".hidden, .skip, noscript")) continue;
    const [a, b] = [light(parts(getComputedStyle(e).color)), light(ground(e))];
    out.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walk.currentNode.data.trim().slice(0, 40)]);
  }
  return out;
}"""

OUTSIDE = """() => [...document.querySelectorAll("body *")].filter((e) => {
  if (!e.checkVisibility() || e.closest(".table, nav, .hidden, pre, .skip")) return false;
  const box = e.getBoundingClientRect();
  return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
}).map((e) => e.outerHTML.slice(0, 80))"""

UNNAMED = """() => [...document.querySelectorAll("input, select, button, table, section, nav, svg, [role=region]")].filter((e) => {
  if (!e.checkVisibility()) return false;
  if (e.localName === "svg") return e.getAttribute("aria-hidden") !== "true";
  const by = e.getAttribute("aria-labelledby");
  return !(e.getAttribute("aria-label") || (by && document.getElementById(by)?.textContent) || e.labels?.length || e.caption?.textContent ||
    (e.localName === "button" && e.textContent.trim()));
}).map((e) => e.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1440, "light"), (1440, "dark")])
def test_it_can_be_read(browser: Browser, shared: Site, server: Running, width: int, scheme: Any) -> None:
    last_told.tell(shared.settings, last_told.SKEW, {"compared": 5, "records": 5, "differing": 1, "apart": 0, "findings": 1, "causes": []})
    with opened(browser, server, "/#user=3", viewport={"width": width, "height": 900}, color_scheme=scheme) as seen:
        page = seen.page
        expect(page.locator("#looked h3")).to_contain_text("user 3")
        expect(page.locator("#letters .samples > li").first).to_be_visible()
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(OUTSIDE) == []
        contrasts = page.evaluate(CONTRAST)
        assert len(contrasts) > 100
        assert [one for one in contrasts if one[0] < 4.5] == []
        # It is light or dark as the system is.
        ground = [int(part) for part in re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))]
        assert (sum(ground) > 380) == (scheme == "light")
        assert page.evaluate(UNNAMED) == []
        assert seen.console == []


def test_the_theme_can_be_chosen(browser: Browser, server: Running) -> None:
    with opened(browser, server, color_scheme="light") as seen:
        page, ground = seen.page, "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        button = page.get_by_role("button", name=re.compile("Theme"))
        for name, same in (("light", True), ("dark", False), ("auto", True)):
            button.click()
            expect(button).to_have_text(name)
            assert (page.evaluate(ground) == light) == same
        button.click()
        button.click()
        page.reload()
        expect(button).to_have_text("dark")
        assert page.evaluate(ground) != light


def test_it_can_be_used_by_keyboard_and_heard(browser: Browser, server: Running) -> None:
    with opened(browser, server) as seen:
        page = seen.page
        expect(page.locator("#pulse")).to_have_text("live")
        for role, name in (("banner", None), ("navigation", "Sections"), ("main", None), ("contentinfo", None), ("search", None)):
            expect(page.get_by_role(role, name=name) if name else page.get_by_role(role)).to_have_count(1)  # type: ignore[arg-type]
        levels = page.evaluate(
            "[...document.querySelectorAll('h1, h2, h3, h4')].filter(e => e.checkVisibility()).map(e => +e.localName[1])"
        )
        assert levels.count(1) == 1
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.evaluate("[...document.querySelectorAll('th')].every(th => ['row', 'col'].includes(th.scope))")
        assert page.locator("#pulse[role=status], #attention[aria-live=polite], #looked-said[role=status]").count() == 3

        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to what there is")
        expect(skip).to_be_focused()
        assert (skip.bounding_box() or {"y": -1})["y"] >= 0
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        reached: dict[str, str] = {}
        for _ in range(60):
            page.keyboard.press("Tab")
            focused: Callable[[str], str] = lambda what: page.evaluate(f"document.activeElement.{what}")  # noqa: E731
            reached[focused("id") or focused("outerHTML.slice(0, 60)")] = page.evaluate(
                "getComputedStyle(document.activeElement).outlineStyle"
            )
            if focused("id") == "id":
                break
        assert {"kind", "id"} <= set(reached)
        assert any("table" in name for name in reached), "tables that scroll can be scrolled by keyboard"
        assert {name for name, outline in reached.items() if outline == "none"} == set()
        page.keyboard.type("3")
        page.keyboard.press("Enter")
        expect(page.locator("#looked-said")).to_have_text(re.compile(r"^user 3: known, \d+ actions$"))
        page.locator("#kind").focus()
        page.keyboard.press("p")
        page.keyboard.press("Tab")
        page.keyboard.press("Control+a")
        page.keyboard.type("no such pin")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#looked-said")).to_have_text("pin no such pin: nothing is known")
        assert page.url.endswith("#pin=" + quote("no such pin"))
        page.locator("#id").fill(" ")
        page.keyboard.press("Enter")
        expect(page.locator("#looked-said")).to_have_text("Give an ID")


def test_a_refusal_is_told_where_it_was_asked(browser: Browser, server: Running) -> None:
    with opened(browser, server) as seen:
        page = seen.page
        refusal = json.dumps({"error": "the store <b>sleeps</b>", "what_to_do": "look again later"})
        page.route("**/v1/console/user/*", lambda route: route.fulfill(status=503, content_type="application/json", body=refusal))
        page.locator("#id").fill("3")
        page.keyboard.press("Enter")
        expect(page.locator("#looked .note")).to_have_text("the store <b>sleeps</b>; look again later")


AUDIT = {"mismatches": 0, "entities": 10, "complete": 4, "tasks": 4, "problems": [], "examples": []}
SKEW = {"compared": 5, "records": 5, "differing": 0, "apart": 0, "findings": 0, "causes": [], "unproved": None}
EQUAL, NOT_WRONG, NOTHING, LOOK = "equal to the bit", "nothing wrong found", "nothing proved", "look"


def test_equal_to_the_bit_is_what_was_all_compared_and_equal(browser: Browser, site: Site) -> None:
    with running(site.settings, make_beside=Console) as made, opened(browser, made) as seen:
        for check, said, verdict in (
            (last_told.AUDIT, AUDIT, EQUAL),
            (last_told.AUDIT, {**AUDIT, "complete": 3}, NOT_WRONG),
            (last_told.AUDIT, {**AUDIT, "complete": 0, "entities": 0}, NOTHING),
            (last_told.AUDIT, {**AUDIT, "mismatches": 1}, LOOK),
            (last_told.SKEW, SKEW, EQUAL),
            (last_told.SKEW, {**SKEW, "differing": 2}, NOT_WRONG),
            (last_told.SKEW, {**SKEW, "compared": 4, "apart": 1}, NOT_WRONG),
            (last_told.SKEW, {**SKEW, "compared": 0, "unproved": "nothing was compared"}, NOTHING),
            (last_told.SKEW, {**SKEW, "differing": 2, "findings": 1}, LOOK),
        ):
            last_told.tell(site.settings, check, said)
            name = "Audit" if check == last_told.AUDIT else "Skew"
            expect(seen.page.locator("#checks h3").filter(has_text=name).locator(".badge")).to_have_text(verdict)


def altered(page: Page, change: Callable[[dict[str, Any]], object]) -> None:
    """Have the page be told something else than the server says."""

    def fulfil(route: Route) -> None:
        board = route.fetch().json()
        change(board)
        route.fulfill(json=board)

    page.route("**/v1/console", fulfil)


def test_a_fault_of_the_page_is_not_told_as_one_of_the_server(browser: Browser, server: Running) -> None:
    with opened(browser, server) as seen:
        altered(seen.page, lambda board: board["flows"]["said"].update(flows="none of a form that is known"))
        expect(seen.page.locator("#pulse")).to_contain_text("this page can't draw what the server says")
        seen.page.unroute("**/v1/console")
        expect(seen.page.locator("#pulse")).to_have_text("live")


def test_trouble_of_embeddings_and_older_corrections_are_shown(browser: Browser, server: Running) -> None:
    with opened(browser, server) as seen:

        def change(board: dict[str, Any]) -> None:
            board["requests"]["said"]["embedding"] = {"ok": False, "version": 2, "trouble": "a damaged table"}
            board["replays"]["said"]["more_corrections"] = 3

        altered(seen.page, change)
        row = seen.page.locator("#models dl > *").filter(has_text="version 2")
        expect(row.first).to_contain_text("in trouble")
        expect(seen.page.locator("#replays")).to_contain_text("and 3 older corrections: tidemark replay status")
