"""Is the website in _docs whole? Links, anchors, pictures, navigation and API pages, and then every page in headless Chromium.

    python scripts/docs_check.py [FOLDER] [--no-browser | --need-browser] [--shots FOLDER]

The first part needs Python alone. The second opens every page, wide and narrow, light and dark, in a Chromium or Chrome that it finds by itself
or under the name in AD_DISTILL_CHROMIUM, and looks for errors on the console, for what could not be loaded, and for pages that are wider than the
screen. Without a browser it says so and leaves that part out; `--need-browser` makes that a failure. `--shots` keeps a picture of every page.
The browser is spoken to through a pipe (Chrome DevTools Protocol), so nothing has to be installed beside it.
"""
import argparse
import base64
import functools
import http.server
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
SILENCE = 120  # seconds without a word from the browser, after which it counts as hung
SCREENS = {"wide": (1360, 900, "light"), "phone": (390, 844, "dark")}


class Page(HTMLParser):
    "What a page holds: ids, links, pictures, title and headings."
    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.images, self.menu, self.h1, self.title, self.tables = [], [], [], [], 0, "", {}
        self.open, self.last = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get("id"): self.ids.append(a["id"])
        if tag in ("h1", "h2", "h3", "h4"): self.last = a.get("id") or ""
        if tag == "h1": self.h1 += 1
        if tag == "table": self.tables.setdefault(self.last, 0); self.tables[self.last] += 1
        if tag in ("nav", "title"): self.open.append((tag, a.get("id", "")))
        if tag in ("a", "link") and a.get("href"):
            self.links.append(a["href"])
            if any(t == "nav" for t, _ in self.open): self.menu.append(a["href"])
        if tag in ("img", "script") and a.get("src"): self.links.append(a["src"])
        if tag == "img": self.images.append((a.get("src", ""), a.get("alt")))

    def handle_endtag(self, tag):
        if self.open and self.open[-1][0] == tag: self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "title": self.title += data


def inside(here, link, base):
    "File and anchor of an internal link; None for one that leads elsewhere."
    if link.startswith(base): link = link.removeprefix(base).lstrip("/") or "index.html"
    u = urlsplit(link)
    if u.scheme or u.netloc: return None
    return unquote(u.path).lstrip("/") or here, unquote(u.fragment)


def static(folder, base=""):
    "What is wrong, as a list of lines, without a browser."
    pages, wrong = {p.name: Page(p) for p in sorted(folder.glob("*.html"))}, []
    if "index.html" not in pages: return [f"{folder}: no index.html; `make docs` builds the website"]
    for name, page in pages.items():
        if page.h1 != 1: wrong.append(f"{name}: {page.h1} headings of the first level, not 1")
        if not page.title.strip(): wrong.append(f"{name}: no title")
        for i in sorted({i for i in page.ids if page.ids.count(i) > 1}): wrong.append(f"{name}: two elements with the id {i!r}")
        for src, alt in page.images:
            if not (alt or "").strip(): wrong.append(f"{name}: a picture without alt text: {src[:80]}")
        for link in dict.fromkeys(page.links):
            if (to := inside(name, link, base or "\0")) is None: continue
            path, anchor = to
            if not (folder / path).is_file(): wrong.append(f"{name}: dead link: {link}")
            elif anchor and path in pages and anchor not in pages[path].ids and anchor != "top": wrong.append(f"{name}: no such anchor: {link}")
        if name.startswith("exp_") and not page.images: wrong.append(f"{name}: an experiment without a picture")
    reached = {to[0] for link in pages["index.html"].menu if (to := inside("index.html", link, base or "\0"))}
    wrong += [f"{name}: the navigation of the home page does not lead there" for name in sorted(pages.keys() - reached)]
    return wrong


def api(folder):
    "Public names of the package that have no place of their own on its page, or no table although they have parameters."
    from ad_distill.dev.api_docs import inspect, modules, page_of, parameters, public_names
    wrong = []
    for m in modules():
        names = [(n, v) for n, v in public_names(m) if (inspect.isfunction(v) or inspect.isclass(v)) and v.__module__ == m.__name__]
        if not names: continue
        if not (path := folder / page_of(m.__name__)).is_file():
            wrong.append(f"{m.__name__}: no page")
            continue
        page = Page(path)
        for n, v in names:
            if n.lower() not in page.ids: wrong.append(f"{path.name}: {n} has no entry")
            elif parameters(v) and not page.tables.get(n.lower()): wrong.append(f"{path.name}: {n} has no table of its parameters")
    return wrong


class Browser:
    "Chromium, headless, spoken to through a pipe."
    def __init__(self, path):
        down, self.out = os.pipe()
        self.inn, up = os.pipe()
        self.home, self.n, self.buffer, self.events = tempfile.TemporaryDirectory(ignore_cleanup_errors=True), 0, b"", []
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions", "--disable-background-networking",
                 "--remote-debugging-pipe", f"--user-data-dir={self.home.name}", "about:blank"]
        self.process = subprocess.Popen(["bash", "-c", f'exec "$0" "$@" 3<&{down} 4>&{up}', path, *flags], pass_fds=(down, up), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(down), os.close(up)
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"): self.call(f"{domain}.enable")

    def _read(self):
        "The next message."
        until = time.monotonic() + SILENCE
        while b"\0" not in self.buffer:
            if not select.select([self.inn], [], [], max(0, until - time.monotonic()))[0]: raise TimeoutError
            if not (got := os.read(self.inn, 1 << 16)): raise RuntimeError("the browser ended")
            self.buffer += got
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        "Call it, and wait for what it gives."
        self.n += 1
        message = {"id": self.n, "method": method, "params": params, **({"sessionId": self.session} if hasattr(self, "session") else {})}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            got = self._read()
            if got.get("id") == self.n:
                if "error" in got: raise RuntimeError(f"{method}: {got['error']['message']}")
                return got["result"]
            self.events.append(got)

    def script(self, code):
        "The value of an expression on the page."
        return self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)["result"].get("value")

    def open(self, url):
        """Load a page; the complaints of the browser about it. It looks for /favicon.ico by itself where a page names no
        icon: that there is none is no fault of the page. One that a page does name is a link, which the first part checks."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events): self.events.append(self._read())
        self.script("Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode().catch(() => 0); })).then(() => 1)")
        found = []
        for e in self.events:
            p = e.get("params", {})
            if e["method"] == "Log.entryAdded" and urlsplit(p["entry"].get("url", "")).path == "/favicon.ico": continue
            if e["method"] == "Runtime.exceptionThrown": found.append("error: " + p["exceptionDetails"].get("exception", {}).get("description", p["exceptionDetails"]["text"]).split("\n")[0])
            if e["method"] == "Runtime.consoleAPICalled" and p["type"] in ("error", "assert"): found.append("console: " + " ".join(str(a.get("value", "")) for a in p["args"]))
            if e["method"] == "Log.entryAdded" and p["entry"]["level"] == "error": found.append(f"console: {p['entry']['text']} {p['entry'].get('url', '')}".strip())
            if e["method"] == "Network.requestWillBeSent" and not p["request"]["url"].startswith((url.rsplit("/", 1)[0], "data:", "blob:")): found.append(f"loads from the network: {p['request']['url'][:100]}")
        return found

    def close(self):
        "End it, and wait for its end."
        try: os.write(self.out, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        except OSError: pass
        try: self.process.wait(20)
        except subprocess.TimeoutExpired: self.process.kill(), self.process.wait()
        os.close(self.out), os.close(self.inn)
        self.home.cleanup()


def find_browser():
    "Path of a Chromium or Chrome; None where there is none."
    wanted = os.environ.get("AD_DISTILL_CHROMIUM")
    return next((p for p in map(shutil.which, [wanted] if wanted else BROWSERS) if p), None)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


MISSING = "[...document.images].filter(i => !i.naturalWidth).map(i => i.getAttribute('src'))"
TOO_WIDE = """document.documentElement.scrollWidth <= innerWidth + 1 ? '' : [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1
  && !e.closest('pre, .wide, .sourceCode')).map(e => e.tagName + ' ' + e.textContent.slice(0, 40)).slice(0, 2).join('; ') || 'something'"""


def search_works(browser):
    "The search box of the preview, typed into; empty where a page has no such box."
    return browser.script("""(() => { const i = document.getElementById('search'), f = document.getElementById('found'); if (!i || !f) return '';
      const ask = w => { i.value = w; i.dispatchEvent(new Event('input')); return [...f.querySelectorAll('a')].map(a => a.getAttribute('href')); };
      const hits = ask('make_task'), none = ask('qqqxyzzy'); ask('');
      return hits.some(h => h.endsWith('#make_task')) && !none.length ? '' : 'search for make_task finds ' + (hits.join(', ') || 'nothing'); })()""")


def shown(folder, browser_path, shots=None):
    "What is wrong with the pages as a browser shows them."
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    wrong, browser = [], Browser(browser_path)
    try:
        for screen, (width, height, scheme) in SCREENS.items():
            browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=screen == "phone")
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for p in sorted(folder.glob("*.html")):
                at = f"{p.name} ({screen}, {scheme})"
                wrong += [f"{at}: {what}" for what in dict.fromkeys(browser.open(f"http://127.0.0.1:{server.server_port}/{p.name}"))]
                wrong += [f"{at}: missing picture: {src}" for src in browser.script(MISSING)]
                if wide := browser.script(TOO_WIDE): wrong.append(f"{at}: wider than the screen: {wide}")
                if p.name == "index.html" and (bad := search_works(browser)): wrong.append(f"{at}: {bad}")
                if shots:
                    shots.mkdir(parents=True, exist_ok=True)
                    (shots / f"{p.stem}-{screen}.png").write_bytes(base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"]))
    finally:
        browser.close()
        server.shutdown()
        server.server_close()
    return wrong


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("folder", nargs="?", type=Path, default=Path("_docs"), help="the website")
    cli.add_argument("--no-browser", action="store_true", help="check files only")
    cli.add_argument("--need-browser", action="store_true", help="fail where there is no browser")
    cli.add_argument("--no-api", action="store_true", help="leave out whether every public name has its entry")
    cli.add_argument("--base", default="https://ad-distill.github.io/ad_distill", help="address of the website: absolute links that begin so are internal")
    cli.add_argument("--shots", type=Path, help="folder for a picture of every page")
    a = cli.parse_args()
    wrong = static(a.folder, a.base)
    n = len(list(a.folder.glob("*.html")))
    if not (a.no_api or wrong[:1] and "no index.html" in wrong[0]): wrong += api(a.folder)
    browser = None if a.no_browser or not n else find_browser()
    if browser: wrong += shown(a.folder, browser, a.shots)
    elif not a.no_browser:
        how = "No Chromium was found: install it (Debian: apt-get install chromium; macOS: brew install --cask chromium), or name one in AD_DISTILL_CHROMIUM."
        if a.need_browser: wrong.append(how)
        else: print(how + " The pages were not opened in a browser; their files were checked.")
    for line in wrong: print(line)
    checked = f"{n} pages" + (", opened wide and narrow, light and dark" if browser else "")
    print(f"{checked}: {f'{len(wrong)} faults' if wrong else 'no fault found'}")
    return 1 if wrong else 0


if __name__ == "__main__": sys.exit(main())
