"""Every kind of action space the whole way, in both families; and environments of other people, as they come."""

import json
import random
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from ad_distill import (
    Strided,
    UserError,
    Windows,
    distill,
    evaluate,
    generate,
    load_model,
    make_serializer,
    make_source,
)
from ad_distill import make_task
from ad_distill.cli.show import show_history, show_store
from ad_distill.data.hub import from_dataset, save_dataset
from ad_distill.data.minari import from_minari, to_minari
from ad_distill.models.rl import ValueEmbedding, ValueHead
from ad_distill.sources.sb3 import Recorder
from ad_distill.tasks.core import RandomAgent, rollout, state_index
from ad_distill.tasks.numbers import OwnGenerators
from ad_distill.trajectory import Spaces

sys.modules["zoo"] = sys.modules[__name__]  # `gym:zoo:NAME` finds the environments below
MOST = np.finfo(np.float32).max
INF = np.inf
ZOO = {  # DI-engine #327: any Box; Gymnasium #907: starts other than 0
    "discrete": Discrete(3),
    "discrete_1": Discrete(3, start=1),
    "discrete_minus_1": Discrete(3, start=-1),
    "multidiscrete": MultiDiscrete([3, 2]),
    "multidiscrete_start": MultiDiscrete([3, 2], start=[-1, 5]),
    "multidiscrete_matrix": MultiDiscrete([[3, 2], [1, 2]]),
    "multibinary": MultiBinary(3),
    "multibinary_matrix": MultiBinary((2, 2)),
    "box": Box(-2, 2, (1,)),
    "box_wide": Box(np.float32([-1, 0, 5]), np.float32([1, 10, 6])),
    "box_float64": Box(-0.1, 0.1, (2,), np.float64),
    "box_float16": Box(-1, 1, (2,), np.float16),
    "box_number": Box(-1, 1, ()),
    "box_matrix": Box(-1, 1, (2, 2)),
    "box_unbounded": Box(-INF, INF, (2,)),
    "box_from_below": Box(0, INF, (2,)),
    "box_from_above": Box(-INF, 0, (2,)),
    "box_mixed": Box(np.float32([-1, 0, -INF, -INF]), np.float32([1, INF, 0, INF])),
    "box_point": Box(2, 2, (2,)),  # stable-baselines3 #1725
    "box_half_point": Box(np.float32([2, -1]), np.float32([2, 1])),
    "box_all_of_float32": Box(-MOST, MOST, (1,)),  # stable-baselines3 #869
}
REFUSED = {
    "dict": Dict(a=Discrete(2)),
    "tuple": Tuple([Discrete(2), Discrete(2)]),
    "text": Text(4),
    "box_int": Box(0, 3, (2,), np.int64),
    "too_many": MultiDiscrete([40, 40]),
}


class Animal(gym.Env):
    "Three steps; it takes nothing but what its space has."

    observation_space = Box(-9, 9, (2,), np.float32)

    def __init__(self, kind="box"):
        self.action_space = (ZOO | REFUSED)[kind]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.see(), {}

    def see(self):
        return np.float32([self.t, self.np_random.random()])

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        return self.see(), float(self.t), self.t == 3, False, {}


def animal(kind):
    return make_task("gym:zoo:Animal", kwargs=json.dumps({"kind": kind}), variants=8, random_steps=6)


@pytest.mark.parametrize("kind", ZOO)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_every_kind_of_action_goes_the_whole_way(kind, tmp_path):
    task, source = animal(kind), make_source("random")
    store = generate(task, source, tmp_path / "s", 2, 4)
    logprob, space = store[0].columns["logprob"], task.spaces.action
    known = isinstance(space, Discrete) or space.is_bounded()
    assert np.isfinite(logprob).all() if known else np.isnan(logprob).all()
    small = {"width": 8, "heads": 1, "layers": 1}
    for family, reads in (("rl", None), ("lm", make_serializer("bins", task.spaces))):
        out = tmp_path / family
        made = dict(training={"max_steps": 2}, model=small, progress=False, probe=False, serializer=reads)
        distill(task, store, out, Windows(2, Strided(1)), **made)
        if kind == "box_all_of_float32" and family == "rl":  # squares of 1e38 are no float32
            with pytest.raises(UserError, match="rescale the actions"):
                evaluate(load_model(out), task, 2, n_instances=1, streams=2, progress=False)
            continue
        table = evaluate(load_model(out), task, 2, n_instances=1, streams=2, progress=False)
        assert len(table) == 4 and np.isfinite(table["return"]).all()


@pytest.mark.parametrize("kind", ZOO)
def test_every_kind_is_shown_and_exchanged(kind, tmp_path, capsys):
    store = generate(animal(kind), make_source("random"), tmp_path / "s", 2, 3, progress=False)
    show_history(store, 1, "0:2", False)
    assert "episode 1: 3 transitions" in capsys.readouterr().out
    save_dataset(store, tmp_path / "table")
    to_minari(store, str(tmp_path / "minari"), progress=False)
    for back in (
        from_dataset(str(tmp_path / "table"), tmp_path / "a"),
        from_minari(tmp_path / "minari", tmp_path / "b"),
    ):
        assert list(back) == list(store) and back.spaces == store.spaces and back.info == store.info


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_model_acts_in_is_refused_in_a_line(kind):
    with pytest.raises(UserError, match="^actions of ") as e:
        animal(kind)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", ["box_from_below", "box_mixed", "box_half_point", "box_wide"])
def test_mirrored_actions_arrive(kind):
    task, space = animal(kind), ZOO[kind]
    assert task.n_instances >= 2 and "actions" in task.variations or kind == "box_from_below"
    for i in range(task.n_instances):
        env = task.render_env(i, None)
        env.reset(seed=0)
        got = []
        env.unwrapped.step = lambda a: (got.append(a), (np.zeros(2, np.float32), 0.0, False, False, {}))[1]
        low, high = np.maximum(space.low, -3), np.minimum(space.high, 3 + space.low.clip(0))
        for a in (low, high):
            env.step(a.astype(np.float32))
        inner = low < high
        assert np.abs(got[0] - got[1])[inner] == pytest.approx((high - low)[inner], rel=1e-6), got


def test_numbers_of_a_multidiscrete_with_a_start_are_told_apart():
    space = MultiDiscrete([3, 2], start=[-1, 5])
    embed, head = ValueEmbedding(space, 8), ValueHead(space, 8)
    all_states = torch.tensor([[a, b] for a in (-1, 0, 1) for b in (5, 6)])
    vectors = embed(all_states[None])[0]
    assert len(torch.unique(vectors, dim=0)) == 6
    params = head(vectors)
    assert torch.allclose(head.log_prob(params, all_states).exp(), torch.tensor(1 / 6))
    assert (head.mode(params) == torch.tensor([-1, 5])).all()
    assert state_index(all_states.numpy(), space).tolist() == list(range(6))
    matrix = MultiDiscrete([[3, 2], [2, 2]], start=[[1, 0], [0, 0]])
    value = torch.tensor([[[[3, 1], [1, 1]]]])
    assert ValueEmbedding(matrix, 8)(value).shape == (1, 1, 8)
    assert ValueHead(matrix, 8).mode(torch.zeros(1, 9)).shape == (1, 2, 2)


# other people's code


class Old(Animal):
    "Of before 2022 (Gymnasium #907)."

    def __init__(self):
        super().__init__("discrete")

    def reset(self):
        return super().reset()[0]


class Four(Animal):
    def step(self, action):
        state, reward, over, _, info = super().step(action)
        return state, reward, over, info


class Bare(Animal):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class Odd(Animal):
    "States and rewards as told."

    def __init__(self, state=None, reward=1.0, at=1):
        super().__init__("discrete")
        self.state, self.reward, self.at = state, reward, at

    def step(self, action):
        state, reward, *rest = super().step(action)
        if self.t != self.at:
            return state, reward, *rest
        reward = float(self.reward) if isinstance(self.reward, str) else self.reward
        return (state if self.state is None else np.float32(self.state)), reward, *rest


@pytest.mark.parametrize("name, said", [("Old", "reset failed"), ("Four", "step failed"), ("Bare", "reset gave")])
def test_an_old_interface_is_named(name, said):
    with pytest.raises(UserError, match=f"environment zoo.{name}-v0: {said}.* must give .*0.26") as e:
        make_task(f"gym:zoo:{name}").n_instances
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "odd, said",
    [
        ({"state": [1, 2, 3]}, r"of shape \(3,\)"),  # Gymnasium #1179
        ({"state": [[1, 2]]}, r"of shape \(1, 2\)"),
        ({"reward": None}, "a reward came as None"),
        ({"reward": "nan"}, "a reward came as nan"),
        ({"reward": "inf"}, "a reward came as inf"),
        ({"reward": [1, 2]}, r"a reward came as \[1, 2\]"),
        ({"state": [1, 2, 3], "at": 3}, r"of shape \(3,\)"),  # in a later step
        ({"state": ["nan", 0], "at": 2}, "which is not finite"),  # stable-baselines3 #1401: NaN under PPO
    ],
)
@pytest.mark.parametrize("source", ["random", "ppo"])
def test_what_does_not_fit_is_refused_where_it_comes(odd, said, source, tmp_path):
    with pytest.raises(UserError, match=f"environment zoo.Odd-v0: .*{said}"):
        task = make_task("gym:zoo:Odd", kwargs=json.dumps(odd))
        generate(task, make_source(source), tmp_path / "s", 1, 2)


class Global(Animal):
    "Draws from what all code shares (boptest-gym #121)."

    def see(self):
        return np.float32([random.random(), np.random.randn()])

    def reset(self, *, seed=None, options=None):  # does not pass its seed on
        self.t = 0
        return self.see(), {}

    def step(self, action):
        state, _, *rest = super().step(action)
        return state, float(self.np_random.random()), *rest


def test_global_generators_are_each_environments_own():
    task = make_task("gym:zoo:Global", variants=4)

    def play(seeds):
        return rollout(task.make_env(np.zeros(len(seeds), int)), RandomAgent(task.spaces, seeds), 2, seeds).columns

    random.seed(5), np.random.seed(5), np.random.randn()  # a second normal number is waiting
    before = random.getstate(), str(np.random.get_state())
    both, alone = play([1, 2]), play([2])
    assert (random.getstate(), str(np.random.get_state())) == before
    for name, column in both.items():
        assert np.array_equal(column[:, 1], alone[name][:, 0], equal_nan=True), name
    assert not np.array_equal(both["state"][:, 0], both["state"][:, 1])
    assert not np.array_equal(both["reward"][:, 0], both["reward"][:, 1])


def test_an_error_inside_gives_the_generators_back():
    before = random.getstate()
    with pytest.raises(KeyError), OwnGenerators(3):
        random.random()
        raise KeyError
    assert random.getstate() == before


class Told(Animal):
    "Numbers with words beside them (Minigrid #353)."

    observation_space = Dict(a=Discrete(4), mission=Text(9))

    def see(self):
        return {"a": self.t, "mission": "go"}


def test_what_is_left_out_is_said(tmp_path, capsys):
    task = make_task("gym:zoo:Told")
    for n in (1, 2):  # and it goes on
        store = generate(task, make_source("random"), tmp_path / "s", n, 2)
    assert store.info["left_out"] == task.left_out == ["mission"]
    assert "histories leave out mission" in capsys.readouterr().err
    show_store(store, False)
    assert "left out      mission" in capsys.readouterr().out
    assert animal("box").left_out == make_task("bandit").left_out == []


# trainings with the recorder


def recorded(make, **kwargs):
    recorder = Recorder(n_episodes=3)
    make("MlpPolicy", seed=0, policy_kwargs={"net_arch": [8]}, **kwargs).learn(60, callback=recorder)
    spaces = Spaces(Animal.observation_space, ZOO["box"])
    return recorder.history(spaces, task={"name": "x", "params": {}, "instance": 0}, source={"name": "y"}, seed=0)


def normalized(**kwargs):
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    return VecNormalize(DummyVecEnv([Animal]), **kwargs)


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_rewards_are_recorded_as_they_were_paid(name):  # stable-baselines3 #2101
    import stable_baselines3 as sb3

    few = dict(n_steps=16, batch_size=16) if name == "PPO" else dict(learning_starts=4, batch_size=4)
    got = recorded(getattr(sb3, name), env=normalized(norm_obs=False), **few)
    assert got.columns["reward"].tolist() == [1, 2, 3] * 3
    with pytest.raises(UserError, match="norm_obs=False"):
        recorded(getattr(sb3, name), env=normalized(), **few)


@pytest.mark.parametrize("name, sigma", [("TD3", 0), ("TD3", 0.1), ("DDPG", 0.1), ("SAC", 0.1)])
def test_noise_has_no_known_logprob(name, sigma):  # stable-baselines3 #2206
    import stable_baselines3 as sb3
    from stable_baselines3.common.noise import NormalActionNoise

    noise = NormalActionNoise(np.zeros(1), np.full(1, sigma)) if sigma else None
    got = recorded(getattr(sb3, name), env=Animal(), action_noise=noise, learning_starts=4, batch_size=4)
    assert np.isnan(got.columns["logprob"]).all() and len(got) == 3


@pytest.mark.parametrize("kind", ["box_point", "box_all_of_float32"])
def test_sac_refuses_what_cannot_be_rescaled(kind):
    with pytest.raises(UserError, match="not one point nor all of float32.*try ppo"):
        make_source("sac").check(animal(kind))
    make_source("ppo").check(animal(kind))
