"""Every experiment runs through papermill at toy scale, leaves its results beside its output, and its source alone."""

import json
import os
import sys

import nbformat
import pytest
from conftest import NBS, run

EXPERIMENTS = sorted(NBS.glob("exp_*.ipynb"))
RESULTS = {  # what others read from the results of an experiment
    "exp_darkroom": {
        "score_iqm",
        "score_ci",
        "episodes_to_80",
        "source_episodes_to_80",
        "expert_distillation_score",
        "random_score",
    },
    "exp_bandit": {"regret", "source_regret"},
    "exp_curves": {"split", "curves", "points", "windows", "beyond", "noise"},
    "exp_methods": {"split", "first", "methods", "below"},
    "exp_cartpole": {"first", "last", "gain", "ci", "source_first", "source_final", "expert_last", "random_last", "lm"},
    "exp_lunarlander": {
        "first",
        "last",
        "gain",
        "ci",
        "source_first",
        "source_final",
        "expert_last",
        "random_last",
        "animated",
    },
    "exp_pendulum": {"first", "last", "gain", "ci", "source_final", "expert_last", "split", "above", "told"},
    "exp_reviews": {
        "reader",
        "bind",
        "split",
        "improvement",
        *[f"improvement_{told}" for told in ("zeroed", "shuffled", "inverted")],
        "last_reward",
        "baselines",
        "by_windows",
        "counterfactual",
        "source_final_reward",
    },
    "exp_sentiment": {
        "context",
        "bind",
        "split",
        "improvement",
        "improvement_ci",
        "last_reward",
        "mean_reward",
        *[f"improvement_{told}{end}" for told in ("zeroed", "shuffled", "inverted") for end in ("", "_ci")],
        "no_repeat_improvement",
        "copies",
        "new_reward",
        "reward_accuracy",
        "parse_failure_rate",
        "source_first_reward",
        "source_final_reward",
        "baselines",
        "counterfactual",
    },
}


def no_constants(name):
    raise ValueError(f"{name} is not JSON")


def test_there_are_experiments():
    assert RESULTS.keys() <= {p.stem for p in EXPERIMENTS}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=[p.stem for p in EXPERIMENTS])
def test_experiment_runs(path, tmp_path):
    source, out = path.read_bytes(), tmp_path / "deep" / "out.ipynb"
    out.parent.mkdir()
    run(
        sys.executable,
        "-m",
        "papermill",
        path,
        out,
        "-p",
        "scale",
        "smoke",
        "--no-progress-bar",
        cwd=tmp_path,
        timeout=900,
        MPLBACKEND=None,
    )
    assert path.read_bytes() == source, "running it changed the notebook"
    nbformat.validate(nbformat.read(out, 4))
    beside = [p for p in (out.with_suffix(".json"), out.with_name("out.ipynb.json")) if p.exists()]
    assert beside, f"no results beside the output, only {sorted(os.listdir(out.parent))}"
    results = json.loads(beside[0].read_text(encoding="utf-8"), parse_constant=no_constants)
    assert results["parameters"]["scale"] == "smoke"
    missing = [
        k for k in RESULTS.get(path.stem, ()) if results["results"].get(k) is None and k not in ("episodes_to_80",)
    ]
    assert not missing, f"without a value: {missing}"
    assert results["results"] and RESULTS.get(path.stem, set()) <= results["results"].keys()


@pytest.mark.parametrize(
    "parameters",
    [
        ["-p", "serializer", "coords", "-p", "window", "4"],
        ["-p", "model", "rl"],
        ["-p", "context", "leap", "-p", "order", "state reward action"],
        ["-p", "context", "dpt", "-p", "order", "reward state action"],
        ["-p", "context", "sorted"],
        ["-p", "source", "rloo", "-p", "bind", "none"],
    ],
    ids=["coords", "rl", "leap", "dpt", "sorted", "rloo"],
)
def test_sentiment_in_other_forms(parameters, tmp_path):
    out = tmp_path / "out.ipynb"
    run(
        sys.executable,
        "-m",
        "papermill",
        NBS / "exp_sentiment.ipynb",
        out,
        "-p",
        "scale",
        "smoke",
        *parameters,
        "--no-progress-bar",
        cwd=tmp_path,
        timeout=900,
        MPLBACKEND=None,
    )
    results = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"), parse_constant=no_constants)["results"]
    assert len(results["improvement_ci"]) == 2 and results["base_reward"] > 0.1 and results["source_final_reward"] > 0.5
