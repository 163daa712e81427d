"""A preview of the website in _docs for machines without Quarto: nbdev's processing, then pandoc, one page a notebook.

The real website is made by Quarto through `nbdev-docs`. This one has the same pages under the same names, the same
text, outputs, API tables, links and sidebar; its looks and its search are its own, in docs/preview.css and
docs/preview.js. Nothing is loaded from a network. A page lies in the folder of its notebook: nbs/data/01_store.ipynb
becomes data/store.html.
"""
import base64
import html
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pypandoc
import yaml
from nbdev.config import get_config
from nbdev.serve import proc_nbs

HERE = Path(__file__).resolve().parent / "docs"
PANDOC_FORMAT = "ipynb+bracketed_spans+definition_lists+fenced_divs+header_attributes+pipe_tables"
PAGE = """<!DOCTYPE html>
<html lang="en" data-root="{root}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="description" content="{description}">
<title>{window_title}</title>
<link rel="icon" href="{root}{icon}">
<script>try {{ document.documentElement.dataset.theme = localStorage.getItem("theme") || ""; }} catch (e) {{}}</script>
<link rel="stylesheet" href="{root}preview.css">
<link rel="stylesheet" href="{root}styles.css">
<script defer src="{root}search.js"></script>
<script defer src="{root}preview.js"></script>
</head>
<body>
<a class="skip" href="#content">Skip to the text</a>
<header>
<button id="menu" aria-expanded="false" aria-controls="sidebar" aria-label="Contents">&#9776;</button>
<a class="home" href="{root}index.html">ad_distill</a>
<nav class="top" aria-label="Main">{navbar}</nav>
<div class="search">
<input id="search" type="search" placeholder="Search" aria-label="Search" autocomplete="off">
<div id="found" hidden></div>
</div>
<button id="theme" aria-label="Dark or light">&#9680;</button>
</header>
<div class="columns">
<nav id="sidebar" aria-label="All pages">{sidebar}</nav>
<main id="content">
{head}
{body}
<nav class="turn" aria-label="Neighbors">{turn}</nav>
<footer>{footer} A preview, built without Quarto.</footer>
</main>
<aside class="toc" aria-label="On this page">{toc}</aside>
</div>
</body>
</html>
"""


@dataclass(frozen=True)
class Page:
    "One page: `notebook` is its path below nbs/, `file` that below _docs."
    notebook: str
    file: str
    title: str
    description: str

    @property
    def label(self): return "Home" if self.file == "index.html" else self.title
    @property
    def window_title(self): return "ad_distill" if self.file == "index.html" else f"{self.title} - ad_distill"
    @property
    def root(self): return "../" * self.file.count("/")

    def to(self, other):
        "The link from this page to another one."
        return posixpath.relpath(other.file, posixpath.dirname(self.file) or ".")


def items(contents, section=""):
    "The notebooks of the sidebar, in order, each with its section."
    for c in contents:
        if isinstance(c, dict): yield from items(c["contents"], c["section"])
        else: yield c, section


def sidebar(contents, pages, here):
    "The sidebar of _quarto.yml as nested lists; the section that holds the page `here` is open."
    def item(c):
        if isinstance(c, dict):
            inside = [n for n, _ in items(c["contents"])]
            is_open = " open" if here.notebook in inside else ""
            entries = "".join(map(item, c["contents"]))
            summary = f"<summary>{html.escape(c['section'])}</summary>"
            return f"<li><details{is_open}>{summary}<ul>{entries}</ul></details></li>"
        if c not in pages: return ""
        current = " aria-current=page" if c == here.notebook else ""
        return f'<li><a href="{here.to(pages[c])}"{current}>{html.escape(pages[c].label)}</a></li>'
    return f"<ul>{''.join(map(item, contents))}</ul>"


def navbar(site, pages, here):
    "The links at the top."
    links = []
    bar = site.get("navbar", {})
    for entry in bar.get("left", []) + bar.get("right", []):
        to = entry.get("href", "")
        if to in pages: to = here.to(pages[to])
        elif "://" not in to: continue
        links.append(f'<a href="{to}">{html.escape(text_or_icon(entry))}</a>')
    return "".join(links)


def text_or_icon(entry):
    "What a link at the top or the bottom is called; where Quarto shows an icon, its name."
    return entry.get("text") or {"github": "GitHub"}.get(entry["icon"], entry["icon"])


def footer(site):
    "What stands at the end of every page: the texts and links of Quarto's footer, one after the other."
    parts = []
    for entry in site.get("page-footer", {}).values():
        if isinstance(entry, str): parts.append(re.sub(r"\[(.*?)\]\((.*?)\)", r'<a href="\2">\1</a>', entry) + ".")
        else: parts += [f'<a href="{e["href"]}">{html.escape(text_or_icon(e))}</a>.' for e in entry]
    return " ".join(parts)


def text_of(x): return x if isinstance(x, str) else "".join(x)


def front(nb):
    "Title, description and file name, as nbdev wrote them at the top."
    for c in nb["cells"]:
        if c["cell_type"] != "raw": continue
        if m := re.match(r"\s*---\n(.*?)\n---", text_of(c["source"]), re.S): return yaml.safe_load(m[1]) or {}
    return {}


def page_of(notebook, nb):
    "The page that a processed notebook becomes."
    about, path = front(nb), Path(notebook)
    file = about.get("output-file") or f"{path.stem}.html"
    title = str(about.get("title") or path.stem)
    return Page(notebook, path.with_name(file).as_posix(), title, str(about.get("description") or ""))


def picture(data, alt, folder, count):
    "A picture of an output as a file, and the HTML that shows it; None where there is no picture."
    ending = {"image/png": "png", "image/svg+xml": "svg"}
    kind = next((k for k in ending if k in data), None)
    if kind is None: return None
    folder.mkdir(parents=True, exist_ok=True)
    path, body = folder / f"figure-{count}.{ending[kind]}", text_of(data[kind])
    path.write_bytes(base64.b64decode(body) if kind == "image/png" else body.encode())
    alt = html.escape(alt, quote=True)
    file = f"{folder.name}/{path.name}"  # by itself it is shown as large as it is
    return f'<figure><a href="{file}"><img src="{file}" alt="{alt}" loading="lazy"></a></figure>'


def written(outputs):
    "What a cell prints or shows as markdown, as text of the page."
    shown = [text_of(o["data"]["text/markdown"]) for o in outputs if "text/markdown" in o.get("data", {})]
    printed = [text_of(o["text"]) for o in outputs if o.get("name") == "stdout"]
    return "\n\n".join(shown + printed)


def readable(nb, folder):
    "The notebook as pandoc wants it: Quarto's directives followed and gone, pictures as files, results numbered."
    cells, n = [], 0
    for c in nb["cells"]:
        src = text_of(c["source"])
        if c["cell_type"] == "raw" or src.startswith("<!-- WARNING: THIS FILE WAS AUTOGENERATED"): continue
        if c["cell_type"] != "code":
            cells.append(c)
            continue
        options = dict(re.findall(r"^#\|\s*([\w-]+):\s*(.*?)\s*$", src, flags=re.M))
        if options.get("include") == "false": continue
        if options.get("output") == "false": c["outputs"] = []
        c["source"] = "" if options.get("echo") == "false" else re.sub(r"^#\|.*\n?", "", src, flags=re.M)
        alt = options.get("fig-alt", "").strip("\"'")
        for o in c.get("outputs", []):
            if "execution_count" in o: o["execution_count"] = 1
            if shown := picture(o.get("data", {}), alt, folder, n + 1): o["data"], n = {"text/html": shown}, n + 1
        if options.get("output") == "asis" and not c["source"]:
            c = {"cell_type": "markdown", "metadata": {}, "source": written(c["outputs"])}
        cells.append(c)
    return json.dumps({**nb, "cells": cells})


def links(text, page, pages, base):
    "Links to notebooks become links to their pages; links to the website become relative ones."
    folder = posixpath.dirname(page.notebook)

    def to_page(m):
        notebook = posixpath.normpath(posixpath.join(folder, m[1]))
        return f'href="{page.to(pages[notebook])}{m[2] or ""}"' if notebook in pages else m[0]
    text = re.sub(r'href="([\w./-]+\.ipynb)(#[^"]*)?"', to_page, text)
    return re.sub(rf'href="{re.escape(base)}/?([^"]*)"', lambda m: f'href="{page.root}{m[1] or "index.html"}"', text)


def convert(nb, page, pages, base):
    "The text of a page as HTML."
    command = [pypandoc.get_pandoc_path(), "-f", PANDOC_FORMAT, "-t", "html5", "--mathml", "--wrap=none"]
    run = subprocess.run(command, check=True, input=nb, text=True, encoding="utf-8", capture_output=True)
    text = links(run.stdout, page, pages, base)
    tables = r"<table\b[^>]*>.*?</table>"  # a table may scroll, the page does not
    return distinct(re.sub(tables, lambda m: f'<div class="wide">{m[0]}</div>', text, flags=re.S))


def distinct(body):
    "Two headings of one name get two ids; a public name keeps its own, because links lead there."
    heads = list(re.finditer(r'(<hr />\s*)?<h([1-4])([^>]*?) id="([^"]+)"', body))
    first = {m[4]: m.start() for m in reversed(heads)}
    public = {m[4]: m.start() for m in reversed(heads) if m[1]}  # nbdev draws a line above each
    owner, seen, parts, at = {**first, **public}, {}, [], 0
    for m in heads:
        name = m[4]
        if owner[name] != m.start():
            seen[name] = seen.get(name, 0) + 1
            name = f"{name}-{seen[m[4]]}"
        parts += [body[at:m.start()], m[0][:m[0].rindex('id="')], f'id="{name}"']
        at = m.end()
    return "".join(parts) + body[at:]


def on_this_page(body):
    "The headings of a page as a list of links."
    lines = ""
    for level, at, text in re.findall(r'<h([23])[^>]*? id="([^"]+)"[^>]*>(.*?)</h\1>', body, flags=re.S):
        lines += f'<li class="level{level}"><a href="#{at}">{html.escape(plain(text))}</a></li>'
    return f"<strong>On this page</strong><ul>{lines}</ul>" if lines else ""


def plain(text):
    "What HTML says, without its tags."
    without = re.sub(r"<(style|script|math)\b.*?</\1>|<[^>]*>", " ", text, flags=re.S)
    return html.unescape(re.sub(r"\s+", " ", without)).strip()


def search_entries(page, section, body):
    "What the search looks through: one entry a heading, addressed from the home page."
    parts = re.split(r"<h[1-4][^>]*?id=\"([^\"]+)\"[^>]*>(.*?)</h[1-4]>", body, flags=re.S)
    about = {"p": page.label, "s": section}
    yield {"u": page.file, **about, "h": "", "x": f"{page.description} {plain(parts[0])}"[:600]}
    for at, heading, text in zip(parts[1::3], parts[2::3], parts[3::3]):
        yield {"u": f"{page.file}#{at}", **about, "h": plain(heading), "x": plain(text)[:500]}


def processed(cfg):
    "The notebooks as nbdev hands them to Quarto, by their path below nbs/."
    for p in cfg.nbs_path.rglob("*.ipynb"):  # what is computed when the page is made is computed anew
        cached = Path("_proc") / p.relative_to(cfg.nbs_path)
        if "#| exec_doc" in p.read_text(encoding="utf-8"): cached.unlink(missing_ok=True)
    proc, found = Path(proc_nbs(n_workers=2)).resolve(), {}
    for p in sorted(cfg.nbs_path.rglob("*.ipynb")):
        name = p.relative_to(cfg.nbs_path).as_posix()
        if ".ipynb_checkpoints" in name: continue
        if (proc / name).is_file(): found[name] = json.loads((proc / name).read_text(encoding="utf-8"))
        else: print(f"{p} came while the pages were made: build again", file=sys.stderr)
    return found


def copy_looks(cfg, out):
    "Style sheets, scripts and pictures."
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(HERE, out)
    shutil.copy(cfg.nbs_path / "styles.css", out)
    if (cfg.nbs_path / "images").is_dir(): shutil.copytree(cfg.nbs_path / "images", out / "images")


def in_order(contents, pages):
    "The pages in the order of the sidebar, each with its section; those that it lacks come last."
    order = [(pages[n], s) for n, s in items(contents) if n in pages]
    if lost := sorted(pages.keys() - {p.notebook for p, _ in order}):
        print(f"not in the sidebar of _quarto.yml: {', '.join(lost)}", file=sys.stderr)
    return order + [(pages[n], "") for n in lost]


def turn(page, before, after):
    "Links to the neighbors of a page."
    links = ""
    for what, p in {"before": before, "after": after}.items():
        if p: links += f'<a class="{what}" href="{page.to(p)}">{html.escape(p.label)}</a>'
    return links


def heading(page):
    "Title and summary."
    lead = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(page.description))
    return f"<h1>{html.escape(page.title)}</h1>" + (f'<p class="lead">{lead}</p>' if lead else "")


def main():
    cfg = get_config()
    os.chdir(cfg.config_path)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    notebooks, out = processed(cfg), Path(cfg.doc_path).resolve()
    copy_looks(cfg, out)
    pages = {name: page_of(name, nb) for name, nb in notebooks.items()}
    files = [p.file for p in pages.values()]
    if twice := sorted({f for f in files if files.count(f) > 1}):
        sys.exit(f"two notebooks make the same page: {', '.join(twice)}; rename one of them")
    site = yaml.safe_load(Path("_quarto.yml").read_text(encoding="utf-8"))["website"]
    contents = site["sidebar"]["contents"]
    base = f"{cfg.doc_host}{cfg.doc_baseurl}".rstrip("/")

    def build(page):
        pictures = (out / page.file).with_name(f"{Path(page.file).stem}_files")
        return convert(readable(notebooks[page.notebook], pictures), page, pages, base)
    with ThreadPoolExecutor(2) as pool: built = dict(zip(pages, pool.map(build, pages.values())))
    order = in_order(contents, pages)
    before = [None, *(p for p, _ in order[:-1])]
    after = [*(p for p, _ in order[1:]), None]
    entries = []
    for (page, section), last, following in zip(order, before, after):
        body, path = built[page.notebook], out / page.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGE.format(
            root=page.root, icon=site["favicon"], description=html.escape(page.description, quote=True),
            window_title=html.escape(page.window_title), navbar=navbar(site, pages, page),
            sidebar=sidebar(contents, pages, page), head=heading(page), body=body,
            turn=turn(page, last, following), toc=on_this_page(body), footer=footer(site)), encoding="utf-8")
        entries += search_entries(page, section, body)
    index = json.dumps(entries, ensure_ascii=False).replace("</", "<\\/")
    (out / "search.js").write_text(f"window.SEARCH = {index};\n", encoding="utf-8")
    print(f"{len(pages)} pages: open {out / 'index.html'} (a preview; Quarto makes the real website)")


if __name__ == "__main__": main()
