"""Is the website in _docs whole? Links, anchors, pictures, navigation, API pages; then every page in headless Chromium.

    python scripts/docs_check.py [FOLDER] [--no-browser | --need-browser] [--shots FOLDER]

The first part needs Python alone. The second opens every page, wide and narrow, light and dark, in a Chromium or
Chrome that it finds by itself or under the name in AD_DISTILL_CHROMIUM, and looks for errors on the console, for what
could not be loaded, for pages that are wider than the screen, and for code that is cut off. Without a browser it says
so, and looks whether the styles of the pages wrap code and keep pictures within their column; `--need-browser` makes
that a failure. Quarto's pages and those of the preview are looked at in the same way. `--shots` keeps a picture of
every page. The browser is spoken to through a pipe (Chrome DevTools Protocol), so nothing has to be installed beside
it.
"""
import argparse
import base64
import functools
import http.server
import json
import os
import posixpath
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
            "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
BADGE = "/badge.svg"  # what GitHub says of the last run, on the home page: the one picture from elsewhere
SILENCE = 120  # seconds without a word from the browser, after which it counts as hung
SCREENS = {"wide": (1280, 900, "light"), "phone": (390, 844, "dark")}
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-extensions", "--disable-background-networking", "--remote-debugging-pipe")


class Page(HTMLParser):
    """What a page holds: ids, links, pictures, title and headings. Of Quarto's pages too: there a heading's id stands
    at its section, and what surrounds the text has headings and ids that are not the page's own."""
    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.images = [], [], []
        self.own_ids = []  # of the text, without what surrounds it and without what pictures call their parts
        self.inside = {"main": 0, "svg": 0}  # how many of each are open
        self.source = path.read_text(encoding="utf-8")
        self.has_main = "<main" in self.source
        self.menu = []  # links of the navigation
        self.h1, self.title = 0, ""
        self.tables = {}  # id of a heading -> tables below it
        self.open, self.last, self.last_section = [], "", ""
        self.texts = {"figcaption": [], "p": []}  # what stands in captions and paragraphs of the text
        self.text_of, self.styles, self.in_style = "", [], False  # which of them is open; stylesheets, and inline ones
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if tag in self.inside: self.inside[tag] += 1
        if tag in self.texts:
            self.text_of = tag
            self.texts[tag].append("")
        if tag == "link" and a.get("rel") == "stylesheet": self.styles.append((a.get("href", ""), ""))
        self.in_style = tag == "style"
        is_own = bool(self.inside["main"]) or not self.has_main
        if a.get("id"):
            self.ids.append(a["id"])
            if is_own and not self.inside["svg"]: self.own_ids.append(a["id"])
        if tag in ("h1", "h2", "h3", "h4"): self.last = a.get("id") or a.get("data-anchor-id") or self.last_section
        if tag == "section": self.last_section = a.get("id") or ""
        if tag == "h1" and is_own: self.h1 += 1
        if tag == "table": self.tables[self.last] = self.tables.get(self.last, 0) + 1
        if tag in ("nav", "title"): self.open.append((tag, a.get("id", "")))
        if tag in ("a", "link") and a.get("href"):
            self.links.append(a["href"])
            if any(t == "nav" for t, _ in self.open): self.menu.append(a["href"])
        if tag in ("img", "script") and a.get("src"): self.links.append(a["src"])
        if tag == "img": self.images.append((a.get("src", ""), a.get("alt")))

    def handle_endtag(self, tag):
        if tag in self.inside: self.inside[tag] = max(0, self.inside[tag] - 1)
        if tag == self.text_of: self.text_of = ""
        if tag == "style": self.in_style = False
        if self.open and self.open[-1][0] == tag: self.open.pop()

    def handle_data(self, data):
        if self.text_of: self.texts[self.text_of][-1] += data
        if self.in_style: self.styles.append(("", data))
        if self.open and self.open[-1][0] == "title": self.title += data


def inside(here, link, base):
    "File (from the top of the site) and anchor of an internal link on the page `here`; None for one that leads away."
    if base and link.startswith(base): link = "/" + (link.removeprefix(base).lstrip("/") or "index.html")
    u = urlsplit(link)
    if u.scheme or u.netloc: return None
    path = unquote(u.path)
    if not path: return here, unquote(u.fragment)
    from_top = path.lstrip("/") if path.startswith("/") else posixpath.join(posixpath.dirname(here), path)
    return posixpath.normpath(from_top), unquote(u.fragment)


def html_files(folder):
    "The pages of a site, by their path from its top."
    return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*.html"))}


def page_faults(name, page):
    "What is wrong with a page by itself."
    if page.h1 != 1: yield f"{page.h1} headings of the first level, not 1"
    if not page.title.strip(): yield "no title"
    for i in sorted(i for i, n in Counter(page.own_ids).items() if n > 1): yield f"two elements with the id {i!r}"
    for src, alt in page.images:
        if not (alt or "").strip(): yield f"a picture without alt text: {src[:80]}"
    texts = [" ".join(t.split()) for kind in page.texts.values() for t in kind]
    for caption in dict.fromkeys(" ".join(t.split()) for t in page.texts["figcaption"]):
        if caption and texts.count(caption) > 1: yield f"a caption twice: {caption[:60]}"
    if name.startswith("exp_") and not page.images: yield "an experiment without a picture"


def link_faults(name, page, pages, folder, base):
    "Links of a page that lead nowhere."
    for link in dict.fromkeys(page.links):
        if (to := inside(name, link, base)) is None: continue
        path, anchor = to
        is_known = not anchor or anchor == "top" or path not in pages or anchor in pages[path].ids
        if not (folder / path).is_file(): yield f"dead link: {link}"
        elif not is_known: yield f"no such anchor: {link}"


KEPT = {  # what a style has to say -> the pages that need it, and what is wrong without it
    r"\bpre\b[^{}]*\{[^}]*white-space:\s*pre-wrap": ("<pre", "no style wraps long lines of code"),
    r"\bimg\b[^{}]*\{[^}]*max-width:\s*100%": ("<img", "no style keeps pictures within their column")}


def styled(folder, base=""):
    "What the styles of pages leave out that a browser would show as cut code or as pictures wider than their column."
    wrong = []
    for name, path in html_files(folder).items():
        page, css = Page(path), ""
        for link, text in page.styles:
            to = inside(name, link, base) if link else None
            css += (folder / to[0]).read_text(encoding="utf-8") if to and (folder / to[0]).is_file() else text
        wrong += [f"{name}: {fault}" for rule, (needs, fault) in KEPT.items()
                  if needs in page.source and not re.search(rule, css)]
    return wrong


def static(folder, base=""):
    "What is wrong, as a list of lines, without a browser."
    pages, wrong = {name: Page(p) for name, p in html_files(folder).items()}, []
    if "index.html" not in pages: return [f"{folder}: no index.html; `make docs` builds the website"]
    for name, page in pages.items():
        faults = [*page_faults(name, page), *link_faults(name, page, pages, folder, base)]
        wrong += [f"{name}: {fault}" for fault in faults]
    led = [inside("index.html", link, base) for link in pages["index.html"].menu]
    reached = {to[0] for to in led if to}
    lost = sorted(pages.keys() - reached)
    return wrong + [f"{name}: the navigation of the home page does not lead there" for name in lost]


def api(folder):
    """Public names of the package that have no place of their own on its page, or parameters and no table of them, or
    a parameter without a meaning."""
    from ad_distill.dev.api_docs import inspect, modules, page_of, parameters, public_names
    wrong = []
    for m in modules():
        own = [(n, v) for n, v in public_names(m) if inspect.isfunction(v) or inspect.isclass(v)]
        own = [(n, v) for n, v in own if v.__module__ == m.__name__]
        if not own: continue
        name = page_of(m.__name__)
        if not (folder / name).is_file():
            wrong.append(f"{m.__name__}: no page")
            continue
        page = Page(folder / name)
        for n, v in own:
            rows = parameters(v)
            if n.lower() not in page.ids: wrong.append(f"{name}: {n} has no entry")
            elif rows and not page.tables.get(n.lower()): wrong.append(f"{name}: {n} has no table of its parameters")
            wrong += [f"{name}: {n}: the parameter {r[0]} has no meaning" for r in rows if r[0] and not r[3]]
    return wrong


def complaint(event, site):
    "What an event of the browser complains of, as a line; None where it does not."
    p, method = event.get("params", {}), event["method"]
    if method == "Runtime.exceptionThrown":
        details = p["exceptionDetails"]
        return "error: " + details.get("exception", {}).get("description", details["text"]).split("\n")[0]
    if method == "Runtime.consoleAPICalled" and p["type"] in ("error", "assert"):
        return "console: " + " ".join(str(a.get("value", "")) for a in p["args"])
    if method == "Log.entryAdded" and p["entry"]["level"] == "error":
        url = p["entry"].get("url", "")
        if urlsplit(url).path == "/favicon.ico" or url.endswith(BADGE): return None
        return f"console: {p['entry']['text']} {url}".strip()
    if method == "Network.requestWillBeSent" and not p["request"]["url"].startswith((site, "data:", "blob:")):
        if p["request"]["url"].endswith(BADGE): return None
        return f"loads from the network: {p['request']['url'][:100]}"
    return None


class Browser:
    "Chromium, headless, spoken to through a pipe."
    def __init__(self, path):
        down, self.out = os.pipe()
        self.inn, up = os.pipe()
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.n, self.buffer, self.events, self.session = 0, b"", [], None
        command = f'exec "$0" "$@" 3<&{down} 4>&{up}'  # the browser reads from 3 and writes to 4
        arguments = [path, *FLAGS, f"--user-data-dir={self.home.name}", "about:blank"]
        self.process = subprocess.Popen(["bash", "-c", command, *arguments], pass_fds=(down, up),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(down)
        os.close(up)
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"): self.call(f"{domain}.enable")

    def _read(self):
        "The next message."
        until = time.monotonic() + SILENCE
        while b"\0" not in self.buffer:
            left = max(0, until - time.monotonic())
            if not select.select([self.inn], [], [], left)[0]: raise TimeoutError
            if not (got := os.read(self.inn, 1 << 16)): raise RuntimeError("the browser ended")
            self.buffer += got
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        "Call it, and wait for what it gives."
        self.n += 1
        message = {"id": self.n, "method": method, "params": params}
        if self.session: message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            got = self._read()
            if got.get("id") == self.n:
                if "error" in got: raise RuntimeError(f"{method}: {got['error']['message']}")
                return got["result"]
            self.events.append(got)

    def script(self, code):
        "The value of an expression on the page."
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    def open(self, url):
        """Load a page; the complaints of the browser about it. Where a page names no icon it asks for /favicon.ico by
        itself: that there is none is no fault of the page. An icon that a page does name and that is not there is a
        dead link of the first part."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events): self.events.append(self._read())
        self.script(DECODE)
        site = "/".join(url.split("/")[:3])
        complaints = [complaint(e, site) for e in self.events if "method" in e]
        return [c for c in complaints if c]

    def close(self):
        "End it, and wait for its end."
        try: os.write(self.out, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        except OSError: pass
        try: self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.inn)
        self.home.cleanup()


def find_browser():
    "Path of a Chromium or Chrome; None where there is none."
    wanted = os.environ.get("AD_DISTILL_CHROMIUM")
    return next((p for p in map(shutil.which, [wanted] if wanted else BROWSERS) if p), None)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


DECODE = """Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode().catch(() => 0); }))
  .then(() => 1)"""
MISSING = f"""[...document.images].filter(i => !i.naturalWidth && !i.src.endsWith({BADGE!r}))
  .map(i => i.getAttribute('src'))"""
TOO_WIDE = """document.documentElement.scrollWidth <= innerWidth + 1 ? '' : [...document.querySelectorAll('main *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('pre, .wide, .sourceCode'))
  .map(e => e.tagName + ' ' + e.textContent.slice(0, 40)).slice(0, 2).join('; ') || 'something'"""
CUT = """(() => { const cut = [...document.querySelectorAll('main pre')]
  .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1);
  return cut.length ? cut.length + ' blocks of code or output are cut off, the first: '
    + cut[0].textContent.trim().slice(0, 40) : ''; })()"""
NARROW = """(() => { const pre = document.querySelector('main pre'); if (!pre || innerWidth < 1200) return '';
  const ruler = document.createElement('span'); ruler.textContent = 'x'.repeat(100);
  ruler.style.whiteSpace = 'pre'; ruler.style.position = 'absolute'; (pre.querySelector('code') || pre).append(ruler);
  const needed = ruler.getBoundingClientRect().width; ruler.remove();
  const has = pre.closest('main').getBoundingClientRect().width;
  return has < needed ? 'code has ' + Math.floor(100 * has / needed) + ' characters a line, fewer than 100' : '';
})()"""
SEARCH = """(() => { const i = document.getElementById('search'), f = document.getElementById('found');
  if (!i || !f) return '';
  const ask = w => { i.value = w; i.dispatchEvent(new Event('input'));
    return [...f.querySelectorAll('a')].map(a => a.href); };
  const hits = ask('make_task'), none = ask('qqqxyzzy'); ask('');
  return hits.some(h => h.endsWith('ADDRESS')) && !none.length ? ''
    : 'search for make_task finds ' + (hits.join(', ') || 'nothing'); })()"""


def search_works(browser, home):
    "The search box of the preview, typed into; empty where a page has no such box."
    return browser.script(SEARCH.replace("ADDRESS", f"{home}/tasks.html#make_task"))


def shown(folder, browser_path, shots=None):
    "What is wrong with the pages as a browser shows them."
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}"
    wrong, browser, pages = [], Browser(browser_path), html_files(folder)
    searched = {"index.html", next((name for name in pages if "/" in name), "index.html")}  # one at the top, one below
    try:
        for screen, (width, height, scheme) in SCREENS.items():
            browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                         mobile=screen == "phone")
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for name in pages:
                found = list(dict.fromkeys(browser.open(f"{home}/{name}")))
                found += [f"missing picture: {src}" for src in browser.script(MISSING)]
                if wide := browser.script(TOO_WIDE): found.append(f"wider than the screen: {wide}")
                found += [said for said in map(browser.script, (CUT, NARROW)) if said]
                if name in searched and (bad := search_works(browser, home)): found.append(bad)
                wrong += [f"{name} ({screen}, {scheme}): {what}" for what in found]
                if shots: take_shot(browser, shots / f"{Path(name).with_suffix('')}-{screen}.png")
    finally:
        browser.close()
        server.shutdown()
        server.server_close()
    return wrong


def take_shot(browser, path):
    "A picture of what the browser shows."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"]))


NO_BROWSER = ("No Chromium was found: install it (Debian: apt-get install chromium; macOS: brew install --cask "
              "chromium), or name one in AD_DISTILL_CHROMIUM.")


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("folder", nargs="?", type=Path, default=Path("_docs"), help="the website")
    cli.add_argument("--no-browser", action="store_true", help="check files only")
    cli.add_argument("--need-browser", action="store_true", help="fail where there is no browser")
    cli.add_argument("--no-api", action="store_true", help="leave out whether every public name has its entry")
    cli.add_argument("--base", default="https://ad-distill.github.io/ad_distill",
                     help="address of the website: absolute links that begin so are internal")
    cli.add_argument("--shots", type=Path, help="folder for a picture of every page")
    a = cli.parse_args()
    wrong = static(a.folder, a.base)
    n = len(html_files(a.folder))
    is_built = (a.folder / "index.html").is_file()
    if is_built and not a.no_api: wrong += api(a.folder)
    browser = None if a.no_browser or not n else find_browser()
    if browser: wrong += shown(a.folder, browser, a.shots)
    elif a.need_browser: wrong.append(NO_BROWSER)
    else:
        wrong += styled(a.folder, a.base)
        if not a.no_browser: print(f"{NO_BROWSER} The pages were not opened in a browser; their files were checked.")
    for line in wrong: print(line)
    how = ", opened wide and narrow, light and dark" if browser else ""
    print(f"{n} pages{how}: {f'{len(wrong)} faults' if wrong else 'no fault found'}")
    return 1 if wrong else 0


if __name__ == "__main__": sys.exit(main())
