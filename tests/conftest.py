"""What all tests share: a quiet, offline, single-threaded environment, and copies of the repository to work in."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"

os.environ.update(
    OMP_NUM_THREADS="1",
    MPLBACKEND="Agg",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    AD_DISTILL_PROGRESS_SECONDS="86400",  # what commands print shall not depend on how fast a machine is
    PYDEVD_DISABLE_FILE_VALIDATION="1",
    JUPYTER_PLATFORM_DIRS="1",
)
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def run(*cmd, cwd, timeout=600, check=True, **env):
    "Run a command in `cwd` without PYTHONPATH; its output is shown when it fails. An env value of None removes it."
    wanted = {**os.environ, "PYTHONPATH": None, **env}
    full = {k: v for k, v in wanted.items() if v is not None}
    res = subprocess.run([str(c) for c in cmd], cwd=cwd, env=full, text=True, capture_output=True, timeout=timeout)
    if check and res.returncode:
        shown = f"exit code {res.returncode}\n{res.stdout[-4000:]}\n{res.stderr[-6000:]}"
        pytest.fail(f"{' '.join(map(str, cmd))}\n{shown}", False)
    return res


def python(code, cwd, **kwargs):
    "Run Python code in a process of its own."
    return run(sys.executable, "-c", code, cwd=cwd, **kwargs)


def hear_ctrl_c():
    "A test run that was started in the background of a shell hands down that SIGINT is ignored."
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def copy(tmp_path):
    "A copy of the repository, without what is built or run in it, so that no test changes the original."
    built = (".venv", ".git", "runs", "build", "dist", "_proc", "_docs", "*.egg-info")
    skip = (*built, "__pycache__", ".*_cache", ".hypothesis", ".ipynb_checkpoints")
    return shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(*skip), symlinks=True)
