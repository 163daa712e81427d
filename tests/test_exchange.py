"""Stores to Minari and to datasets and back: nothing changes, whichever side it began on; refusals are one line."""

import io
import json
import os
import sys
import warnings
from contextlib import redirect_stderr
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import python, run

from ad_distill.data.minari import _equal, _leaves, _plain_values, from_minari, to_minari
from ad_distill.data.store import Store, StoreWriter
from ad_distill.registry import UserError
from ad_distill.tasks.core import make_task
from ad_distill.trajectory import History, Spaces, Trajectory, versions

minari = pytest.importorskip("minari", reason="Minari is not installed")
pytest.importorskip("h5py", reason="h5py is not installed")
FORMATS = ["hdf5", "arrow"]
S = gym.spaces


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    "Minari's folder is a temporary one, and the hub is out of reach."
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def written(store):
    "The bytes of a store."
    return {p.name: p.read_bytes() for p in store.path.iterdir() if p.is_file()}


def made_store(path, state, action, *, known=True, text=None, task=None, histories=3, empty=False):
    "A store of random histories, the last of them with an empty episode where `empty`."
    rng, spaces = np.random.default_rng(0), Spaces(state, action)
    for s in (state, action):
        s.seed(0)

    def values(space, n):
        if isinstance(space, S.Text):
            return [str(rng.choice(text)) for _ in range(n)]
        return [space.sample() for _ in range(n)]

    with StoreWriter(path, spaces, {"made": "by a test", "n": histories, "task": task}) as writer:
        for i in range(histories):
            episodes = []
            for e in range(4):
                n = 0 if empty and i == histories - 1 and e == 1 else int(rng.integers(1, 7))
                end = np.arange(n) == n - 1
                logprob = (
                    -rng.random(n) if known and i != 1 else np.full(n, np.nan)
                )  # one history whose probabilities nobody knows
                reward = np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n))
                episodes.append(
                    Trajectory(
                        state=values(state, n),
                        action=values(action, n),
                        reward=reward,
                        logprob=logprob,
                        terminated=end & (e % 2 == 0),
                        truncated=end & (e == 1),
                        spaces=spaces,
                    )
                )
            writer.put(
                i,
                History.from_episodes(
                    episodes,
                    task=task or {"name": "t", "params": {"a": [1, 2]}, "instance": i * 7},
                    source={"name": f"s{i % 2}", "params": {"lr": 0.1}},
                    seed=2**40 + i,
                    versions={"x": "1"},
                ),
            )
    return Store.open(path)


CASES = {
    "discrete": dict(state=S.Discrete(300, start=-5), action=S.Discrete(4)),
    "grid": dict(state=S.MultiDiscrete([9, 9]), action=S.Discrete(5), known=False),
    "vector": dict(state=S.Box(-np.inf, np.inf, (3,)), action=S.Box(-1, 1, (2,), np.float64), empty=True),
    "matrix": dict(state=S.Box(0, 255, (40, 36), np.uint8), action=S.MultiDiscrete([[2, 3], [4, 5]]), histories=1),
    "text": dict(
        state=S.Text(9, min_length=0, charset="abé \n😀"),
        action=S.Text(8, min_length=0, charset="abé \n😀"),
        text=["a", "", "é b", "ab\nba", "😀a"],
        task={"name": "t", "instance": [1, "x"]},
    ),
}


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_a_store_returns_from_minari(case, data_format, tmp_path):
    store = made_store(tmp_path / "store", **CASES[case])
    dataset = to_minari(
        store, "some/where-v2", data_format, about={"author": "Ada", "code_permalink": "https://example.org"}
    )
    assert dataset.total_steps == store.n_transitions and dataset.storage.metadata["author"] == {"Ada"}
    assert dataset.id == "some/where-v2" and dataset.storage.FORMAT == data_format
    again = minari.load_dataset("some/where-v2")
    i = 0
    for h in store:
        for e in range(len(h)):
            if not len(h[e]):
                continue
            episode, i = again[i], i + 1
            assert len(episode.observations) == len(h[e]) + 1 and len(episode) == len(h[e])
            assert _equal(episode.rewards, h[e].reward) and _equal(episode.truncations, h[e].truncated)
            assert all(again.observation_space.contains(x) for x in episode.observations)
            assert np.array_equal(np.asarray(episode.observations[-1]), np.asarray(episode.observations[-2])), (
                "the last state is written twice"
            )
            if CASES[case].get("known", True):
                assert _equal(np.asarray(episode.infos["logprob"], np.float32)[:-1], h[e].logprob)
    assert again.total_episodes == i
    assert written(from_minari("some/where-v2", tmp_path / "back")) == written(store)
    assert written(from_minari(dataset, tmp_path / "back2")) == written(store)


def test_what_lies_beside_a_store_travels(tmp_path):
    from ad_distill.data.hub import from_dataset, save_dataset

    store = made_store(tmp_path / "store", **CASES["discrete"])
    (store.path / "tokenizer").mkdir()
    (store.path / "tokenizer" / "vocab.json").write_text("{}")
    (store.path / "prompts.txt").write_text("one\n")
    to_minari(store, str(tmp_path / "there"))
    save_dataset(store, tmp_path / "table")
    for back in (from_minari(tmp_path / "there", tmp_path / "a"), from_dataset(tmp_path / "table", tmp_path / "b")):
        assert written(back) == written(store) and (back.path / "tokenizer" / "vocab.json").read_text() == "{}"


def test_text_with_nul_goes_by_arrow_only(tmp_path):
    store = made_store(tmp_path / "store", S.Text(3), S.Text(3), text=["a\0b", "\0"])
    with pytest.raises(UserError, match="arrow"):
        to_minari(store, "nul-v0")
    assert not (tmp_path / "minari" / "nul-v0").exists()
    to_minari(store, "nul-v0", "arrow")
    assert written(from_minari("nul-v0", tmp_path / "back")) == written(store)


class Door(gym.Env):
    "A composite environment: its observations are a Dict, its actions a Tuple."

    observation_space = S.Dict(
        eye=S.Box(-9, 9, (2,), np.float32),
        door=S.Discrete(3, start=2),
        more=S.Tuple([S.MultiBinary(3), S.Box(-9, 9, (1,), np.float64)]),
    )
    action_space = S.Tuple([S.Discrete(2), S.Box(-1, 1, (2,), np.float32)])

    def _see(self):
        rng = self.np_random
        return dict(
            eye=rng.uniform(-1, 1, 2).astype(np.float32),
            door=np.int64(rng.integers(2, 5)),
            more=(rng.integers(0, 2, 3).astype(np.int8), rng.uniform(-1, 1, 1)),
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._see(), {"t": 0.0}

    def step(self, action):
        self.t += 1
        return self._see(), float(self.np_random.normal()), self.t == 4, False, {"t": float(self.t)}


ENVS = {
    "CartPole-v1": lambda: gym.make("CartPole-v1", max_episode_steps=12),
    "Pendulum-v1": lambda: gym.make("Pendulum-v1", max_episode_steps=8),
    "FrozenLake-v1": lambda: gym.make("FrozenLake-v1"),
    "Blackjack-v1": lambda: gym.make("Blackjack-v1"),
    "Door": Door,
}


def steps_of(env, seed):
    "One episode of random actions: observations, actions, rewards, terminations, truncations, clock."
    got, done = ([env.reset(seed=seed)[0]], [], [], [], [], [0.0]), False
    while not done:
        action = env.action_space.sample()
        observation, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        for column, x in zip(got, (observation, action, reward, terminated, truncated, float(len(got[1]) + 1))):
            column.append(x)
    return got


def columns(space, rows):
    "A list of values as Minari takes them: nested as the space is, lists at the ends."
    if isinstance(space, S.Dict):
        return {k: columns(s, [r[k] for r in rows]) for k, s in space.spaces.items()}
    if isinstance(space, S.Tuple):
        return tuple(columns(s, [r[i] for r in rows]) for i, s in enumerate(space.spaces))
    return rows


def at(space, x, t):
    "Step t of values as Minari gives them."
    if isinstance(space, S.Dict):
        return {k: at(s, x[k], t) for k, s in space.spaces.items()}
    return tuple(at(s, x[i], t) for i, s in enumerate(space.spaces)) if isinstance(space, S.Tuple) else x[t]


def by_buffers(env, name, data_format, infos):
    "A dataset that Minari makes of episodes."
    from minari.data_collector import EpisodeBuffer

    buffers = []
    for seed in range(5):
        o, a, r, e, c, clock = steps_of(env, seed)
        about = dict(
            infos={"clock": clock, "deep": {"er": [np.array([x, -x]) for x in clock]}}
            if infos and data_format == "hdf5"
            else {"clock": clock}
            if infos
            else None
        )
        buffers.append(
            EpisodeBuffer(
                seed=seed + 2**63,
                options={"easy": True, "at": {"x": 1}},
                observations=columns(env.observation_space, o),
                actions=columns(env.action_space, a),
                rewards=r,
                terminations=e,
                truncations=c,
                **about,
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return minari.create_dataset_from_buffers(
            name, buffers, env=env, algorithm_name="chance", author={"Ada", "Bob"}, data_format=data_format
        )


def by_collector(env, name, data_format, infos):
    "A dataset that Minari's own collector records."
    collector = minari.DataCollector(env, record_infos=infos, data_format=data_format)
    for seed in range(5):
        steps_of(collector, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return collector.create_dataset(
            name,
            algorithm_name="chance",
            author="Ada",
            author_email="ada@example.org",
            description="random",
            requirements=["gymnasium>=1"],
        )


def assert_equal_datasets(a, b):
    "Every array of every episode, and all metadata but name, size on disk and back end."
    parts = ("observations", "actions", "rewards", "terminations", "truncations", "infos")
    assert len(a) == len(b)
    for x, y in zip(a, b):
        x, y = (_leaves({k: getattr(e, k) for k in parts if getattr(e, k) is not None}) for e in (x, y))
        assert x.keys() == y.keys()
        for k in x:
            assert _equal(x[k], y[k]), k
    about = lambda d: [_plain_values(m) for m in d.storage.get_episode_metadata(d.episode_indices)]
    assert about(a) == about(b)
    rest = lambda d: {
        k: v
        for k, v in d.storage.metadata.items()
        if k not in ("dataset_id", "dataset_size", "jpeg_encoding", "data_format")
    }
    assert rest(a) == rest(b)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("record", [by_buffers, by_collector])
def test_a_dataset_of_minari_returns_from_a_store(record, env, data_format, tmp_path):
    if record is by_collector:
        pytest.importorskip("jax", reason="Minari's collector needs jax, which is not installed")
    made = ENVS[env]()
    made.action_space.seed(0)
    theirs = record(made, "some/data-v0", data_format, infos=env in ("Pendulum-v1", "Door"))
    store = from_minari("some/data-v0", tmp_path / "store")
    assert len(store) == 1 and store.n_transitions == theirs.total_steps and np.isnan(store[0].columns["logprob"]).all()
    space = made.observation_space
    assert store[0].source["name"] == "chance"
    name = store.info["task"]["name"]
    if env == "Door":  # registered nowhere: the dataset's own spaces
        assert name == "minari" and store.spaces.state == S.flatten_space(space)
    else:
        assert store.spaces == make_task(name, **store.info["task"]["params"]).spaces
    for i, episode in enumerate(theirs):
        ours = store[0][i]
        expected = [at(space, episode.observations, t) for t in range(len(episode))]
        assert np.array_equal(ours.state, [S.flatten(space, x) for x in expected] if env == "Door" else expected)
        assert (
            np.array_equal(ours.reward, episode.rewards.astype(np.float32))
            and np.array_equal(ours.terminated, episode.terminations)
            and np.array_equal(ours.truncated, episode.truncations)
        )
    for other in FORMATS:
        again = to_minari(store, f"some/{other}-v1", other)
        assert again.storage.FORMAT == other
        assert_equal_datasets(theirs, again)
        back = written(from_minari(again, tmp_path / other))
        for name in ("transitions.arrow", "minari.npz"):
            assert back[name] == written(store)[name], name


@pytest.mark.parametrize("named", [True, False])
def test_a_model_learns_from_a_dataset_of_minari(named, tmp_path, monkeypatch):
    "From somebody else's episodes to a model that acts, by commands alone."
    monkeypatch.chdir(tmp_path)
    env = (
        gym.make("CartPole-v1", max_episode_steps=12)
        if named
        else gym.wrappers.TimeLimit(gym.make("CartPole-v1").unwrapped.__class__(), 12)
    )
    env.action_space.seed(0)
    by_buffers(env, "cart/pole-v0", "hdf5", False)
    train = "train store --steps 2 --episodes 2 --stride 1 -s width 16 -s layers 1 -s heads 1 --out model".split()
    if named:
        assert command("import", "minari", "cart/pole-v0", "--out", "store")[0] == 0
    else:
        assert command("import", "minari", "cart/pole-v0", "--out", "nameless")[0] == 0
        code, _, err = command("train", "nameless", *train[2:])
        assert code == 2 and "-s env ID" in err and err.count("\n") == 1
        assert command("import", "minari", "cart/pole-v0", "-s", "env", "CartPole-v1", "--out", "store")[0] == 0
    task = Store.open("store").info["task"]
    assert task == {"name": "gym:CartPole-v1", "params": {"max_steps": 12} if named else {}}
    code, _, err = command(*train)
    assert code == 0, err
    code, said, err = command(
        "evaluate", "model", "--episodes", "2", "--instances", "3", "--out", "played.csv", "--json"
    )
    assert code == 0 and json.loads(said)["task"] == "gym:CartPole-v1", err
    for wrong, says in (
        (
            ["-s", "env", "Pendulum-v1"] if named else ["-s", "evn", "CartPole-v1"],
            "does not fit env Pendulum-v1: its observations" if named else "-s evn",
        ),
    ):
        code, said, err = command("import", "minari", "cart/pole-v0", *wrong, "--out", "x")
        assert code == 2 and says in err and err.count("\n") == 1 and not (tmp_path / "x").exists(), err


class Walk(gym.Env):
    "Takes any action and says its clock in any space."

    def __init__(self, state, action):
        self.observation_space, self.action_space = state, action

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        return self.observation_space.sample(), float(self.t), False, self.t == 5, {}


DOUBLE = S.Box(-1, 1, (2,), np.float64)
GOAL = S.Dict(achieved_goal=DOUBLE, desired_goal=DOUBLE, observation=S.Box(-9, 9, (3,), np.float64))
KINDS = {  # states and actions of public datasets, and others that a task writes in numbers
    "goal": (GOAL, S.Box(-1, 1, (2,), np.float32)),  # Farama Minari #271: PointMaze and Fetch
    "mission": (S.Dict(image=S.Box(0, 255, (2, 2, 3), np.uint8), word=S.Text(3)), S.Discrete(7)),  # Farama Minari #131
    "pair": (S.Tuple([S.Discrete(3, start=2), S.MultiBinary(2)]), S.Discrete(2)),  # Farama Minari #108
    "double": (DOUBLE, DOUBLE),  # Farama Minari #276: MuJoCo
    "table": (S.Box(-1, 1, (2, 3), np.float32), S.Box(-1, 1, (2, 2), np.float32)),
    "from_minus_one": (DOUBLE, S.Discrete(3, start=-1)),  # stable-baselines3 #1841
    "from_one": (S.Discrete(4, start=1), S.Discrete(3, start=1)),  # stable-baselines3 #2241
    "choices": (S.MultiDiscrete([3, 2], start=[1, 0]), S.MultiDiscrete([2, 3], start=[0, 5])),
    "switches": (S.MultiBinary((2, 2)), S.MultiBinary(3)),
}
for _name, _spaces in KINDS.items():
    gym.register(f"Walk-{_name}-v0", entry_point=Walk, kwargs=dict(zip(("state", "action"), _spaces)))


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_dataset_is_held_as_its_task_holds_it(kind, data_format, tmp_path):
    "Spaces are those of the task, states and actions are those that its environment writes and takes; nothing is lost."
    env = gym.make(f"Walk-{kind}-v0")
    env.action_space.seed(0)
    bare = Walk(*KINDS[kind])
    bare.action_space.seed(0)
    theirs = by_buffers(bare, "walk/named-v0", data_format, False)
    store = from_minari("walk/named-v0", tmp_path / "store", env=f"Walk-{kind}-v0")
    task = make_task(f"gym:Walk-{kind}-v0")
    assert store.spaces == task.spaces
    task.check_store(store)
    for i, episode in enumerate(theirs):
        for t, (state, action, *_) in enumerate(store[0][i]):
            assert np.array_equal(state, task.first._write(at(env.observation_space, episode.observations, t)))
            took, meant = task.first._action(action), at(env.action_space, episode.actions, t)
            assert np.allclose(took, meant, atol=1e-7) and bare.action_space.contains(took)
    again = to_minari(store, "walk/again-v0", data_format)
    assert_equal_datasets(theirs, again)


def test_a_store_of_other_spaces_is_not_trained_on(tmp_path, monkeypatch):
    "What was imported before spaces were compared: its actions count from 1, those of the task from 0."
    from ad_distill import evaluate
    from ad_distill.models.rl import RLConfig, RLModel

    monkeypatch.chdir(tmp_path)
    task = {"name": "gym:Walk-from_one-v0", "params": {}}
    made_store(tmp_path / "old", *KINDS["from_one"], known=False, task=task)
    fits = make_task("gym:Walk-from_one-v0").spaces
    made_store(tmp_path / "right", fits.state, fits.action, known=False, task=task)
    make_task(task["name"]).check_store(Store.open("right"))
    code, said, err = command("train", "old", "--model", "rl", "--out", "m")
    assert code == 2 and "has the states Discrete(4, start=1)" in err and err.count("\n") == 1, err
    model = RLModel(RLConfig(Store.open("old").spaces, width=16, layers=1, heads=1))
    with pytest.raises(UserError, match="the model does not fit"):
        evaluate(model, make_task(task["name"]), 2)


def short(path, part="observations", n=-1):
    "Cut a part of episode 1."
    import h5py

    with h5py.File(path / "data" / "main_data.hdf5", "a") as f:
        g = f["episode_1"]
        x = g[part][:n]
        del g[part]
        g[part] = x


def drop(path, part="episode_1/rewards"):
    import h5py

    with h5py.File(path / "data" / "main_data.hdf5", "a") as f:
        del f[part]


def cut_file(path):
    p = path / "data" / "main_data.hdf5"
    p.write_bytes(p.read_bytes()[:-3000])


def no_json(path):
    (path / "data" / "metadata.json").write_text('{"total_episodes": 5')


DAMAGES = {  # Farama Minari #199, #204
    "an observation too few": (short, "episode 1: observations has length"),
    "an action too few": (lambda path: short(path, "actions"), "episode 1: actions has length"),
    "no rewards": (drop, "episode 1: KeyError"),
    "no episode": (lambda path: drop(path, "episode_1"), "episode 1: KeyError"),
    "half a file": (cut_file, "OSError"),
    "half a json": (no_json, "JSONDecodeError"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line(damage, tmp_path):
    env = gym.make("CartPole-v1", max_episode_steps=5)
    by_buffers(env, "cart/broken-v0", "hdf5", False)
    change, says = DAMAGES[damage]
    change(tmp_path / "minari" / "cart" / "broken-v0")
    code, said, err = command("import", "minari", "cart/broken-v0", "--out", tmp_path / "x", "-q")
    assert code == 2 and says in err and err.count("\n") == 1 and not (tmp_path / "x").exists(), err
    if "half" in damage:
        return
    code, said, err = command("import", "minari", "cart/broken-v0", "--out", tmp_path / "x", "-q", "--skip-bad")
    assert code == 0 and says in err and err.startswith("left out: ") and err.count("\n") == 1, err
    store = Store.open(tmp_path / "x")
    assert len(store[0]) == 4 and to_minari(store, "cart/mended-v0").total_episodes == 4


@pytest.mark.parametrize("data_format", FORMATS)
def test_any_provenance_is_exported(data_format, tmp_path):
    "What JSON holds and an attribute of HDF5 does not."
    spaces = Spaces(S.Discrete(2), S.Discrete(2))
    columns = dict(state=[0, 1], action=[1, 0], reward=[0.0, 1.0], logprob=[-1.0, -1.0])
    columns |= dict(terminated=[False, True], truncated=[False, False])
    with StoreWriter(tmp_path / "store", spaces, {}) as writer:
        for i, name in enumerate((None, ["a"], "a", {"b": 1})):
            task, source = {"name": name, "instance": 2**70}, {"name": name}
            writer.put(i, History(columns, np.array([2], np.int32), spaces, task, source, 2**70, {}))
    store = Store.open(tmp_path / "store")
    to_minari(store, "any/where-v0", data_format)
    assert written(from_minari("any/where-v0", tmp_path / "back")) == written(store)


def one_file_less(folder):
    next(folder.glob("*.arrow")).unlink()


def one_file_more(folder):
    (folder / "part-9.arrow").write_bytes(next(folder.glob("*.arrow")).read_bytes())


@pytest.mark.parametrize("change", [one_file_less, one_file_more])
def test_a_folder_of_rows_is_one_episode(change, tmp_path):
    "All episodes have the same length: no count of steps says which one is damaged."
    by_buffers(gym.make("Pendulum-v1", max_episode_steps=4), "rows/five-v0", "arrow", False)
    whole = from_minari("rows/five-v0", tmp_path / "whole")[0]
    change(tmp_path / "minari" / "rows" / "five-v0" / "data" / "1")
    with pytest.raises(UserError, match="episode 1: .* files with steps"):
        from_minari("rows/five-v0", tmp_path / "x")
    notes = []
    left = from_minari("rows/five-v0", tmp_path / "left", skip_bad=True, notes=notes)
    assert len(notes) == 1 and [left[0][i] for i in range(len(left[0]))] == [whole[i] for i in (0, 2, 3, 4)]
    assert [e["metadata"]["id"] for e in json.loads((left.path / "minari.json").read_text())["episodes"]] == [
        0,
        2,
        3,
        4,
    ]


def test_a_made_up_space_fills_no_memory(tmp_path):
    dataset = by_buffers(Door(), "some/door-v0", "hdf5", False)
    path = dataset.storage.data_path / "metadata.json"
    about = json.loads(path.read_text())
    space = json.loads(about["action_space"])
    space["subspaces"][0]["n"] = 10**12
    path.write_text(json.dumps({**about, "action_space": json.dumps(space)}))
    with pytest.raises(UserError, match="vector of 1,000,000,000,002 numbers") as e:
        from_minari("some/door-v0", tmp_path / "x")
    assert "\n" not in str(e.value)


def gone():
    return Walk(DOUBLE, S.Discrete(3, start=1))


def test_an_environment_that_is_not_here(tmp_path, monkeypatch):
    "A dataset that names what is not installed is kept in its own spaces, and may be told what it is."
    monkeypatch.chdir(tmp_path)
    gym.register("Gone-v0", entry_point=f"{__name__}:gone")
    by_buffers(gym.make("Gone-v0"), "walk/gone-v0", "hdf5", False)
    del gym.registry["Gone-v0"]
    code, said, err = command("import", "minari", "walk/gone-v0", "--out", "own", "-q")
    assert code == 0 and "-s env MODULE:ID" in err and err.count("\n") == 1, err
    assert Store.open("own").spaces.action.start == 1
    code, said, err = command("train", "own", "--out", "m")
    assert code == 2 and err.count("\n") == 1, err
    gym.register("Here-v0", entry_point=gone)
    code, said, err = command("import", "minari", "walk/gone-v0", "-s", "env", "Here-v0", "--out", "told", "-q")
    assert (code, err) == (0, "") and Store.open("told").spaces == make_task("gym:Here-v0").spaces
    del gym.registry["Here-v0"]


def test_tables_are_shown_and_empty_episodes_exported(tmp_path):
    store = made_store(tmp_path / "tables", S.Box(-1, 1, (2, 2)), S.Box(-1, 1, (1, 2)), known=False, empty=True)
    code, said, err = command("show", store.path, "--history", 2)
    assert code == 0 and "episode 3" in said and "Traceback" not in err
    by_buffers(gym.make("CartPole-v1", max_episode_steps=5), "cart/empty-v0", "hdf5", False)
    for part in ("actions", "rewards", "terminations", "truncations"):
        short(tmp_path / "minari" / "cart" / "empty-v0", part, 0)
    short(tmp_path / "minari" / "cart" / "empty-v0", "observations", 1)
    import h5py

    with h5py.File(tmp_path / "minari" / "cart" / "empty-v0" / "data" / "main_data.hdf5", "a") as f:
        f["episode_1"].attrs["total_steps"] = 0
    with pytest.raises(UserError, match="25 steps, and 20 came"):
        from_minari("cart/empty-v0", tmp_path / "store")
    about = tmp_path / "minari" / "cart" / "empty-v0" / "data" / "metadata.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "total_steps": 20}))
    store = from_minari("cart/empty-v0", tmp_path / "store")
    assert store[0].lengths.tolist() == [5, 0, 5, 5, 5] and to_minari(store, "cart/back-v0").total_episodes == 4


def test_who_names_a_file_runs_no_code(tmp_path):
    "A dataset that says nothing of its spaces would have Minari make the environment that it names."
    store = made_store(tmp_path / "store", **CASES["discrete"])
    to_minari(store, str(tmp_path / "there"))
    path = tmp_path / "there" / "data" / "metadata.json"
    d = json.loads(path.read_text())
    d["env_spec"] = json.dumps(dict(id="X-v0", entry_point="os:getcwd"))
    del d["action_space"]
    path.write_text(json.dumps(d))
    with pytest.raises(UserError, match="action space"):
        from_minari(tmp_path / "there", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_part_of_a_store_is_refused(tmp_path):
    store = made_store(tmp_path / "store", **CASES["discrete"])
    dataset = to_minari(store, "whole-v0")
    part = dataset.filter_episodes(lambda e: e.id != 5)
    with pytest.raises(UserError, match="lacks episode 1 of history 1"):
        from_minari(part, tmp_path / "back")
    with pytest.raises(UserError, match="exists already"):
        from_minari(dataset, store.path)
    with pytest.raises(UserError, match="exists already"):
        to_minari(store, "whole-v0")
    with pytest.raises(UserError, match="did you mean arrow"):
        to_minari(store, "other-v0", "arow")
    with pytest.raises(UserError, match="is no dataset of Minari"):
        from_minari("other-v0", tmp_path / "back")
    assert written(from_minari("whole-v0", tmp_path / "back")) == written(store)
    assert sorted(p.name for p in (tmp_path / "minari").iterdir()) == ["whole-v0"] and not [
        p for p in tmp_path.iterdir() if "unfinished" in p.name
    ]


def test_damaged_datasets_are_read_rightly_or_refused(tmp_path):
    "A small part of the campaign that is run by hand."
    program = Path(__file__).parent / "campaigns/minari_datasets.py"
    res = run(sys.executable, program, "--seed", "1", "--count", "100", cwd=tmp_path, check=False)
    assert res.returncode == 0, res.stdout + res.stderr
    right = int(res.stdout.split("right ")[1].split(",")[0])
    assert right > 10, res.stdout


# ---- datasets


@pytest.mark.parametrize("case", CASES)
def test_a_store_returns_from_a_table(case, tmp_path):
    from datasets import Dataset, load_from_disk
    from ad_distill.data.hub import from_dataset, save_dataset

    store = made_store(tmp_path / "store", **CASES[case])
    table = save_dataset(store, tmp_path / "table")
    assert len(table) == len(store.episode_lengths)
    if len(store) > 1:
        row, episode = table[5], store[1][1]
        assert (
            (row["history"], row["episode"], row["seed"]) == (1, 1, 2**40 + 1)
            and row["truncated"]
            and not row["terminated"]
        )
        assert row["instance"] == (7 if case != "text" else None) and np.array_equal(
            np.array(row["state"], episode.state.dtype), episode.state
        )
    table.to_parquet(str(tmp_path / "t.parquet"))  # what a hub keeps
    parquet = Dataset.from_parquet(str(tmp_path / "t.parquet"), cache_dir=str(tmp_path / "cache"))
    for i, source in enumerate((tmp_path / "table", load_from_disk(str(tmp_path / "table")).shuffle(seed=1), parquet)):
        assert written(from_dataset(source, tmp_path / f"back{i}")) == written(store)


def test_a_table_that_is_not_whole_is_refused(tmp_path):
    from datasets import DatasetDict
    from ad_distill.data.hub import from_dataset, push_dataset, save_dataset

    store = made_store(tmp_path / "store", **CASES["grid"])
    table = save_dataset(store, tmp_path / "table")
    for part, says in (
        (table.select(range(11)), "all episodes of history 2"),
        (table.filter(lambda r: r["history"] < 2), "2 of 3 histories"),
        (table.select([1, 2]), "first episode"),
        (table.select([0, *range(12)]), "history 0"),
        (table.remove_columns("state"), "state"),
        (DatasetDict(a=table, b=table), "splits a, b"),
        (tmp_path / "none", "folder"),
        ("hub:nobody/nothing", "nobody/nothing"),
    ):
        with pytest.raises(UserError, match=says) as e:
            from_dataset(part, tmp_path / "back")
        assert "\n" not in str(e.value)
    assert not (tmp_path / "back").exists()
    assert written(from_dataset(DatasetDict(train=table), tmp_path / "back")) == written(store)
    with pytest.raises(UserError, match="nobody/nothing") as e:
        push_dataset(store, "nobody/nothing", token="hf_x")
    assert "\n" not in str(e.value)
    empty = History(
        dict.fromkeys(("state", "action", "reward", "logprob", "terminated", "truncated"), ()),
        np.zeros(0, np.int32),
        store.spaces,
        {"name": "t"},
        {"name": "s"},
        0,
        versions(),
    )
    with StoreWriter(tmp_path / "empty", store.spaces) as writer:
        writer.put(0, empty)
    with pytest.raises(UserError, match="no episode"):
        save_dataset(Store.open(tmp_path / "empty"), tmp_path / "t2")


def test_a_damaged_table_is_refused_in_one_line(tmp_path):
    from ad_distill.data.hub import from_dataset, save_dataset

    table = save_dataset(made_store(tmp_path / "store", **CASES["grid"]), tmp_path / "table")

    def with_column(name, change):
        return table.remove_columns(name).add_column(name, [change(x) for x in table[name]])

    def about(change):
        return with_column("about", lambda text: json.dumps(change(json.loads(text))) if text else "")

    damaged = {
        "no json": with_column("about", lambda text: text[:20]),
        "no store": about(lambda d: {k: v for k, v in d.items() if k != "store"}),
        "no source": about(lambda d: {k: v for k, v in d.items() if k != "source"}),
        "other spaces": about(lambda d: {**d, "store": {"spaces": {"state": 7}, "histories": 3, "info": {}}}),
        "a list": about(lambda d: [d]),
        "null": with_column("reward", lambda x: None),
        "text for numbers": with_column("state", lambda x: ["a"] * len(x)),
        "a number for a list": with_column("action", len),
        "text for a number": with_column("history", str),
        "too few actions": with_column("action", lambda x: x[1:]),
        "too deep": with_column("state", lambda x: [[y] for y in x]),
    }
    for what, rows in damaged.items():
        with pytest.raises(UserError) as e:
            from_dataset(rows, tmp_path / "back")
        assert "\n" not in str(e.value) and not (tmp_path / "back").exists(), what


# ---- the command line


def command(*args):
    "Exit code, stdout and stderr of a command, run here."
    from ad_distill.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    stdout, sys.stdout = sys.stdout, out
    try:
        with redirect_stderr(err):
            main([str(a) for a in args])
    except SystemExit as e:
        code = e.code
    finally:
        sys.stdout = stdout
    return code, out.getvalue(), err.getvalue()


def test_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = made_store(tmp_path / "store", **CASES["discrete"])
    for to, out, more in (
        ("minari", "by/hand-v0", ["--format", "arrow"]),
        ("minari", "folder", []),
        ("datasets", "table", []),
    ):
        code, said, err = command("export", "store", "--to", to, "--out", out, "--json", *more)
        assert (code, err) == (0, "") and json.loads(said)["transitions"] == store.n_transitions
        code, said, err = command("import", to, out, "--out", f"back_{to}_{out.replace('/', '_')}")
        assert (code, err) == (0, "") and "3 histories" in said
        assert written(Store.open(f"back_{to}_{out.replace('/', '_')}")) == written(store)
    assert (tmp_path / "minari" / "by" / "hand-v0" / "data").is_dir()
    for args, says in (
        (("export", "store", "--to", "minari", "--out", "by/hand-v0"), "exists already"),
        (("export", "none", "--to", "minari", "--out", "x-v0"), "none is not a store"),
        (("export", "store", "--to", "parquet", "--out", "x"), "parquet"),
        (("export", "store", "--to", "datasets", "--out", "hub:nobody/nothing"), "nobody/nothing"),
        (("import", "minari", "none-v0", "--out", "x"), "none-v0"),
        (("import", "datasets", "none", "--out", "x"), "none"),
        (("import", "minari", "by/hand-v0", "--reward", "vader", "--out", "x"), "--reward"),
        (("import", "minari", "by/hand-v0", "-s", "env", "CartPole-v1", "--out", "x"), "leave out env"),
        (("import", "datasets", "table", "-s", "env", "CartPole-v1", "--out", "x"), "-s env"),
    ):
        code, said, err = command(*args)
        assert code == 2 and not said and err.startswith("ad_distill: ") and err.count("\n") == 1 and says in err, err
    assert not (tmp_path / "x").exists()


def test_without_minari(tmp_path):
    "One clear line where the package is missing, and nothing of it is imported before."
    made_store(tmp_path / "store", **CASES["discrete"])
    code = """
import sys
sys.modules["minari"] = None
import ad_distill.data.minari, ad_distill.data.hub
assert not {"h5py", "datasets", "pandas", "torch"} & set(sys.modules)
from ad_distill.cli.main import main
main(["export", "store", "--to", "minari", "--out", "x-v0"])
"""
    res = run(sys.executable, "-c", code, cwd=tmp_path, check=False)
    assert (
        res.returncode == 2
        and res.stderr.strip() == "ad_distill: this needs the package minari: pip install 'ad_distill[minari]'"
    ), res.stderr
    assert python(
        "import ad_distill.cli.main, sys; assert 'minari' not in sys.modules and 'ray' not in sys.modules",
        cwd=tmp_path,
        PATH=os.environ["PATH"],
    )


@pytest.mark.parametrize("case", CASES)
def test_a_folder_for_the_hub_holds_the_same(case, tmp_path):
    import yaml
    from datasets import load_dataset
    from ad_distill.data.hub import export_dataset, from_dataset

    store = made_store(tmp_path / "store", **CASES[case])
    (store.path / "tokenizer").mkdir()
    (store.path / "tokenizer" / "vocab.txt").write_text("a\n")
    folder = export_dataset(store, tmp_path / "folder", license="mit")
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "mit" and ("language" in head) == (case == "text")
    assert all(f"## {title}" in card for title in ("How they were made", "Columns", "License", "Limits"))
    assert str(tmp_path) not in card
    back = from_dataset(folder, tmp_path / "back")
    assert written(back) == written(store) and (back.path / "tokenizer" / "vocab.txt").read_text() == "a\n"
    as_the_hub_reads = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert written(from_dataset(as_the_hub_reads, tmp_path / "hub")) == written(store)
    with pytest.raises(UserError, match="expected an identifier"):
        export_dataset(store, tmp_path / "x", license="mit\nbad: yes")
