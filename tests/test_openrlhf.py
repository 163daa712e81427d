"""The recorder for OpenRLHF, called as OpenRLHF calls a reward function; OpenRLHF itself is not needed."""

import importlib.util
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import python

from ad_distill import UserError, import_log
from ad_distill.recorders.openrlhf import record_openrlhf

FILE = """
from ad_distill.recorders.openrlhf import record_openrlhf
def my_reward(queries, prompts, labels, **kwargs):
    return {"rewards": [float(label in q) for q, label in zip(queries, labels)]}
reward_func = record_openrlhf(my_reward, "rollouts")
"""


def load(path):
    "The function in a file, loaded as OpenRLHF loads it."
    spec = importlib.util.spec_from_file_location("reward_func", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reward_func


def rows(folder):
    return [json.loads(line) for p in sorted(folder.iterdir()) for line in p.read_text().splitlines()]


def test_what_a_users_file_writes_is_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reward.py").write_text(FILE)
    reward_func = load(tmp_path / "reward.py")
    for said in (" 5", " 4", " 44"):
        reward_func(["2 + 2 =" + said], ["2 + 2 ="], ["4"])
    store, summary = import_log("jsonl", "rollouts", "store")
    assert len(store) == 1 and summary["rollouts"] == 3
    assert store[0].returns.tolist() == [0, 1, 1]


@pytest.mark.parametrize("value", [np.array([0.5, 1]), [0.5, 1], {"rewards": np.array([[0.5], [1]]), "scores": [0, 0]}])
def test_the_value_is_returned_as_it_came(tmp_path, value):
    reward_func = record_openrlhf(lambda queries, prompts, labels, **kwargs: value, tmp_path)
    assert reward_func(["a b", "a c"], ["a", "a"], ["x", None]) is value
    assert rows(tmp_path) == [
        {"prompt": "a", "response": " b", "reward": 0.5, "label": "x"},
        {"prompt": "a", "response": " c", "reward": 1, "label": None},
    ]


def test_a_query_without_its_prompt_is_one_error_and_writes_nothing(tmp_path):
    reward_func = record_openrlhf(lambda *args: [1], tmp_path / "rollouts")
    with pytest.raises(UserError, match="does not begin with its prompt"):
        reward_func(["b c"], ["a b"], ["x"])
    with pytest.raises(UserError, match="2 rollouts"):
        reward_func(["a", "a"], ["a", "a"], ["x", "x"])
    assert not (tmp_path / "rollouts").exists()


def test_threads_do_not_mix_lines(tmp_path):
    reward_func = record_openrlhf(lambda *args: [1], tmp_path, batch=50)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: reward_func([f"p{i}" + "x" * 9000], [f"p{i}"], [i]), range(200)))
    found = rows(tmp_path)
    assert sorted(r["label"] for r in found) == list(range(200))
    assert [r["step"] for r in found] == [1 + i // 50 for i in range(200)]


@pytest.mark.skipif(os.name != "posix", reason="needs fork and kill -9")
def test_processes_write_files_of_their_own_and_a_kill_keeps_what_was_written(tmp_path):
    program = FILE + (
        "import os, signal, sys\n"
        "reward_func(['p a'], ['p'], ['a'])\n"
        "if os.fork() == 0: reward_func(['p b'], ['p'], ['b'])\n"
        "else: os.wait()\n"
        "assert 'torch' not in sys.modules\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    python(program, cwd=tmp_path, check=False)
    files = sorted((tmp_path / "rollouts").iterdir())
    assert len(files) == 2 and sorted(r["label"] for r in rows(tmp_path / "rollouts")) == ["a", "b"]
