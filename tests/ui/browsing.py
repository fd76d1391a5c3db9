"""A visitor: a browser window that remembers everything that went wrong in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
_OWN_SCHEMES = ("data", "blob", "about")
# Answers on a machine whose cores are busy with other tests; a page that needs longer is broken.
PATIENCE_MS = 60_000

_UNNAMED_PICTURES = """
[...document.querySelectorAll('main img')]
    .filter((one) => one.checkVisibility())
    .filter((one) => !one.alt && !one.closest('button[aria-label], button[title]'))
    .map((one) => one.outerHTML.slice(0, 200))
"""


# Contrast of letters with what is behind them, its layers laid over each other by alpha.
_CONTRASTS = """
(selector) => {
    const parse = (text) => {
        const [r, g, b, a = 1] = text.match(/[0-9.]+/g).map(Number);
        return text.startsWith('color') ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
    };
    const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
    const light = (color) => color.map((c) => c / 255)
        .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (one) => {
        if (!one) return [255, 255, 255];
        const own = parse(getComputedStyle(one).backgroundColor);
        return own[3] === 1 ? own.slice(0, 3) : over(own, ground(one.parentElement));
    };
    return [...document.querySelectorAll(selector)]
        .filter((one) => one.checkVisibility() && one.innerText.trim())
        .map((one) => {
            const behind = ground(one);
            const lights = [light(over(parse(getComputedStyle(one).color), behind)), light(behind)];
            const [low, high] = lights.sort((a, b) => a - b);
            return [one.innerText.trim().slice(0, 40), (high + 0.05) / (low + 0.05)];
        });
}
"""


class Visit:
    """One visitor on one page.

    Args:
        page: The browser's window.
        host: The only host that the window may talk to.
    """

    def __init__(self, page, host: str) -> None:
        self.page = page
        self.host = host
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._see)
        page.on("response", self._check)

    def overlay(self) -> str:
        """Address of the picture with the map over it, once it is drawn."""
        picture = self.pane("Map over the photo")
        return picture.get_attribute("src")

    def pane(self, label: str):
        """The picture in the pane of that label, once it is drawn."""
        picture = self.page.locator(f".salhub-pane:visible:has(label:text-is('{label}')) img").first
        picture.wait_for()
        self.page.wait_for_function(
            "(one) => one.complete && one.naturalWidth > 50", arg=picture.element_handle()
        )
        return picture

    def expect_text(self, selector: str, text: str) -> None:
        """Wait until a part of the page says something."""
        self.page.locator(selector).filter(has_text=text).first.wait_for()

    def expect_value(self, label: str, value: str) -> None:
        """Wait until a control shows a value."""
        self._expect(self.page.get_by_label(label, exact=True)).to_have_value(
            value, timeout=PATIENCE_MS
        )

    def expect_another(self, picture, before: str) -> None:
        """Wait until a picture is another one than that of an address."""
        self._expect(picture).not_to_have_attribute("src", before, timeout=PATIENCE_MS)

    @staticmethod
    def _expect(found):
        from playwright.sync_api import expect

        return expect(found)

    def press_and_wait(self, press) -> None:
        """Press something, and wait until the server has taken the question, if not answered it."""
        with self.page.expect_response("**/queue/join*"):
            press()

    def choose(self, label: str, option: str) -> None:
        """Choose an option of a list."""
        self.page.get_by_label(label, exact=True).first.click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def open_tab(self, title: str) -> None:
        """Open a tab."""
        self.page.get_by_role("tab", name=title, exact=True).click()

    def code(self) -> str:
        """The program that the page shows."""
        lines = self.page.locator(".cm-content .cm-line").all_inner_texts()
        return "\n".join(line.replace("\n", "") for line in lines)

    def contrasts(self, selector: str) -> list[tuple[str, float]]:
        """Text of the visible elements, and how far it stands out of its ground, 1 to 21."""
        return self.page.evaluate(_CONTRASTS, selector)

    def top_of(self, selector: str) -> float:
        """Where something begins on the page, in pixels."""
        return self.page.locator(selector).first.bounding_box()["y"]

    def take_picture(self, name: str) -> None:
        """Keep what is on screen, where SALHUB_SCREENSHOTS names a folder for it."""
        folder = os.environ.get("SALHUB_SCREENSHOTS")
        if folder:
            self.page.evaluate("document.activeElement?.blur()")
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    def check(self) -> None:
        """Nothing went wrong, nothing left the machine, nothing sticks out to the side."""
        assert self.errors == []
        assert self.outside == []
        width = self.page.evaluate("document.documentElement.scrollWidth")
        assert width <= self.page.viewport_size["width"]
        assert self.page.evaluate(_UNNAMED_PICTURES) == []

    def _hear(self, message) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _see(self, request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in _OWN_SCHEMES and address.netloc != self.host:
            self.outside.append(request.url)
        if address.path.endswith("/queue/join"):
            self.asked.append(request.url)

    def _check(self, response) -> None:
        if response.status >= 400:
            self.errors.append(f"{response.status} {response.url}")


@contextmanager
def visiting(browser, address: str, viewport: dict, **properties) -> Iterator[Visit]:
    """Open a page as a new visitor, and check at the end that nothing went wrong."""
    context = browser.new_context(viewport=viewport, accept_downloads=True, **properties)
    visit = Visit(context.new_page(), urlsplit(address).netloc)
    try:
        visit.page.goto(address)
        yield visit
        visit.check()
    finally:
        context.close()
