"""Every experiment runs through papermill at toy scale, leaves its results beside its output, and its source alone."""
import json
import os
import sys

import nbformat
import pytest
from conftest import NBS, run

EXPERIMENTS = sorted(NBS.glob("exp_*.ipynb"))
RESULTS = {  # what others read from the results of an experiment
    "exp_darkroom": {"score_iqm", "score_ci", "episodes_to_80", "source_episodes_to_80", "expert_distillation_score", "random_score"},
    "exp_bandit": {"regret", "source_regret"},
}


def no_constants(name): raise ValueError(f"{name} is not JSON")


def test_there_are_experiments():
    assert RESULTS.keys() <= {p.stem for p in EXPERIMENTS}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=[p.stem for p in EXPERIMENTS])
def test_experiment_runs(path, tmp_path):
    source, out = path.read_bytes(), tmp_path / "deep" / "out.ipynb"
    out.parent.mkdir()
    run(sys.executable, "-m", "papermill", path, out, "-p", "scale", "smoke", "--no-progress-bar", cwd=tmp_path, timeout=900, MPLBACKEND=None)
    assert path.read_bytes() == source, "running it changed the notebook"
    nbformat.validate(nbformat.read(out, 4))
    beside = [p for p in (out.with_suffix(".json"), out.with_name("out.ipynb.json")) if p.exists()]
    assert beside, f"no results beside the output, only {sorted(os.listdir(out.parent))}"
    results = json.loads(beside[0].read_text(encoding="utf-8"), parse_constant=no_constants)
    assert results["parameters"]["scale"] == "smoke"
    assert results["results"] and RESULTS.get(path.stem, set()) <= results["results"].keys()
