"""The notebooks of nbs/ -> the sidebar of _quarto.yml and the table in CONTRIBUTING.md.

`--check` changes nothing and exits with 1 if one of the two is out of step. A notebook that no section of SECTIONS
matches is an error: put its folder into one.
"""
import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
GUIDES = ("ten_minutes", "own_task", "gymnasium", "rlhf_logs", "own_rlhf", "serializer", "scale", "reading_results")
PAGES = ("commands", "reference", "glossary", "open_questions")
EXPERIMENTS = ("darkroom", "bandit", "sentiment", "reviews", "serializers", "cartpole", "lunarlander", "pendulum")
FIRST = "Start"  # these pages stand above all sections, and are always seen; the sections are folded
SECTIONS = {  # title -> patterns of notebooks, in the order in which they are read: first what people call
    FIRST: [*(f"guides/{g}" for g in GUIDES), "results", *(f"guides/{p}" for p in PAGES), "guides/*"],
    "Tasks": ["10_tasks", "tasks/*"],
    "Sources": ["sources/*"],
    "Formats": ["00_trajectory", "language/*", "registry/*"],
    "Data": ["data/*"],
    "Models": ["20_models_rl", "30_models_lm", "models/*"],
    "Training": ["40_train"],
    "Evaluation": ["41_evaluate", "evaluation/*"],
    "RLHF": ["rlhf/*"],
    "RLHF logs": ["logs/*", "recorders/*"],
    "Experiments": [*(f"exp_{e}" for e in EXPERIMENTS), "exp_*", "experiments/*"],
    "Command line and website": ["cli/*", "dev/*"],
}
TABLE = re.compile(r"(<!-- notebooks: .*? -->\n).*?(<!-- end of notebooks -->)", re.S)


def matching(patterns):
    "Notebooks that match, by the order of the patterns, then by name, each once."
    found = [p for pattern in patterns for p in sorted(NBS.glob(f"{pattern}.ipynb"))]
    return list(dict.fromkeys(found))


def name(path): return path.relative_to(NBS).as_posix()


def sections():
    "Title -> notebooks."
    found = {title: matching(patterns) for title, patterns in SECTIONS.items()}
    listed = {p for paths in found.values() for p in paths} | {NBS / "index.ipynb"}
    there = {p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    lost = sorted(map(name, there - listed))
    if lost: sys.exit(f"no section of {Path(__file__).name} holds {', '.join(lost)}")
    return found


def sidebar(quarto):
    "The text of _quarto.yml with a sidebar of what there is; it is the last thing in that file."
    start = "    contents:\n      - index.ipynb\n"
    lines = []
    for title, paths in sections().items():
        folded = title != FIRST
        if folded: lines += [f"      - section: {title}", "        contents:"]
        lines += [f"{'    ' if folded else ''}      - {name(p)}" for p in paths]
    return quarto[:quarto.index(start)] + start + "\n".join(lines) + "\n"


def about(path):
    "Module, title and summary of a notebook; the module is empty where it exports none."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells]
    module = re.search(r"^#\s*\|\s*default_exp\s+(\S+)", "\n".join(sources), re.M)
    head = next(re.match(r"# (.+)\n\n> (.+)", s) for s in sources if s.startswith("# "))
    return module[1] if module else "", head[1], head[2]


def row(path):
    "A line of the table."
    module, title, summary = about(path)
    code = f"`ad_distill.{module}`" if module else ""
    return f"| [{name(path).removesuffix('.ipynb')}](nbs/{name(path)}) | {code} | {title}: {summary} |"


def table():
    "All notebooks but the guides, section by section."
    lines = ["", "| notebook | module | what it is about |", "|---|---|---|"]
    for title, paths in sections().items():
        if title != FIRST: lines += map(row, paths)
    return "\n".join([*lines, "", ""])


def wanted():
    "File -> its text as it should be."
    quarto, contributing = ROOT / "_quarto.yml", ROOT / "CONTRIBUTING.md"
    text = contributing.read_text(encoding="utf-8")
    return {
        quarto: sidebar(quarto.read_text(encoding="utf-8")),
        contributing: TABLE.sub(lambda m: m[1] + table() + m[2], text),
    }


if __name__ == "__main__":
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--check", action="store_true", help="compare only")
    check = cli.parse_args().check
    texts = wanted()
    wrong = [p for p, text in texts.items() if p.read_text(encoding="utf-8") != text]
    names = ", ".join(p.name for p in wrong)
    if check and wrong: sys.exit(f"out of step with nbs/: {names}; run python scripts/{Path(__file__).name}")
    for p in wrong: p.write_text(texts[p], encoding="utf-8")
    print(f"written: {names}" if wrong else "no change")
