"""Every library notebook runs from top to bottom, from a folder that is not the repository."""

import re
import shutil
from configparser import ConfigParser

import pytest
from conftest import NBS, ROOT, python

NOTEBOOKS = [*sorted(p for p in NBS.rglob("*.ipynb") if p.name[0].isdigit()), NBS / "index.ipynb"]
ini = ConfigParser(delimiters=["="])
ini.read(ROOT / "settings.ini", encoding="utf-8")
RUN = """
import sys
from pathlib import Path
from nbdev.test import test_nb
if __name__ == "__main__":
    ok, seconds = test_nb(Path(sys.argv[1]), skip_flags=sys.argv[2].split())
    sys.exit(not ok)
"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.relative_to(NBS).with_suffix("").as_posix() for p in NOTEBOOKS])
def test_notebook_runs(path, tmp_path):
    source = path.read_bytes()
    nb = shutil.copy(path, tmp_path / path.name)
    code = RUN.replace("sys.argv[1]", repr(str(nb))).replace("sys.argv[2]", repr(ini["DEFAULT"]["tst_flags"]))
    python(code, cwd=tmp_path, timeout=900)
    assert path.read_bytes() == source, "running it changed the notebook"


def test_examples_of_contributing_run(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= 4
    python("\n".join(blocks), cwd=tmp_path)
