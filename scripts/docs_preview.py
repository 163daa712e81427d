"""A plain preview of the docs in _docs for machines without Quarto: nbdev's own processing, then pandoc, one page a notebook.

The real website is made by Quarto through `nbdev_docs`; this has its text, code, outputs and links, not its looks or its search.
"""
import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pypandoc
import yaml
from nbdev.config import get_config
from nbdev.serve import proc_nbs

PAGE = re.compile(r'href="([\w./-]+)\.ipynb(#[^"]*)?"')


def nav(contents, title):
    "The sidebar of _quarto.yml as a list of links (`title`: file name -> title)."
    def item(c):
        if isinstance(c, dict): return f'<li class="section">{html.escape(c["section"])}</li>' + "".join(map(item, c["contents"]))
        return f'<li><a href="{c[:-6]}.html">{html.escape(title[c])}</a></li>' if c in title else ""
    return f'<nav class="preview"><ul>{"".join(map(item, contents))}</ul></nav>\n<p><em>A preview, made without Quarto.</em></p>'


def readable(path):
    "The notebook as pandoc wants it: Quarto's directives followed and gone, results numbered."
    nb = json.loads(path.read_text(encoding="utf-8"))
    for c in nb["cells"]:
        src = "".join(c["source"])
        if c["cell_type"] == "code": c["source"] = "" if "#| echo: false" in src else re.sub(r"^#\|.*\n?", "", src, flags=re.M)
        for o in c.get("outputs", []):
            if "execution_count" in o: o["execution_count"] = 1
    return json.dumps(nb)


def main():
    cfg = get_config()
    os.chdir(cfg.config_path)
    proc, out = Path(proc_nbs(n_workers=2)).resolve(), Path(cfg.doc_path).resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    shutil.copy(Path(cfg.nbs_path) / "styles.css", out)
    sources = {p.name: p.read_text(encoding="utf-8") for p in sorted(Path(cfg.nbs_path).glob("*.ipynb"))}
    title = {n: m[1].strip() if (m := re.search(r'"# ([^\n"\\]+)', s)) else n for n, s in sources.items()}
    sidebar = yaml.safe_load(Path("_quarto.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]
    (proc / "nav.html").write_text(nav(sidebar, title), encoding="utf-8")
    for n in title:
        page = out / f"{n[:-6]}.html"
        subprocess.run([pypandoc.get_pandoc_path(), "-f", "ipynb", "-t", "html5", "-s", "--mathml", "--toc", "-o", page.name, "-c", "styles.css",
                        f"--metadata=pagetitle:{title[n]}", f"--include-before-body={proc / 'nav.html'}",
                        f"--extract-media={n[:-6]}_files"], cwd=out, check=True, input=readable(proc / n), text=True, encoding="utf-8")
        page.write_text(PAGE.sub(r'href="\1.html\2"', page.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{len(title)} pages: open {out / 'index.html'} (a preview; Quarto makes the real website)")


if __name__ == "__main__": main()
