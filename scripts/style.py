"""How the code reads, measured: a Markdown table for this project.

    python scripts/style.py [FOLDER]

Lines are those of exported modules and of code cells; directives (`#| ...`) do not count. A body is what stands
between the `def` line and the end of a function, docstring included, without indentation. Tensor code is models/, the
stories of RLHF and the dataset.
"""
import argparse
import ast
import json
import re
import statistics
from pathlib import Path

TENSOR_CODE = ("models/", "rlhf/stories/", "data/dataset")
DIRECTIVE = re.compile(r"#\s*\|")


def code_cells(notebook):
    "The lines of each code cell without directives, and whether it is exported."
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code": continue
        lines = "".join(cell["source"]).splitlines()
        directives = [line for line in lines if DIRECTIVE.match(line)]
        is_exported = any(re.match(r"#\s*\|\s*export", line) for line in directives)
        yield [line for line in lines if line not in directives], is_exported


def functions(path):
    "The functions of a module with its lines."
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): yield node, text


def body_lines(function, text):
    "The lines of a body without indentation."
    first, lines = function.body[0], text.splitlines()
    if first.lineno == function.lineno: return [ast.get_source_segment(text, first) or ""]  # all on one line
    return [line.strip() for line in lines[first.lineno - 1:function.body[-1].end_lineno]]


def has_comment(line): return bool(re.search(r"(^|\s)#", line))


def percentile(values, share): return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def percent(part, whole): return f"{100 * part / whole:.1f} %" if whole else "-"


def measure(root):
    "Rows of the table: what is measured, and its value."
    modules = [p for p in sorted((root / "ad_distill").rglob("*.py")) if p.name != "_modidx.py"]
    notebooks = [p for p in sorted((root / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
    cells = [cell for p in notebooks for cell in code_cells(p)]
    exported = [len(lines) for lines, is_exported in cells if is_exported]
    in_modules = [line for p in modules for line in p.read_text(encoding="utf-8").splitlines()]
    in_notebooks = [line for lines, _ in cells for line in lines]
    bodies, tensor_lines = [], []
    for p in modules:
        is_tensor_code = p.relative_to(root / "ad_distill").as_posix().startswith(TENSOR_CODE)
        for function, text in functions(p):
            lines = body_lines(function, text)
            bodies.append(sum(len(line) + 1 for line in lines))
            if is_tensor_code: tensor_lines += [line for line in lines if line]
    words = len((root / "README.md").read_text(encoding="utf-8").split())

    def longer(lines, than): return percent(sum(len(line) > than for line in lines), len(lines))
    def in_cells_over(n): return percent(sum(size for size in exported if size > n), sum(exported))
    sizes = [round(statistics.median(exported)), percentile(exported, .9), max(exported)]
    commented = sum(map(has_comment, tensor_lines))
    return {
        "lines over 110 characters, package": longer(in_modules, 110),
        "lines over 110 characters, notebooks": longer(in_notebooks, 110),
        "lines over 120 characters, package": longer(in_modules, 120),
        "lines over 120 characters, notebooks": longer(in_notebooks, 120),
        "characters of a function body, median": round(statistics.median(bodies)),
        "characters of a function body, 90th percentile": percentile(bodies, .9),
        "exported lines that stand in cells of over 40 lines": in_cells_over(40),
        "exported lines that stand in cells of over 30 lines": in_cells_over(30),
        "exported cell, lines p50 / p90 / longest": " / ".join(map(str, sizes)),
        "body lines with a comment, in tensor code": percent(commented, len(tensor_lines)),
        "words in the README": words,
    }


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    cli.add_argument("folder", nargs="?", type=Path, default=here, help="of the repository")
    print("| what | value |\n|---|---|")
    for what, value in measure(cli.parse_args().folder).items(): print(f"| {what} | {value} |")


if __name__ == "__main__": main()
