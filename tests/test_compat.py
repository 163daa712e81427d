"""Stores and models that commit d6ca0f0 wrote open and act as they did then; see tests/data/compat/README.md."""

import contextlib
import csv
import hashlib
import io
import json
import runpy
import shutil
import sys
import tempfile
import unittest.mock
from pathlib import Path

import numpy as np
import pytest
import torch

# ---- All that this file takes from the library's inside; adapt it here where things move ------------------------
from ad_distill.data.dataset import TrajectoryDataset, windows_of
from ad_distill.models.loading import load_model
from ad_distill.data.store import Store


def open_store(path):
    return Store.open(path)


def batch_of(store, settings, n, seed, model=None):
    "The first `n` windows, as tensors; `settings` are those in an old settings.json. A language model: of its text."
    text = model is not None and hasattr(model, "serializer")
    reads = dict(format="language", serializer=model.serializer, tokenizer=model.tokenizer) if text else {}
    found = TrajectoryDataset(store, windows=windows_of(**settings), n=n, seed=seed, **reads)
    return found.__getitems__(list(range(n))).batch


def losses_of(model, batch):
    with torch.inference_mode():
        return {k: float(v) for k, v in model(**batch).items()}


# --------------------------------------------------------------------------------------------------------------

DATA = Path(__file__).resolve().parent / "data" / "compat"
COMMANDS = json.loads((DATA / "commands.json").read_text())
STORES, MODELS = sorted(p.name for p in (DATA / "stores").iterdir()), sorted(COMMANDS["models"])
SERIALIZERS = ("plain", "coords", "compact", "json", "bins", "prose")
TOLERANCE = 1e-4  # of losses: another processor may add up in another order
WINDOWS = {  # which windows are drawn: settings as settings.json has them
    "plain": dict(episodes=4, stride=3),
    "from_start": dict(episodes=3, stride=2, from_start=0.9),
    "part": dict(episodes=3, stride=1, part=[0.3, 0.9]),
    "zero_rewards": dict(episodes=3, stride=2, zero_rewards=True),
    "shuffle_episodes": dict(episodes=4, stride=2, shuffle_episodes=True),
    "shuffle_rewards": dict(episodes=4, stride=2, shuffle_rewards=True),
    "jump": dict(episodes=3, stride=2, jump=0.7, jump_from=0.3, jump_to=0.2),
    "jump_shuffled": dict(
        episodes=3, stride=2, jump=0.7, jump_from=0.3, jump_to=0.3, part=[0, 0.9], shuffle_episodes=True
    ),
    "scatter": dict(episodes=4, scatter=True),
    "scatter_shuffled": dict(episodes=4, scatter=True, shuffle_episodes=True),
    "sort": dict(episodes=4, stride=2, sort=True),
    "scatter_sort": dict(episodes=4, scatter=True, sort=True, skip=0.7),
}
DRAWN = ("room", "key", "cartpole", "story")  # from these stores
TEXT_MODELS = ("lm_room_compact", "lm_story_plain")  # and as their text


def ad_distill(*args, cwd=None):
    "The command line, in this process; what it prints."
    out, argv = io.StringIO(), ["ad_distill", *map(str, args)]
    with contextlib.chdir(cwd or "."), contextlib.redirect_stdout(out), unittest.mock.patch.object(sys, "argv", argv):
        try:
            runpy.run_module("ad_distill", run_name="__main__")
        except SystemExit as e:
            if e.code not in (0, None):
                raise AssertionError(f"{' '.join(argv)}: exit code {e.code}") from e
    return out.getvalue()


def sha(*parts):
    h = hashlib.sha256()
    for p in parts:
        h.update(p if isinstance(p, bytes) else p.encode())
    return h.hexdigest()[:24]


def sha_array(x):
    x = np.asarray(x)
    return sha(json.dumps(x.tolist())) if x.dtype == object else sha(f"{x.dtype.str} {x.shape} ", x.tobytes())


def sha_batch(batch):
    "Unknown numbers are one NaN, whichever bits it has."
    arrays = {k: v.numpy().copy() for k, v in batch.items()}
    for v in arrays.values():
        if v.dtype.kind == "f":
            v[np.isnan(v)] = np.nan
    return sha(*(f"{k} {sha_array(v)} " for k, v in sorted(arrays.items())))


def store_facts(path):
    store = open_store(path)
    columns = {k: [] for k in ("state", "action", "reward", "logprob", "terminated", "truncated")}
    for h in store:
        for k in columns:
            columns[k].append(sha_array(h.columns[k]))
    return {
        "histories": len(store),
        "episodes": len(store.episode_lengths),
        "transitions": int(store.n_transitions),
        "spaces": sha(str(store.spaces.state), str(store.spaces.action)),
        "info": store.info,
        "lengths": sha_array(store.episode_lengths),
        "columns": {k: sha(*v) for k, v in columns.items()},
        "about": sha(json.dumps([[h.task, h.source, h.seed, h.versions] for h in store], sort_keys=True)),
    }


def text_facts(path):
    "What `show` prints of the last history, by serializer."
    show = lambda s: ad_distill("show", path, "--history", -1, "--episodes", "0:2", "--serializer", s)
    return {s: sha(show(s)) for s in SERIALIZERS}


def window_facts(path, model=None):
    "Of each kind of windows: what is in them."
    store = open_store(path)
    return {k: sha_batch(batch_of(store, w, 12, 5, model)) for k, w in WINDOWS.items()}


def model_facts(name, data):
    "The windows it was trained on, and its losses on each of six others."
    settings = json.loads((data / "models" / name / "settings.json").read_text())
    model, store = load_model(data / "models" / name, "cpu"), data / COMMANDS["models"][name][1]
    if hasattr(model, "serializer"):
        store = text_of(store, name)
    store = open_store(store)
    used = sha_batch(batch_of(store, settings["windows"], 160, settings["seed"], model))
    windows = {"episodes": 3, "stride": 2}
    batches = [{k: v[i : i + 1] for k, v in batch_of(store, windows, 6, 11, model).items()} for i in range(6)]
    return {"windows": used, "losses": [losses_of(model, trimmed(b)) for b in batches]}


def trimmed(batch):
    "A batch of one, without its padding."
    n = int(batch["mask" if "mask" in batch else "attention_mask"].sum())
    return {k: v[:, :n] for k, v in batch.items()}


def text_of(store, model):
    "Rollouts as tokens are read as their text, which `train --resume` lays beside them; the store of a copy."
    store = Path(store)
    if not (store / "text").exists():
        resumed(model, store.parent.parent)
    return store / "text" if (store / "text").exists() else store


def resumed(name, data):
    command = [*COMMANDS["models"][name], "--out", f"models/{name}", "--resume"]
    return json.loads(ad_distill(*command, "-q", "--json", cwd=data))


PLAYED = [m for m in MODELS if m not in ("lm_text_plain", "lm_trl_plain")]  # they have no reward function


def played(name, data):
    "Returns (streams, episodes) by `evaluate`, and the instances."
    out = data / f"{name}.csv"
    size = ("--episodes", 5, "--instances", 2, "--streams", 2, "--seed", 0)
    ad_distill("evaluate", f"models/{name}", *size, "-q", "--out", out, cwd=data)
    with open(out, newline="") as f:
        rows = list(csv.DictReader(f))
    return {
        "columns": list(rows[0]),
        "instances": [int(r["instance"]) for r in rows[::5]],
        "returns": np.reshape([float(r["return"]) for r in rows], (-1, 5)).round(6).tolist(),
    }


def copied(to):
    "A copy of the data, which commands may write into."
    data = Path(to) / "compat"
    shutil.copytree(DATA / "stores", data / "stores")
    shutil.copytree(DATA / "models", data / "models")
    return data


def facts():
    "All that is expected: make_compat.py writes it, with the old commit."
    with tempfile.TemporaryDirectory() as folder:
        data = copied(folder)
        found = {"stores": {s: store_facts(data / "stores" / s) for s in STORES}}
        found["texts"] = {s: text_facts(data / "stores" / s) for s in STORES}
        found["windows"] = {s: window_facts(data / "stores" / s) for s in DRAWN}
        for m in MODELS:
            resumed(m, data)
        found["models"] = {m: model_facts(m, data) for m in MODELS}
        for m in TEXT_MODELS:
            store = text_of(data / COMMANDS["models"][m][1], m)
            found["windows"][m] = window_facts(store, load_model(data / "models" / m, "cpu"))
        found["played"] = {m: played(m, data) for m in PLAYED}
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return copied(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def expected():
    return json.loads((DATA / "expected.json").read_text())


@pytest.mark.parametrize("name", STORES)
def test_an_old_store_opens(name, data, expected):
    assert store_facts(data / "stores" / name) == expected["stores"][name]
    said = json.loads(ad_distill("show", data / "stores" / name, "--json"))
    assert said["histories"] == expected["stores"][name]["histories"]


@pytest.mark.parametrize("name", STORES)
def test_an_old_store_is_written_as_the_same_text(name, data, expected):
    assert text_facts(data / "stores" / name) == expected["texts"][name]


@pytest.mark.parametrize("name", [s for s in STORES if COMMANDS["stores"].get(s, [""])[0] == "generate"])
def test_the_same_command_finds_an_old_store_complete(name, data, expected):
    ad_distill(*COMMANDS["stores"][name], "-q", "--out", f"stores/{name}", cwd=data)
    assert store_facts(data / "stores" / name) == expected["stores"][name]


def test_generation_that_was_cut_off_goes_on(expected, tmp_path):
    data = copied(tmp_path)
    assert [p.name for p in (data / "stores/bandit_parted/parts").iterdir()] == ["00000003.part"]
    ad_distill(*COMMANDS["stores"]["bandit"], "-q", "--out", "stores/bandit_parted", cwd=data)
    got, want = store_facts(data / "stores/bandit_parted"), expected["stores"]["bandit"]
    assert {k: v for k, v in got.items() if k != "about"} == {k: v for k, v in want.items() if k != "about"}


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_seed_draws_the_same_windows(name, data, expected):
    assert window_facts(data / "stores" / name) == expected["windows"][name]


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_the_same_seed_draws_the_same_windows_of_text(name, data, expected):
    store = text_of(data / COMMANDS["models"][name][1], name)
    assert window_facts(store, load_model(data / "models" / name, "cpu")) == expected["windows"][name]


@pytest.mark.parametrize("name", MODELS)
def test_resume_finds_an_old_model_complete(name, data):
    summary = json.loads((data / "models" / name / "training.json").read_text())
    got = resumed(name, data)
    summary = {k: v if v == v else None for k, v in summary.items() if k not in ("log", "settings")}  # --json: no NaN
    assert {k: got[k] for k in summary} == summary
    assert not (data / "models" / name / "checkpoints").exists()


@pytest.mark.parametrize("name", MODELS)
def test_an_old_model_reads_as_it_did(name, data, expected):
    got, want = model_facts(name, data), expected["models"][name]
    assert got["windows"] == want["windows"]
    for a, b in zip(got["losses"], want["losses"], strict=True):
        assert a == pytest.approx(b, abs=TOLERANCE, rel=TOLERANCE, nan_ok=True)


@pytest.mark.parametrize("name", PLAYED)
def test_an_old_model_plays_as_it_did(name, data, expected):
    "A sampled action may flip on another processor and change what comes after it, so one stream of four may differ."
    got, want = played(name, data), expected["played"][name]
    got["columns"] = [c for c in got["columns"] if c != "copied"]  # newer, of tasks in text
    assert {k: got[k] for k in ("columns", "instances")} == {k: want[k] for k in ("columns", "instances")}
    same = np.isclose(got["returns"], want["returns"], atol=1e-4).all(1)
    assert same.sum() >= len(same) - 1, (got["returns"], want["returns"])
