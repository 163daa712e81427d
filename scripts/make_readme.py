"""nbs/index.ipynb -> README.md, without Quarto. `--check` changes nothing and exits with 1 if the two differ."""
import argparse
import base64
import json
import re
import sys
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
ini = ConfigParser(delimiters=["="])
ini.read(root / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
nbs, index = cfg["nbs_path"], Path(cfg["nbs_path"]) / cfg["readme_nb"]
pictures = index.stem + "_files"  # the folder that Quarto uses
directive = re.compile(r"^#\s*\|\s*([\w-]+)\s*:?\s*(.*)$")


def text(x): return x if isinstance(x, str) else "".join(x)


def fence(code, lang=""):
    "A fenced block whose fence is longer than any inside."
    ticks = "`" * max([3, *(len(m) + 1 for m in re.findall(r"`{3,}", code))])
    return f"{ticks}{' ' if lang and len(ticks) > 3 else ''}{lang}\n{code}\n{ticks}"


def links(md):
    "Links relative to nbs/ made relative to the top level; absolute ones and anchors stay."
    def fix(m):
        path = m[2]
        if re.match(r"[a-z][a-z0-9+.-]*:|[#/]", path): return m[0]
        path = path[3:] if path.startswith("../") else f"{nbs}/{path}"
        return f"{m[1]}({path}{m[3]})"
    parts = re.split(r"(```.*?```|`[^`\n]+`)", md, flags=re.S)  # code stays as it is
    link = re.compile(r"(\])\(([^()\s]+)((?:\s+\"[^\"]*\")?)\)")
    return "".join(part if i % 2 else link.sub(fix, part) for i, part in enumerate(parts))


def markdown(src):
    "A markdown cell without Quarto's own marks (`:::` fences, `{...}` attributes after links, pictures and headings)."
    src = re.sub(r"^:{3,}.*\n?", "", src, flags=re.M)
    src = re.sub(r"(?<=\))\{[.#\w][^{}\n]*\}", "", src)
    return links(re.sub(r"^(#+ .*?)\s*\{[.#-][^{}\n]*\}\s*$", r"\1", src, flags=re.M))


def output(out, n, files):
    "One output of a cell as markdown: text in a block, pictures as files."
    if out["output_type"] == "stream":
        return fence(text(out["text"]).rstrip()) if out["name"] == "stdout" else ""
    data = out.get("data", {})
    if out["output_type"] == "error": raise SystemExit(f"{index}: cell {n} ended in {out['ename']}: {out['evalue']}")
    for mime, ext in (("image/png", "png"), ("image/svg+xml", "svg")):
        if mime in data:
            name = f"{pictures}/cell-{n}-output-{len(files) + 1}.{ext}"
            body = text(data[mime])
            files[name] = base64.b64decode(body) if ext == "png" else body.encode()
            return f"![]({name})"
    if "text/markdown" in data: return links(text(data["text/markdown"]).strip())
    return fence(text(data["text/plain"]).rstrip()) if "text/plain" in data else ""


def convert(nb):
    "The README's text and its pictures (path -> bytes)."
    parts, files = [], {}
    for n, cell in enumerate(nb["cells"], 1):
        src = text(cell["source"]).strip()
        if cell["cell_type"] == "raw": continue  # front matter
        if cell["cell_type"] == "markdown":
            parts.append(markdown(re.sub(r"\A---\n.*?\n---\n?", "", src, flags=re.S)).strip())
            continue
        lines = src.splitlines()
        opts = {m[1]: m[2].strip().lower() for m in map(directive.match, lines) if m}
        if opts.keys() & {"hide", "default_exp"} or opts.get("include") == "false": continue
        code = "\n".join(line for line in lines if not directive.match(line)).strip()
        if code and opts.get("echo") != "false": parts.append(fence(code, "python"))
        if opts.get("output") != "false": parts += [output(o, n, files) for o in cell.get("outputs", [])]
    note = f"<!-- made from {index.as_posix()} by scripts/make_readme.py: edit the notebook -->"
    return "\n\n".join([p for p in parts if p] + [note]) + "\n", files


if __name__ == "__main__":
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--check", action="store_true", help="compare only")
    check = cli.parse_args().check
    md, files = convert(json.loads((root / index).read_text(encoding="utf-8")))
    wanted = {"README.md": md.encode(), **files}
    there = {p.relative_to(root).as_posix() for p in (root / pictures).glob("*")} | {"README.md"}
    differ = [f for f, b in wanted.items() if not (root / f).is_file() or (root / f).read_bytes() != b]
    wrong = differ + sorted(there - wanted.keys())
    if check:
        if wrong: sys.exit(f"out of step with {index}: {', '.join(wrong)}; run python scripts/make_readme.py")
    else:
        for f in there - wanted.keys(): (root / f).unlink()
        for f, b in wanted.items():
            (root / f).parent.mkdir(exist_ok=True)
            (root / f).write_bytes(b)
        print(f"README.md: {'written' if wrong else 'no change'}")
