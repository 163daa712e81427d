"scripts/docs_check.py finds what it is there to find."

import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import docs_check

GOOD = """<!DOCTYPE html><html><head><title>{title}</title></head><body>
<nav><a href="index.html">a</a><a href="https://here.org/other.html#part">b</a></nav>
<main><h1 id="top">A</h1><h2 id="part">B</h2><p>{text}</p></main>{more}</body></html>"""
PIXEL = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><path d="M0 0h9v9z"/></svg>'
BROWSER = docs_check.find_browser()


def site(folder, text="fine", more="", title="A page"):
    "A small website whose page `other` is as asked for."
    (folder / "p.svg").write_bytes(PIXEL)
    (folder / "index.html").write_text(GOOD.format(title=title, text="fine", more=""))
    (folder / "other.html").write_text(GOOD.format(title=title, text=text, more=more))
    return folder


def nested(folder, text):
    "The same with a page in a folder, which the home page leads to."
    site(folder, more='<nav><a href="deep/page.html">c</a></nav>')
    (folder / "deep").mkdir()
    page = GOOD.format(title="Deep", text=text, more="").replace('"index.html"', '"../index.html"')
    (folder / "deep/page.html").write_text(page)
    home = (folder / "index.html").read_text()
    (folder / "index.html").write_text(home.replace("<nav>", '<nav><a href="deep/page.html">c</a>'))
    return folder


HERE = "https://here.org"


def test_a_good_site_has_no_fault(tmp_path):
    links = '<a href="index.html#part">there</a> <a href="https://elsewhere.org/x">away</a>'
    assert docs_check.static(site(tmp_path, f'<img src="p.svg" alt="a triangle"> {links}'), HERE) == []


def test_a_caption_twice(tmp_path):
    once = '<figure><img src="p.svg" alt="x"><figcaption>A <em>curve</em></figcaption></figure>'
    assert docs_check.static(site(tmp_path, once), HERE) == []
    assert docs_check.static(site(tmp_path, f"{once}<p>A curve</p>"), HERE) == ["other.html: a caption twice: A curve"]


def test_styles_are_looked_at_where_there_is_no_browser(tmp_path):
    "Code has to be wrapped and pictures kept within their column, by a stylesheet or in the page."
    site(tmp_path, '<pre>code</pre><img src="p.svg" alt="x">')
    code, picture = "no style wraps long lines of code", "no style keeps pictures within their column"
    assert docs_check.styled(tmp_path, HERE) == [f"other.html: {code}", f"other.html: {picture}"]
    (tmp_path / "s.css").write_text("main pre, code { color: red; white-space: pre-wrap; }")
    site(tmp_path, '<link rel="stylesheet" href="s.css"><pre>code</pre><img src="p.svg" alt="x">')
    assert docs_check.styled(tmp_path, HERE) == [f"other.html: {picture}"]
    site(tmp_path, "<style>img { max-width: 100%; } pre { white-space: pre-wrap }</style><pre>code</pre>")
    assert docs_check.styled(tmp_path, HERE) == []
    command = [sys.executable, str(ROOT / "scripts/docs_check.py"), str(tmp_path), "--no-browser", "--no-api"]
    site(tmp_path, "<pre>code</pre>")
    done = subprocess.run([*command, "--base", HERE], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.startswith(f"other.html: {code}")


@pytest.mark.parametrize(
    "text, found",
    [
        ('<a href="../other.html#part">up</a> <img src="../p.svg" alt="x"> <a href="page.html#top">self</a>', None),
        (f'<a href="{HERE}/other.html#part">from the top</a> <a href="/p.svg">from the top</a>', None),
        ('<a href="other.html">x</a>', "deep/page.html: dead link: other.html"),
        ('<img src="p.svg" alt="x">', "deep/page.html: dead link: p.svg"),
        ('<a href="../other.html#gone">x</a>', "deep/page.html: no such anchor: ../other.html#gone"),
    ],
)
def test_links_of_a_page_in_a_folder(tmp_path, text, found):
    wrong = docs_check.static(nested(tmp_path, text), HERE)
    assert wrong == ([found] if found else [])


@pytest.mark.parametrize(
    "text, title, found",
    [
        ('<a href="gone.html">x</a>', "A", "dead link: gone.html"),
        (f'<a href="{HERE}/gone.html">x</a>', "A", f"dead link: {HERE}/gone.html"),
        ('<a href="index.html#gone">x</a>', "A", "no such anchor: index.html#gone"),
        ('<a href="#gone">x</a>', "A", "no such anchor: #gone"),
        ('<img src="p.svg">', "A", "without alt text: p.svg"),
        ('<img src="p.svg" alt=" ">', "A", "without alt text"),
        ('<img src="gone.png" alt="x">', "A", "dead link: gone.png"),
        ('<link rel="icon" href="/favicon.ico">', "A", "dead link: /favicon.ico"),
        ('<link rel="icon" href="gone.ico">', "A", "dead link: gone.ico"),
        ('<b id="part">x</b>', "A", "two elements with the id 'part'"),
        ("<h1>again</h1>", "A", "2 headings of the first level"),
        ("x", " ", "no title"),
    ],
)
def test_faults_in_files(tmp_path, text, title, found):
    wrong = docs_check.static(site(tmp_path, text, title=title), HERE)
    assert any(found in line for line in wrong)


def test_navigation_and_pictures_of_experiments(tmp_path):
    (site(tmp_path) / "exp_x.html").write_text(GOOD.format(title="X", text="x", more=""))
    wrong = docs_check.static(tmp_path, HERE)
    assert wrong == [
        "exp_x.html: an experiment without a picture",
        "exp_x.html: the navigation of the home page does not lead there",
    ]


QUARTO = """<!DOCTYPE html><html><head><title>A</title><link rel="icon" href="./p.svg"></head><body>
<nav id="part"><h1 class="quarto-secondary-nav-title">A</h1><a href="./index.html">a</a><a href="./other.html">b</a>
</nav><div id="quarto-content"><nav id="TOC"><a href="#part" data-scroll-target="#part">B</a></nav>
<main id="quarto-document-content"><header><h1 class="title">A</h1></header>
<section id="apitable" class="level3"><h3 class="anchored" data-anchor-id="apitable">ApiTable</h3>
<table class="caption-top"><tr><td>x</td></tr></table></section>
<section id="public_names" class="level3"><h3 class="anchored">public_names</h3>
<table><tr><td>x</td></tr></table></section>
<svg><g id="axis"><g id="axis"></g></g></svg></main></div></body></html>"""


def test_pages_of_quarto_have_no_false_faults(tmp_path):
    "Its headings carry their ids at the section; around the text stand a heading and ids that are not the page's own."
    for name in ("index.html", "other.html"):
        (tmp_path / name).write_text(QUARTO)
    (tmp_path / "p.svg").write_bytes(PIXEL)
    assert docs_check.static(tmp_path, HERE) == []
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/api_docs.html").write_text(QUARTO)
    said = [w for w in docs_check.api(tmp_path) if w.startswith("dev/api_docs.html")]
    wrong = [w for w in said if ": ApiTable " in w or ": public_names " in w]
    assert said and not wrong


def test_a_parameter_without_meaning_is_found(tmp_path, monkeypatch):
    from ad_distill.dev import api_docs

    def told(a: int, b: int = 0):  # the first has no comment
        "x"

    rows = {"told": [("a", "int", "", ""), ("b", "int", "0", "how many"), ("", "int", "", "")]}
    told.__module__ = "ad_distill.dev.api_docs"
    monkeypatch.setattr(api_docs, "modules", lambda: [api_docs])
    monkeypatch.setattr(api_docs, "public_names", lambda module: [("told", told)])
    monkeypatch.setattr(api_docs, "parameters", lambda value: rows["told"])
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/api_docs.html").write_text("<h3 id=told>told</h3><table></table>")
    assert docs_check.api(tmp_path) == ["dev/api_docs.html: told: the parameter a has no meaning"]


def test_nothing_there(tmp_path):
    assert "make docs" in docs_check.static(tmp_path)[0]


def test_a_public_name_without_entry_is_found(tmp_path):
    from ad_distill.dev.api_docs import page_of

    name = page_of("ad_distill.dev.api_docs")
    assert name == "dev/api_docs.html"
    (tmp_path / "dev").mkdir()
    (tmp_path / name).write_text("<h3 id=apitable>x</h3>")
    wrong = docs_check.api(tmp_path)
    assert f"{name}: reference has no entry" in wrong and f"{name}: ApiTable has no entry" not in wrong
    assert "ad_distill.data.store: no page" in wrong


@pytest.mark.parametrize(
    "options, code, said",
    [
        (["--no-browser"], 0, "no fault found"),
        ([], 0, "apt-get install chromium"),
        (["--need-browser"], 1, "apt-get install chromium"),
    ],
)
def test_without_a_browser_it_says_so(tmp_path, monkeypatch, options, code, said):
    monkeypatch.setenv("AD_DISTILL_CHROMIUM", "no-such-browser")
    command = [sys.executable, ROOT / "scripts/docs_check.py", site(tmp_path), "--no-api", "--base", HERE, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and said in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize(
    "text, more, found",
    [
        ("fine", "", None),
        ("fine", "<script>nothing.there()</script>", "ReferenceError"),
        ("fine", "<script>console.error('bad day')</script>", "bad day"),
        ('<img src="gone.png" alt="x">', "", "missing picture: gone.png"),
        ('<p style="width:3000px">long</p>', "", "wider than the screen"),
        (f"<pre style='overflow-x:auto'>{'x' * 500}</pre>", "", "code or output are cut off"),
        (f"<pre style='white-space:pre-wrap;overflow-wrap:anywhere'>{'x' * 500}</pre>", "", None),
        ("<style>main {width: 500px}</style><pre>x</pre>", "", "fewer than 100"),
        ("fine", '<script src="http://localhost:1/x.js"></script>', "loads from the network"),
        ('<img src="http://localhost:1/w/badge.svg" alt="what GitHub says of the last run">', "", None),
    ],
)
def test_faults_in_a_browser(tmp_path, text, more, found):
    wrong = docs_check.shown(site(tmp_path, text, more), BROWSER, tmp_path / "shots")
    assert any(found in w for w in wrong) if found else wrong == [], wrong
    shots = {p.name for p in (tmp_path / "shots").glob("*.png")}
    assert shots == {"index-wide.png", "index-phone.png", "other-wide.png", "other-phone.png"}
