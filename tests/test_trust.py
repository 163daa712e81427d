"""Code of strangers runs only when somebody says so; what a first try leaves is not in the way of a better one."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import run
from safetensors.torch import load_file

from ad_distill import Store, Strided, UserError, Windows, distill, generate, make_source, make_task
from ad_distill.registry import _TRUSTED, check_trusted, trust
from ad_distill.tasks.core import named_task
from ad_distill.train import last_checkpoint

MAZE = """
from pathlib import Path

import gymnasium as gym
from gymnasium.spaces import Discrete

(Path(__file__).parent / "it_ran").touch()


class Maze(gym.Env):
    observation_space, action_space = Discrete(4), Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action): return int(action), float(action == 1), True, False, {}
"""
TINY = [
    "--episodes",
    "2",
    "--stride",
    "1",
    "--steps",
    "2",
    "-s",
    "width",
    "16",
    "-s",
    "layers",
    "1",
    "-s",
    "heads",
    "1",
]


def ad(*args, cwd, check=True, **kwargs):
    return run(sys.executable, "-m", "ad_distill", *map(str, args), cwd=cwd, check=check, **kwargs)


def refused(got):
    assert got.returncode == 2 and got.stderr.count("\n") == 1, got.stderr
    return got.stderr


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    "A folder with a module of somebody's, and a store and a model that name it."
    folder = tmp_path_factory.mktemp("maze")
    (folder / "maze.py").write_text(MAZE)
    how = ("--source", "random", "--histories", 3, "--episodes", 4)
    made = ad("generate", "gym:maze:Maze", *how, "--out", "s", cwd=folder)
    assert "run it only with --trust maze" in made.stderr  # what the next command will ask for
    ad("train", "s", *TINY, "--trust", "maze", "--out", "m", cwd=folder)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ("train", "s", *TINY, "--out", "new"),
        ("evaluate", "m", "--instances", "1", "--streams", "1", "--episodes", "2", "--out", "t.csv"),
    ],
    ids=lambda c: c[0],
)
def test_a_module_that_only_data_name_is_not_imported(command, maze):
    (maze / "it_ran").unlink(missing_ok=True)
    assert "--trust maze" in refused(ad(*command, cwd=maze, check=False))
    assert not (maze / "it_ran").exists() and not (maze / "new").exists()
    ad(*command, "--trust", "maze", cwd=maze)
    assert (maze / "it_ran").exists()
    shutil.rmtree(maze / "new", ignore_errors=True)


def test_what_the_command_line_names_is_trusted(maze):
    how = ("--instances", "1", "--streams", "1", "--episodes", "2", "--out", "t.csv")
    ad("evaluate", "m", "--task", "gym:maze:Maze", *how, cwd=maze)
    ad("show", "s", "--history", "0", cwd=maze)  # runs nothing


@pytest.mark.parametrize(
    "task", [{"name": "gym", "params": {"id": "os:system"}}, {"name": "gym:os:system", "params": {"kwargs": "{}"}}]
)
def test_what_is_imported_already_is_not_trusted_for_that(task):
    "`gym:os:system` with `kwargs` of a stranger would run any command."
    with pytest.raises(UserError, match="--trust os"):
        named_task({"task": task}, "the store")


@pytest.mark.parametrize(
    "about", [None, [], "x", {}, {"task": "x"}, {"task": ["room"]}, {"task": {"name": "dark_room"}}]
)
def test_data_that_name_no_task(about):
    with pytest.raises(UserError, match="does not say which task"):
        named_task(about, "the store")


def test_a_package_is_trusted_with_its_modules():
    try:
        trust("maze_of_somebody")
        check_trusted("maze_of_somebody.rooms", "the store")
        with pytest.raises(UserError):
            check_trusted("maze_of_somebody_else", "the store")
    finally:
        _TRUSTED.discard("maze_of_somebody")


@pytest.mark.parametrize("road", ["--base", "reward", "tokenizer"])
def test_code_in_a_folder_of_a_model_is_never_run(road, tmp_path):
    "Whatever is piped into the command: transformers would ask whether to trust it."
    folder, ran = tmp_path / "theirs", tmp_path / "it_ran"
    folder.mkdir()
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w')\n")
    kinds = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M", "AutoModelForSequenceClassification": "code.M"}
    (folder / "config.json").write_text(json.dumps({"model_type": "theirs", "auto_map": kinds}))
    about = {"auto_map": {"AutoTokenizer": ["code.T", "code.T"]}, "tokenizer_class": "T"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    command = {
        "--base": ("train", "s", "--model", "lm", "--base", folder, "--out", "m"),
        "reward": ("generate", "text_rlhf", "-p", "reward", f"classifier:{folder}", "--source", "random", "--out", "g"),
        "tokenizer": (
            "import",
            "trl",
            Path(__file__).parent / "data/trl_logs/dense",
            "--tokenizer",
            folder,
            "--out",
            "i",
        ),
    }[road]
    if road == "--base":
        generate(make_task("bandit"), make_source("ucb"), tmp_path / "s", 3, 30, progress=False)
    got = subprocess.run(
        [sys.executable, "-m", "ad_distill", *map(str, command)],
        cwd=tmp_path,
        input="y\ny\n",
        text=True,
        capture_output=True,
    )
    assert got.returncode == 2 and not ran.exists() and got.stderr.strip().count("\n") == 0, got.stderr
    assert "[y/N]" not in got.stdout + got.stderr


def small(tmp_path, **training):
    store_path = tmp_path / "bandit"
    task = make_task("bandit")
    if not store_path.exists():
        generate(task, make_source("ucb"), store_path, 3, 30, progress=False)
    model = dict(width=16, layers=1, heads=1)
    how = dict(max_steps=6, save_steps=2, save_total_limit=3, **training)
    return lambda **kw: distill(
        task, Store.open(store_path), tmp_path / "m", Windows(5, Strided(1)), model, how, progress=False, **kw
    )


DAMAGES = {
    "gone": lambda p: p.unlink(),
    "cut": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
}


def test_the_newest_whole_checkpoint_is_taken(tmp_path):
    "A kill while a checkpoint was written, or a file of it that is damaged."
    go = small(tmp_path)
    go()
    done = load_file(tmp_path / "m/model.safetensors")
    checkpoints = tmp_path / "m/checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    newest = checkpoints / "checkpoint-6"
    shutil.copytree(newest, tmp_path / "whole")
    for name in ("trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        for damage in DAMAGES.values():
            damage(newest / name)
            with pytest.warns(UserWarning, match="checkpoint-6 was not written to its end"):
                assert last_checkpoint(checkpoints) == str(checkpoints / "checkpoint-4")
            shutil.rmtree(newest)
            shutil.copytree(tmp_path / "whole", newest)
    assert last_checkpoint(checkpoints) == str(newest)
    (newest / "optimizer.pt").unlink()
    (tmp_path / "m/training.json").unlink()
    with pytest.warns(UserWarning, match="left out"):
        go(resume=True)
    again = load_file(tmp_path / "m/model.safetensors")
    assert done.keys() == again.keys() and all(torch.allclose(done[k], again[k]) for k in done)
    with zipfile.ZipFile(newest / "optimizer.pt") as archive:
        assert archive.testzip() is None


def test_a_training_that_fails_at_its_start_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="learning rate"):
        small(tmp_path, learning_rate=-1.0)()
    assert not (tmp_path / "m").exists()

    def broken(model):
        raise RuntimeError("of the evaluation")

    with pytest.raises(RuntimeError):
        small(tmp_path, evaluate_every=1)(evaluate=broken)
    assert not (tmp_path / "m").exists()
    small(tmp_path)()


FALLS = MAZE.replace("float(action == 1), True", "1 / 0 if self.broken else 1., True").replace(
    "    def reset", "    def __init__(self, broken=True): self.broken = broken\n\n    def reset", 1
)


def test_a_source_that_fails_leaves_no_store(tmp_path):
    (tmp_path / "falls.py").write_text(FALLS.replace("1 / 0", "float('nan')"))
    command = ("generate", "gym:falls:Maze", "--source", "random", "--histories", 2, "--episodes", 3, "--out", "s")
    got = ad(*command, cwd=tmp_path, check=False)
    assert got.returncode == 2 and not (tmp_path / "s").exists()
    ad(*command, "-p", "kwargs", '{"broken": false}', cwd=tmp_path)
    assert len(Store.open(tmp_path / "s")) == 2


def test_a_store_without_a_history_is_not_in_the_way(tmp_path):
    "Of a command that was killed before its first history was complete."
    task, other = make_task("bandit"), make_task("dark_room", size=5)
    from ad_distill.data.store import StoreWriter

    with StoreWriter(tmp_path / "s", task.spaces, {"task": "a"}):
        pass
    generate(other, make_source("random"), tmp_path / "s", 2, 3, progress=False)
    with pytest.raises(UserError, match="holds other histories"):
        generate(other, make_source("random"), tmp_path / "s", 2, 4, progress=False)


def test_show_verifies(tmp_path):
    generate(make_task("bandit"), make_source("ucb"), tmp_path / "s", 3, 30, progress=False)
    assert "verified: 3 histories" in ad("show", "s", "--verify", cwd=tmp_path).stdout
    data = bytearray((tmp_path / "s/transitions.arrow").read_bytes())
    data[-9] ^= 1
    (tmp_path / "s/transitions.arrow").write_bytes(data)
    assert "damaged" in refused(ad("show", "s", "--verify", cwd=tmp_path, check=False))
    assert "damaged" in refused(ad("train", "s", *TINY, "--out", "m", cwd=tmp_path, check=False))
