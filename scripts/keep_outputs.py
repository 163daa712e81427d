"""Put the outputs of an executed experiment into its notebook in `nbs/`, so that the docs show them.

    ad_distill run exp_darkroom --out runs/exp_darkroom.ipynb
    python scripts/keep_outputs.py runs/exp_darkroom.ipynb nbs/exp_darkroom.ipynb

Cells are matched by their source; progress bars and paths of this machine stay out; then run `nbdev-clean`.
"""
import sys
from pathlib import Path

import nbformat


def kept(output, folder):
    "An output as the docs shall show it; None for one that is left out."
    if output.output_type == "stream":
        if output.name == "stderr": return None
        output.text = output.text.replace(f"{folder}/", "")
    for kind, data in output.get("data", {}).items():
        if kind.startswith("text/"): output.data[kind] = data.replace(f"{folder}/", "")
    output.pop("execution_count", None)
    if output.output_type == "execute_result": output.execution_count = None
    return output


def main(executed, notebook):
    done, nb = nbformat.read(executed, 4), nbformat.read(notebook, 4)
    ran = [c for c in done.cells if c.cell_type == "code" and "injected" not in str(c.metadata)]
    outputs = {c.source: c.outputs for c in ran}
    missing = [c.source[:60] for c in nb.cells if c.cell_type == "code" and c.source not in outputs]
    if missing: sys.exit(f"{executed} was not made from {notebook}: it lacks the cell {missing[0]!r}")
    folder = Path(executed).resolve().parent
    for c in nb.cells:
        if c.cell_type == "code": c.outputs = [o for o in (kept(o, folder) for o in outputs[c.source]) if o]
    nbformat.write(nb, notebook)


if __name__ == "__main__":
    if len(sys.argv) != 3: sys.exit(__doc__)
    main(*sys.argv[1:])
