"""The command line: it answers without the heavy imports."""
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import python, run

SCRIPT = Path(sys.executable).parent / "ad_distill"
HEAVY = ("torch", "transformers", "matplotlib", "datasets", "accelerate", "scipy", "pandas", "papermill", "IPython")


@pytest.mark.parametrize("command", [[SCRIPT], [sys.executable, "-m", "ad_distill"]], ids=["script", "module"])
def test_help(command, tmp_path):
    out = run(*command, "--help", cwd=tmp_path).stdout
    for name in ("tasks", "sources", "generate", "show", "train", "evaluate", "run"): assert f"\n  {name}" in out


@pytest.mark.parametrize("args", [["--help"], ["tasks"], ["sources"], ["generate", "--help"], ["train", "--help"]], ids=" ".join)
def test_answers_without_heavy_imports(args, tmp_path):
    code = f"""
import sys
from ad_distill.cli import main
try: main({args!r})
except SystemExit as e: assert not e.code, e.code
heavy = [m for m in {HEAVY!r} if m in sys.modules]
sys.exit(f"imported on the way: {{heavy}}" if heavy else 0)
"""
    assert python(code, cwd=tmp_path).stdout.strip()


def test_version():
    import ad_distill
    assert ad_distill.__version__ == version("ad_distill")
