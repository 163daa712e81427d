"The documentation: guides run, their commands exist, every notebook has a page, and the pages hold together."

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import click
import pytest
import yaml
from conftest import NBS, ROOT, python
from test_2_notebooks import RUN

sys.path.insert(0, str(ROOT / "scripts"))
import docs_check

PAGES = sorted(NBS.rglob("*.ipynb"))
GUIDES = [p for p in PAGES if not re.match(r"\d|exp_|index", p.name)]


def cells(path, kind):
    "The sources of the cells of a kind."
    every = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in every if c["cell_type"] == kind]


@pytest.mark.parametrize("path", GUIDES, ids=[p.stem for p in GUIDES])
def test_guide_runs(path, tmp_path):
    code = RUN.replace("sys.argv[1]", repr(str(path))).replace("sys.argv[2]", "''")
    python(code, cwd=tmp_path, timeout=900)


def test_the_python_of_the_readme_runs(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S))
    lines = [line for line in code.splitlines() if line.strip()]
    assert 8 <= len(lines) <= 12 and lines[0].startswith("from ad_distill import ")
    printed = python(code, cwd=tmp_path, timeout=600).stdout
    first, last = map(float, re.findall(r"\d\.\d+", printed))
    assert last > first + 0.2, printed


@pytest.mark.parametrize("code", [0, 3])
def test_the_readme_is_whole_however_quarto_ends(code, tmp_path):
    "nbdev-docs writes its own README.md first; here it ends at once, well or badly."
    for name in ("Makefile", "settings.ini", "constraints.txt", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/make_readme.py", tmp_path / "scripts")
    (tmp_path / "nbs").mkdir()
    shutil.copy(NBS / "index.ipynb", tmp_path / "nbs")
    commands = {
        "python": f'exec "{sys.executable}" "$@"',
        "quarto": "echo 1.6.43",
        "nbdev-docs": f"echo overwritten > README.md; exit {code}",
    }
    (tmp_path / "bin").mkdir()
    for name, line in commands.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "stamp").touch()
    env = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "MAKEFLAGS": ""}
    make = ["make", "docs", f"BIN={tmp_path}/bin", f"STAMP={tmp_path}/stamp"]
    done = subprocess.run(make, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode != 0) == (code != 0), done.stderr
    assert (tmp_path / "README.md").read_bytes() == (ROOT / "README.md").read_bytes()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_sidebar_and_table_of_notebooks_are_true():
    done = subprocess.run([sys.executable, ROOT / "scripts/make_sidebar.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_of_the_site_meets_the_guides_first():
    "What Quarto is told of the layout: guides above folded sections, plumbing last; wrapped code; an icon; links back."
    about = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    site, page = about["website"], about["format"]["html"]
    contents = site["sidebar"]["contents"]
    loose = [c for c in contents if isinstance(c, str)]
    sections = [c["section"] for c in contents if isinstance(c, dict)]
    assert contents[: len(loose)] == loose and loose[:3] == [
        "index.ipynb",
        "guides/ten_minutes.ipynb",
        "guides/own_task.ipynb",
    ]
    assert sections[0] == "Tasks" and sections[-1] == "Command line and website"
    assert site["sidebar"]["collapse-level"] == 1 and page["code-overflow"] == "wrap"
    assert (NBS / site["favicon"]).is_file() and site["page-footer"] and "source" in site["repo-actions"]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(NBS).as_posix())
def test_pictures_have_a_text_and_no_second_caption(path):
    "Of a picture alone in its paragraph Quarto shows the alt text as a caption, and leaves `alt` empty."
    for text in cells(path, "markdown"):
        for paragraph in re.split(r"\n\s*\n", text):
            assert "![](" not in paragraph, paragraph
            assert not re.fullmatch(r"\s*!\[[^\]]*\]\([^)]*\)\s*", paragraph), paragraph


def test_guides_speak_to_readers_from_elsewhere():
    for path in GUIDES:
        assert "the brief" not in "\n".join(cells(path, "markdown")), path


def test_names_in_the_glossary_are_public():
    "A word in backticks is a public name, or the name of a registered serializer or of a scale."
    import ad_distill
    from ad_distill.dev.api_docs import modules, public_names
    from ad_distill.language.serializer import make_serializer  # registers those that come with the package
    from ad_distill.registry import SERIALIZERS

    assert make_serializer
    public = {*ad_distill.__all__, *(name for m in modules() for name, _ in public_names(m))}
    typed_words = {*SERIALIZERS, "smoke", "small", "full", "ad_distill", "code"}
    text = "\n".join(cells(NBS / "guides/glossary.ipynb", "markdown"))
    words = set(re.findall(r"`(\w+)`", text))
    assert len(words & public) > 20
    assert not words - public - typed_words


def test_style_is_measured():
    printed = python("import runpy; runpy.run_path('scripts/style.py', run_name='__main__')", cwd=ROOT).stdout
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", printed, re.M))
    assert {"lines over 120 characters, package", "body lines with a comment, in tensor code"} <= rows.keys()
    assert int(rows["words in the README"]) <= 900


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(NBS).as_posix())
def test_the_first_text_is_title_and_summary_alone(path):
    "nbdev makes the page's head of that cell, and drops what else stands in it."
    title = next(c for c in cells(path, "markdown") if re.search(r"^# ", c, re.M))
    is_alone = re.fullmatch(r"# [^\n]+\n\n> [^\n]+\s*", title)
    assert is_alone, f"text behind the summary would be lost: put it into a cell of its own\n{title[:300]}"


def typed():
    "The lines with `ad_distill COMMAND ...` in the code blocks of pages and documents."
    texts = {p.relative_to(NBS).as_posix(): "\n".join(cells(p, "markdown")) for p in PAGES}
    for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        texts[p.name] = p.read_text(encoding="utf-8")
    for name, text in texts.items():
        text = re.sub(r" *\\\n\s*", " ", text) + "\n"  # continued lines
        blocks = re.findall(r"^```\n(.*?)^```|((?:^    [^\n]*\n)+)", text, re.M | re.S)
        for line in "".join(fenced + indented for fenced, indented in blocks).splitlines():
            found = re.match(r"\s*(?:[A-Z_]+=\S+ )*(?:.*-m )?ad_distill ([a-z].*)", line)
            if found:
                yield name, re.split(r"\s+(?:#|>>?)\s", found[1] + " ")[0]


def parse(line):
    "Arguments and options of a command as click reads them; nothing is run."
    from ad_distill.cli.main import main

    name, *args = shlex.split(line)
    main.commands[name].make_context(name, args)


def test_every_command_that_is_shown_can_be_typed():
    lines, wrong = list(typed()), []
    assert len(lines) > 30
    for page, line in lines:
        if re.search(r"[A-Z]{3,}|\.\.\.", line):
            continue  # a pattern, not a command
        try:
            parse(line)
        except (click.ClickException, KeyError) as e:
            wrong.append(f"{page}: ad_distill {line}: {e}")
    assert not wrong, "\n".join(wrong)
    with pytest.raises(click.ClickException):
        parse("generate dark_room --epsiodes 5 --out x")


def test_every_command_has_an_example_that_can_be_typed():
    from ad_distill.cli.main import main

    for name, command in main.commands.items():
        examples = re.findall(rf"ad_distill ({name}\b[^\n]*)", command.help)
        assert examples, f"{name} has no example"
        for line in examples:
            if "|" not in line:
                parse(re.split(" >>? ", line)[0])


def test_help_shows_the_flow_in_its_order():
    from ad_distill.cli.main import main

    order = re.findall(r"^ *ad_distill (\w+)", main.help, re.M)
    assert order == ["tasks", "sources", "generate", "show", "train", "evaluate", "run", "completion"]


def test_completion():
    env = {"PATH": "", "_AD_DISTILL_COMPLETE": "bash_source"}
    done = subprocess.run([sys.executable, "-m", "ad_distill"], env=env, capture_output=True, text=True)
    assert "_ad_distill_completion" in done.stdout, done.stderr


def test_the_preview_is_whole(copy):
    python("import runpy; runpy.run_path('scripts/docs_preview.py', run_name='__main__')", cwd=copy)
    site = copy / "_docs"
    assert len(list(site.rglob("*.html"))) == len(PAGES)
    wrong = docs_check.static(site, "https://ad-distill.github.io/ad_distill") + docs_check.api(site)
    wrong += docs_check.styled(site, "https://ad-distill.github.io/ad_distill")
    assert not wrong, "\n".join(wrong)
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "colab.research.google.com/github/ad-distill/ad_distill/blob/main/nbs/" in text, page
        assert "images/favicon.svg" in text and "CHANGELOG" in text, page
    store = (site / "data/store.html").read_text(encoding="utf-8")
    assert re.search(r'class="api-source" href="[^"]+/ad_distill/data/store\.py#L\d+"', store)
    index = (site / "search.js").read_text(encoding="utf-8")
    entries = json.loads(index.removeprefix("window.SEARCH = ").rstrip(";\n"))
    wanted = {"tasks.html#make_task", "guides/reading_results.html#what-a-falling-loss-hides"}
    assert wanted <= {e["u"] for e in entries}
    browser = docs_check.find_browser()
    if browser is None:
        pytest.skip("no Chromium here: the files of all pages were checked, but not in a browser")
    wrong = docs_check.shown(site, browser)
    assert not wrong, "\n".join(wrong)
