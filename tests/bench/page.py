"""Look at a page of `distill-hub compare --html`, or at a Markdown file, in a real browser, run by hand.

python tests/bench/page.py page.html --browser chromium --output_dir pictures
python tests/bench/page.py README.md --output_dir pictures

Writes a picture of the whole page for each of 1280 and 390 pixels of width, light and dark, and ends with an error when the
page asks for anything, reports an error, is wider than the window, has text of too little contrast, buttons that
do not sort when pressed with the keyboard, or a filter that does not filter. The browser is any Chromium; nothing is sent
over a network. A Markdown file is shown about as wide and in such sizes as on GitHub, its first screens are pictures of
their own, and pictures from the web are missing.
"""

import argparse
import base64
import html
import itertools
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from markdown_it import MarkdownIt

WIDTHS = {"desktop": 1280, "phone": 390}
# Of every visible piece of text: its contrast with the nearest ancestor that has a background (WCAG 2.2, 1.4.3).
CONTRAST = """(() => {
  const rgb = (css) => css.match(/[\\d.]+/g).map(Number);
  const light = (css) => rgb(css).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    const own = getComputedStyle(e).backgroundColor;
    return rgb(own)[3] === 0 ? ground(e.parentElement) : own;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const low = [];
  let seen = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.matches("script, style")) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
    seen += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(walker.currentNode.data);
  }
  return { seen, low };
})()"""
FIRST_TABLE = """[...document.querySelector("tbody").rows].map((row) => row.cells[0].textContent)"""
ACCURATE = """(() => {
  const shown = document.querySelector("tbody tr[id] td").getBoundingClientRect();
  return shown.left >= 0 && shown.right <= innerWidth;
})()"""
SORTED = """[...document.querySelectorAll("thead")].map((head) => [...head.querySelectorAll("th")]
  .filter((th) => th.ariaSort !== "none").map((th) => `${th.textContent}: ${th.ariaSort}`).join())"""
FOCUSED = """(document.activeElement.tagName + " " + document.activeElement.textContent.trim()).slice(0, 40)"""


class Browser:
    """A headless Chromium, spoken to in the DevTools protocol through two pipes."""

    def __init__(self, command: str):
        to_browser, self.out = os.pipe()
        self.inp, from_browser = os.pipe()
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu", "--remote-debugging-pipe"]
        flags.append(f"--user-data-dir={tempfile.mkdtemp()}")
        # Chromium reads file 3 and writes file 4.
        shell = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", command, *flags]
        self.process = subprocess.Popen(shell, pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.numbers, self.rest, self.session, self.events = itertools.count(1), b"", None, []

    def call(self, method: str, **parameters):
        """Send a command and return its result; what the page reports meanwhile is kept in `events`."""
        message = {"id": next(self.numbers), "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == message["id"]:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self):
        while b"\0" not in self.rest:
            if not (part := os.read(self.inp, 2**20)):
                raise RuntimeError("the browser has ended")
            self.rest += part
        answer, self.rest = self.rest.split(b"\0", 1)
        return json.loads(answer)

    def open(self, address: str, width: int, theme: str, *, script: bool = True) -> None:
        """Open a page in a tab of its own and wait until it is loaded."""
        self.session, self.events = None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str):
        """Return the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def show_pictures(self) -> None:
        """Load the pictures that would wait until they come into view, and wait for all that can be had."""
        step = """(async () => {
          for (const image of document.images) image.loading = "eager";
          const shown = Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
          await Promise.race([shown, new Promise((done) => setTimeout(done, 10000))]);
        })()"""
        self.call("Runtime.evaluate", expression=step, awaitPromise=True)

    def picture(self, file: Path, *, whole: bool = True) -> None:
        """Write the page as PNG: all of it, however long, or what is in the window."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))


def check(browser: Browser, page: str, folder: Path) -> None:
    """Look at a page in every way."""
    for (name, width), theme in itertools.product(WIDTHS.items(), ("light", "dark")):
        browser.open(page, width, theme)
        browser.show_pictures()
        browser.picture(folder / f"{name}-{theme}.png")
        wide = browser.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name}: the page is {wide} pixels wide"
        assert browser.evaluate(ACCURATE), f"{name}: accuracy, the second column, is not within the window"
        contrast = browser.evaluate(CONTRAST)
        assert contrast["seen"] > 20 and not contrast["low"], f"{name} {theme}: too little contrast: {contrast['low']}"
        hidden = browser.evaluate("[...document.images].filter((i) => !i.complete || !i.naturalWidth).length")
        assert hidden == 0, f"{hidden} pictures are not shown"
        asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
        assert [address for address in asked if not address.startswith("data:")] == [page], asked
        faults = [e for e in browser.events if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
        assert not faults, faults
        print(f"{name} {theme}: {width} pixels, {contrast['seen']} texts, {len(asked) - 1} pictures inside it")
    keyboard(browser, page)
    link(browser, page)
    narrow(browser, page)
    browser.open(page, 1280, "light", script=False)
    print(f"without JavaScript: {browser.evaluate(SORTED)}")
    assert browser.evaluate("[...document.querySelectorAll('th button')].every((button) => button.disabled)")


def keyboard(browser: Browser, page: str) -> None:
    """Reach the third button of the first table with Tab, and sort by it; the line above the rows stays first."""
    browser.open(page, 390, "light")
    browser.evaluate("document.querySelector('.scroll').previousElementSibling.setAttribute('tabindex', -1)")
    browser.evaluate("document.querySelector('.scroll').previousElementSibling.focus()")
    before, order = browser.evaluate(SORTED), browser.evaluate(FIRST_TABLE)
    reached = []
    for _ in range(4):  # the table itself, which scrolls, and three buttons
        browser.press("Tab", 9)
        reached.append(browser.evaluate(FOCUSED))
    browser.press("Enter", 13, "\r")
    once, first = browser.evaluate(SORTED), browser.evaluate(FIRST_TABLE)
    browser.press("Enter", 13, "\r")
    twice, second = browser.evaluate(SORTED), browser.evaluate(FIRST_TABLE)
    said = browser.evaluate("document.getElementById('said').textContent")
    print(f"Tab: {reached}\nsorted: {before[0]} -> {once[0]} -> {twice[0]}; {order} -> {first} -> {second}\nsaid: {said}")
    assert reached[3].startswith("BUTTON") and sorted(first) == sorted(second) == sorted(order)
    assert first[0] == second[0] == order[0] and len(order[0]) > 20
    assert len({before[0], once[0], twice[0]}) == 3 and before[1:] == twice[1:] and said


def narrow(browser: Browser, page: str) -> None:
    """Narrow the rows of a page of many sets to a word of the last one's name and its images per class."""
    browser.open(page, 390, "light")
    if browser.evaluate("document.getElementById('filter') === null"):
        return
    word = browser.evaluate("[...document.querySelectorAll('tr[id] th a:first-child')].at(-1).textContent.split('-')[0]")
    browser.evaluate(f"""(() => {{
      const [word, size] = document.querySelectorAll("#filter input, #filter select");
      word.value = {word!r};
      size.value = [...document.querySelectorAll("tr[id]")].at(-1).dataset.size;
      word.dispatchEvent(new Event("input"));
    }})()""")
    visible = "[...document.querySelectorAll('tr[id]')].filter((row) => row.checkVisibility())"
    names = browser.evaluate(f"{visible}.map((row) => row.cells[0].textContent + row.dataset.method)")
    told = browser.evaluate("document.querySelector('#filter output').value")
    empty = "[...document.querySelectorAll('.group')].filter((g) => g.checkVisibility() && !g.querySelector('tr[id]'))"
    print(f"{word}: {told}, {names}")
    assert names and all(word.lower() in name.lower() for name in names) and told.startswith(f"{len(names)} of ")
    assert browser.evaluate(f"{empty}.length") == 0


def link(browser: Browser, page: str) -> None:
    """Follow the link of the last row: it is in view and looks different."""
    browser.open(page, 1280, "dark")
    name = browser.evaluate("[...document.querySelectorAll('tr[id]')].at(-1).id")
    before = browser.evaluate(f"getComputedStyle(document.getElementById({name!r}).cells[1]).borderTopWidth")
    browser.open(f"{page}#{name}", 1280, "dark")
    target = f"document.getElementById({name!r})"
    after = browser.evaluate(f"getComputedStyle({target}.cells[1]).borderTopWidth")
    top = browser.evaluate(f"{target}.getBoundingClientRect().top")
    print(f"#{name}: {top:.0f} pixels from the top of the window, its border {before} -> {after}")
    assert 0 <= top <= 844 and before != after


STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --faint: #59636e; --ground: #fff; --panel: #f6f8fa;
  --line: #d1d9e0; --link: #0969da; }
@media (prefers-color-scheme: dark) {
  :root { --text: #f0f6fc; --faint: #9198a1; --ground: #0d1117; --panel: #151b23; --line: #3d444d; --link: #4493f8; }
}
body { box-sizing: border-box; max-width: 57rem; margin: 0 auto; padding: 2rem; background: var(--ground);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
@media (max-width: 600px) { body { padding: 1rem; } }
h1, h2 { padding-bottom: .3em; border-bottom: 1px solid var(--line); line-height: 1.25; }
h1 { font-size: 2em; } h2 { margin-top: 1.5em; } h3 { font-size: 1.25em; }
a { color: var(--link); } img { max-width: 100%; height: auto; }
pre { overflow: auto; padding: 1rem; background: var(--panel); border-radius: 6px; font-size: 85%; line-height: 1.45; }
code { padding: .2em .4em; background: var(--panel); border-radius: 6px; font-size: 85%; }
pre code { padding: 0; font-size: 100%; }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse; }
th, td { padding: 6px 13px; border: 1px solid var(--line); }
blockquote { margin: 0; padding: 0 1em; border-left: .25em solid var(--line); color: var(--faint); }
"""


def rendered(file: Path, folder: Path) -> str:
    """Write a Markdown file as a page; return its address."""
    text = re.sub(r"\A---\n.*?\n---\n", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    body = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    place = html.escape(f"{file.resolve().parent.as_uri()}/")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><base href="{place}">'
    page = folder / f"{file.stem}.html"
    page.write_text(
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{body}</body></html>", "utf-8"
    )
    return page.resolve().as_uri()


def show(browser: Browser, file: Path, folder: Path) -> None:
    """Look at a Markdown file in every way."""
    page = rendered(file, folder)
    for (name, width), theme in itertools.product(WIDTHS.items(), ("light", "dark")):
        browser.open(page, width, theme)
        browser.show_pictures()
        browser.picture(folder / f"{name}-{theme}-first.png", whole=False)
        browser.picture(folder / f"{name}-{theme}.png")
        wide = browser.evaluate("document.documentElement.scrollWidth")
        contrast = browser.evaluate(CONTRAST)
        missing = browser.evaluate("[...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)")
        tall = browser.evaluate("document.documentElement.scrollHeight") / 844
        print(f"{name} {theme}: {tall:.1f} screens, {contrast['seen']} texts, {len(missing)} pictures missing")
        assert wide <= width, f"{name}: the page is {wide} pixels wide"
        assert not contrast["low"], f"{name} {theme}: too little contrast: {contrast['low']}"
    assert not (lost := [address for address in missing if address.startswith("file:")]), f"not found: {lost}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--browser", default="chromium", help="command that starts Chromium")
    parser.add_argument("--output_dir", type=Path, default=Path("pictures"))
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    browser = Browser(arguments.browser)
    try:
        if arguments.page.suffix == ".md":
            show(browser, arguments.page, arguments.output_dir)
        else:
            check(browser, arguments.page.resolve().as_uri(), arguments.output_dir)
    finally:
        browser.process.terminate()


if __name__ == "__main__":
    main()
