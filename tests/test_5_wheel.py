"""The package that users get: built, installed in a fresh virtual environment, used from another directory."""

import json
import re
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from conftest import NBS, ROOT, run

EXPERIMENTS = {p.name for p in NBS.glob("exp_*.ipynb")}
WALK = """
import importlib, json, pkgutil, ad_distill
names = [m.name for m in pkgutil.walk_packages(ad_distill.__path__, "ad_distill.") if not m.name.endswith("__main__")]
print(json.dumps({n: importlib.import_module(n).__file__ for n in ["ad_distill", *names]}))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "The sdist, and the wheel that is built from it."
    import shutil

    skip = shutil.ignore_patterns(
        ".venv", ".git", "runs", "build", "dist", "_proc", "_docs", "__pycache__", ".*_cache", "*.egg-info"
    )
    copy, dist = tmp_path_factory.mktemp("build") / "copy", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, copy, ignore=skip)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, ".", cwd=copy)
    return next(dist.glob("*.tar.gz")), next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def venv(built, tmp_path_factory):
    "A fresh virtual environment with the wheel; what it depends on comes from the environment that runs the tests."
    home = tmp_path_factory.mktemp("fresh") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home.parent)
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        home / "bin/python",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        built[1],
        cwd=home.parent,
    )
    site = next(home.glob("lib/python*/site-packages"))
    (site / "heavy.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # its own .pth files, the editable install, are not read
    return home


def test_sdist_and_wheel_hold_the_experiments(built):
    sdist, wheel = built
    inside = {Path(n).name for n in tarfile.open(sdist).getnames() if "/nbs/exp_" in n and n.endswith(".ipynb")}
    assert inside == EXPERIMENTS and EXPERIMENTS
    names = zipfile.ZipFile(wheel).namelist()
    home = "ad_distill/experiments/notebooks/"
    assert {n for n in names if n.startswith(home)} == {home + n for n in EXPERIMENTS}
    data = {n for n in names if n.endswith(".parquet") and "/example_logs/" not in n}
    assert {Path(n).name for n in data} == {p.name for p in (ROOT / "ad_distill").rglob("*.parquet")}
    assert {f"ad_distill/rlhf/reviews/{n}" for n in ("openings.txt", "LICENSE.txt")} <= set(names)
    logs = {n.removeprefix("ad_distill/example_logs/") for n in names if n.startswith("ad_distill/example_logs/")}
    source = (ROOT / "nbs/guides/rlhf_logs.ipynb").read_text(encoding="utf-8")
    read = set(re.findall(r'logs / \\"([\w/]+)', source)) | {"trlx_logs/tokenizer"}
    assert len(read) > 6 and all(any(n.startswith(f"{folder}/") for n in logs) for folder in read), read
    top = {n.split("/")[0] for n in names}
    assert all(t == "ad_distill" or t.endswith(".dist-info") for t in top), (
        f"the wheel installs more than the package: {top}"
    )


def test_metadata(built):
    wheel = zipfile.ZipFile(built[1])
    meta = message_from_bytes(wheel.read(next(n for n in wheel.namelist() if n.endswith("METADATA"))))
    core = [r for r in meta.get_all("Requires-Dist") if "extra ==" not in r]
    assert any(r.startswith("torch") for r in core) and not any(r.startswith(("nbdev", "pytest", "ruff")) for r in core)
    assert {"dev", "docs", "lora", "sb3", "box2d", "rlhf", "minari", "ray", "all"} <= set(
        meta.get_all("Provides-Extra")
    )
    assert meta["Requires-Python"] == ">=3.11" and meta["License-File"] == "LICENSE"


def test_every_module_imports(venv, tmp_path):
    files = json.loads(run(venv / "bin/python", "-c", WALK, cwd=tmp_path).stdout.splitlines()[-1])
    exported = {
        p.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for p in (ROOT / "ad_distill").glob("**/*.py")
    }
    assert {n.removesuffix(".__init__") for n in exported if not n.endswith("__main__")} == files.keys()
    assert all(venv in Path(f).parents for f in files.values()), f"not from the wheel: {files}"


def test_the_wheel_runs_with_fastcore_1(built, venv, tmp_path):
    "Development needs fastcore 2, because nbdev 3 does; users may have either."
    old = Path(sysconfig.get_path("purelib")).parents[2] / "fastcore1"
    if not old.is_dir():
        pytest.skip(f"no fastcore 1 in {old}: `make install` puts it there")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import fastcore; print(fastcore.__version__)\n" + WALK
    done = run(venv / "bin/python", "-c", code, old, cwd=tmp_path).stdout.splitlines()
    assert done[0].startswith("1.")
    assert len(json.loads(done[-1])) > 40
    lines = [
        "tasks",
        "generate bandit --source ucb --histories 4 --episodes 30 --out runs/bandit",
        "show runs/bandit",
        "train runs/bandit --model rl --steps 2 --episodes 4 --stride 5 --out runs/model",
        "settings --model lm",
    ]
    driver = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ad_distill.cli.main import main; main(sys.argv[1:])"
    for line in lines:
        run(venv / "bin/python", "-c", driver, old, *line.split(), cwd=tmp_path)


def test_command_line_of_the_wheel(venv, tmp_path):
    assert "generate" in run(venv / "bin/ad_distill", "--help", cwd=tmp_path).stdout
    assert "generate" in run(venv / "bin/python", "-m", "ad_distill", "--help", cwd=tmp_path).stdout
    assert "dark_room" in run(venv / "bin/ad_distill", "tasks", cwd=tmp_path).stdout


def test_experiment_of_the_wheel_runs(venv, tmp_path):
    words = "run exp_bandit -p scale smoke --out out/bandit.ipynb".split()
    of_tests = ("MPLBACKEND", "HF_HUB_OFFLINE", "PYDEVD_DISABLE_FILE_VALIDATION", "JUPYTER_PLATFORM_DIRS")
    done = run(venv / "bin/ad_distill", *words, cwd=tmp_path, **dict.fromkeys(of_tests))
    assert (tmp_path / "out/bandit.ipynb").exists()
    assert not done.stderr, "warnings or bars of other libraries"
    for made in (".ipynb", ".json", ".png"):
        assert done.stdout.count(str(tmp_path / f"out/bandit{made}")) == 1, done.stdout
