"""Any Gymnasium environment as a task, and stable-baselines3 as a source: real environments, real trainings."""

import json
import pickle
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import python, run

import ad_distill.sources.sb3  # noqa: F401
from ad_distill.registry import SOURCES
from ad_distill.sources.core import generate, make_source
from ad_distill.sources.sb3 import Recorder, sb3_env
from ad_distill.tasks.core import RandomAgent, make_task, rollout, stream_seeds, task_id
from ad_distill.tasks.gym import VARIATIONS, attribute
from ad_distill.tasks.numbers import state_numbers
from ad_distill.registry import UserError
from ad_distill.trajectory import Spaces

IDS = [
    "CartPole-v1",
    "LunarLander-v3",
    "LunarLanderContinuous-v3",
    "Pendulum-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "FrozenLake-v1",
    "Blackjack-v1",
    "minigrid:MiniGrid-Empty-5x5-v0",
]
CART = make_task("gym:CartPole-v1", max_steps=60)
FAST = {
    "ppo": dict(n_envs=2, n_steps=64, batch_size=64, n_epochs=2),
    "a2c": dict(n_envs=2),
    "dqn": dict(warmup=50, exploration_steps=200),
    "sac": dict(warmup=50, batch_size=32),
}


def learn(name, n_episodes=12, number=0, seed=0, task=None, **params):
    source = make_source(name, **FAST[name] | params)
    task = task or (make_task("gym:Pendulum-v1", max_steps=20) if name == "sac" else CART)
    return source.learn(task, task.instances("train")[number : number + 1], np.array([number]), seed, n_episodes)[0]


# tasks


@pytest.mark.parametrize("id", IDS)
@pytest.mark.filterwarnings("error")
def test_a_task_conforms(id):
    task = make_task(f"gym:{id}", max_steps=25, variants=20)
    assert (
        make_task(**{"name": task.name, **json.loads(json.dumps(task.params, allow_nan=False))})
        == task
        == pickle.loads(pickle.dumps(task))
    )
    assert Spaces.from_json(json.loads(json.dumps(task.spaces.to_json()))) == task.spaces
    train, held_out = task.instances("train"), task.instances("held_out")
    assert sorted([*train, *held_out]) == list(range(task.n_instances)) and task.n_instances <= 20
    told = [json.dumps(task.describe(int(i))) for i in range(task.n_instances)]
    assert len(set(told)) == task.n_instances
    assert [json.dumps(pickle.loads(pickle.dumps(task)).describe(int(i))) for i in range(task.n_instances)] == told
    ids = np.resize(held_out, 2)
    low, high = task.random_return(ids), task.best_return(ids)
    assert (low < high).all() and np.allclose(task.score(np.stack([low, high], 1), ids), [[0, 1]] * 2)
    assert (pickle.loads(pickle.dumps(task)).random_return(ids) == low).all()
    played = [rollout(task.make_env(ids), RandomAgent(task.spaces, [1, 2]), 3, [3, 4]) for _ in range(2)]
    for k in played[0].columns:
        assert np.array_equal(*(p.columns[k] for p in played)), k
    h = played[0].history(
        1, task={**task_id(task), "instance": int(ids[1])}, source={"name": "random", "params": {}}, seed=0
    )
    assert h.lengths.max() <= task.horizon == 25 and len(h) == 3


@pytest.mark.parametrize("id", ["CartPole-v1", "FrozenLake-v1", "minigrid:MiniGrid-Empty-5x5-v0"])
def test_an_episode_begins_anew_in_the_same_step(id):
    task = make_task(f"gym:{id}", max_steps=12)
    ids = np.resize(task.instances("train"), 3)
    env, alone = task.make_env(ids), task.render_env(int(ids[1]), None)
    assert env.metadata["autoreset_mode"] == gym.vector.AutoresetMode.SAME_STEP and isinstance(
        env, gym.vector.VectorEnv
    )
    state, _ = env.reset(seed=[5, 6, 7])
    single, _ = alone.reset(seed=6)
    ended = 0
    for t in range(40):
        assert env.single_observation_space.contains(state[1]) and np.array_equal(state[1], single)
        action = np.array([(t * k) % task.spaces.action.n for k in (1, 3, 5)])
        state, reward, terminated, truncated, info = env.step(action)
        single, paid, over, cut, _ = alone.step(action[1])
        assert (reward[1], terminated[1], truncated[1]) == (paid, over, cut) and np.float32(paid) == paid
        if over or cut:
            assert np.array_equal(info["final_obs"][1], single)
            single, _ = alone.reset()
            ended += 1
    assert ended >= 3


def test_variations_reach_the_environment():
    task = make_task("gym:LunarLander-v3", vary="gravity,turbulence,actions,reward_scale")
    env, told = task.render_env(5, None), task.describe(5)
    e = env.unwrapped
    assert (e.gravity, e.turbulence_power, e.enable_wind, e.wind_power) == (
        told["gravity"],
        told["turbulence"],
        True,
        0,
    )
    env.reset(seed=0)
    assert e.world.gravity[1] == pytest.approx(told["gravity"])
    plain = make_task("gym:LunarLander-v3", vary="gravity,turbulence", best=1.0)._bare()
    for k in ("gravity", "turbulence"):
        plain = VARIATIONS[k].apply(plain, told[k])
    plain.reset(seed=0)
    for a in (0, 1, 2, 3, 3, 2, 1, 0):
        assert env.step(a)[1] == pytest.approx(
            plain.step(told["actions"][a])[1] * told["reward_scale"], rel=1e-4, abs=1e-5
        )
    assert task.best_return([5])[0] == pytest.approx(200 * told["reward_scale"])


def test_a_pendulum_is_paid_for_its_own_angle():
    "What it is paid depends on the distance from the target and on nothing else that differs."
    task = make_task("gym:Pendulum-v1", vary="target", max_steps=20)
    env, target = task.render_env(3, None), task.describe(3)["target"]
    env.reset(seed=0)
    stand, push = np.zeros(1, np.float32), np.ones(1, np.float32)
    for off in (0.0, 0.5, -3.0):
        env.unwrapped.state = np.array([target + off + 4 * np.pi, 0.0])
        assert env.step(stand)[1] == pytest.approx(-(off**2), abs=1e-5)
    env.unwrapped.state = np.array([target, 2.0])
    assert env.step(push)[1] == pytest.approx(-0.4 - 0.001, abs=1e-5)
    with pytest.raises(UserError, match="has no number 'target'"):
        make_task("gym:CartPole-v1", vary="target").describe(0)


def test_a_variation_of_ones_own():
    VARIATIONS["tau"] = attribute("tau", 0.01, 0.03)
    try:
        task = make_task("gym:CartPole-v1", vary="tau")
        assert (
            0.01 <= task.describe(0)["tau"] <= 0.03
            and task.render_env(0, None).unwrapped.tau == task.describe(0)["tau"]
        )
    finally:
        del VARIATIONS["tau"]
    with pytest.raises(UserError, match="unknown variation 'tau'"):
        make_task("gym:CartPole-v1", vary="tau")
    assert make_task("gym:CartPole-v1", vary="tau=0.01:0.03").describe(3)["tau"] <= 0.03


@pytest.mark.parametrize(
    "params, message",
    [
        (dict(id="CarRacing-v3"), "27,648 numbers, more than max_state=1024.*ResizeObservation"),
        (dict(id="CartPol-v1"), "Did you mean: `CartPole`"),
        (dict(id="nowhere:X-v0"), "no module 'nowhere'"),
        (dict(vary="gravty"), "did you mean gravity"),
        (dict(vary="x=1:2"), "has no number 'x'"),
        (dict(vary="gravity=1"), "expected a name and a range"),
        (dict(kwargs="[1]"), "expected a JSON object"),
        (dict(kwargs="size=4"), "'size=4' came, expected a JSON object, such as"),
        (dict(kwargs='{"wind": 1}'), "unexpected keyword argument 'wind'"),
        (dict(id="CliffWalking-v1", max_state=0), "max_state must be at least 1"),
        (dict(variants=1), "variants must be at least 2"),
    ],
)
def test_mistakes_are_one_line(params, message):
    with pytest.raises(UserError, match=message) as e:
        make_task("gym", **params)
    assert "\n" not in str(e.value)


def test_states_without_numbers_are_refused():
    with pytest.raises(UserError, match="hold no numbers"):
        state_numbers(gym.spaces.Dict(a=gym.spaces.Text(5)))


# sources


@pytest.mark.parametrize("name", FAST)
def test_a_history_is_a_function_of_task_source_and_seed(name):
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    h = learn(name)
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads
    np.random.seed(7), torch.manual_seed(9)
    assert learn(name) == h != learn(name, seed=1)
    assert (
        len(h) == 12
        and h.task["name"].startswith("gym:")
        and h.source["name"] == name
        and np.isfinite(h.columns["logprob"]).all()
    )


def test_processes_and_interruptions_change_nothing(tmp_path):
    source, args = make_source("ppo", **FAST["ppo"]), dict(n_episodes=10, seed=4)
    generate(CART, source, tmp_path / "one", 4, **args)
    generate(CART, source, tmp_path / "two", 2, **args)
    generate(CART, source, tmp_path / "two", 4, **args, workers=2)
    one, two = ((tmp_path / d / "transitions.arrow").read_bytes() for d in ("one", "two"))
    assert one == two and len(one) > 10_000
    told = []
    source.learn(CART, CART.instances("train")[:2], np.arange(2), 4, 10, told.append)
    assert told == sorted(told) and told[-1] == 10


def test_ppo_records_what_the_environment_paid_and_every_step_in_order():
    task = make_task("gym:CartPole-v1", max_steps=15)
    h = learn("ppo", 40, task=task)
    assert (h.columns["reward"] == 1).all() and h.columns["truncated"].any()  # no value of what was cut off
    env = task.render_env(int(h.task["instance"]), None)
    for e in range(
        0, len(h), 7
    ):  # the dynamics lead from each state to the next: an episode is of one copy of the environment
        env.reset(seed=0)
        for t in range(len(h[e]) - 1):
            env.unwrapped.state = h[e].state[t].astype(np.float64)
            after, _, terminated, _, _ = env.step(h[e].action[t])
            assert np.allclose(after, h[e].state[t + 1], atol=1e-5) and not terminated
    assert (h.columns["terminated"] ^ h.columns["truncated"])[np.cumsum(h.lengths) - 1].all()


def first_model(name, task, **params):
    "The learner as it was at the start of history 0 of seed 0."
    source = make_source(name, **FAST[name] | params)
    with torch.random.fork_rng():
        return source.model(
            sb3_env(task, int(task.instances("train")[0]), np.arange(source.n_envs)),
            int(stream_seeds(0, [0], 1)[0]) % 2**32,
            10**6,
        )


@pytest.mark.parametrize("name, id", [("ppo", "CartPole-v1"), ("a2c", "CartPole-v1"), ("ppo", "Pendulum-v1")])
def test_logprobs_are_those_of_the_acting_policy(name, id):
    task = make_task(f"gym:{id}", max_steps=20)
    h, model = learn(name, 6, task=task, n_envs=1), first_model(name, task, n_envs=1)
    k = slice(0, 5)  # before the first update of either
    with torch.no_grad():
        _, expected, _ = model.policy.evaluate_actions(
            torch.tensor(h.columns["state"][k]), torch.tensor(h.columns["action"][k])
        )
    inside = np.ones(5, bool) if id == "CartPole-v1" else (np.abs(h.columns["action"][k, 0]) < 2)
    assert inside.sum() >= 3 and np.allclose(h.columns["logprob"][k][inside], expected.numpy()[inside], atol=1e-5)


def test_dqn_logprobs_follow_epsilon():
    h = learn("dqn", 60, n_envs=1, exploration_steps=300, warmup=100, epsilon_end=0.1)
    p = np.exp(h.columns["logprob"].astype(float))
    assert np.allclose(p[:90], 0.5) and {round(x, 4) for x in p[-50:]} <= {0.95, 0.05}
    assert (p[-200:] > 0.5).mean() == pytest.approx(0.95, abs=0.06)


def test_sac_logprobs_are_densities_of_the_squashed_action():
    task = make_task("gym:Pendulum-v1", max_steps=20)
    h = learn("sac", 6, task=task, warmup=1)
    model = first_model("sac", task, warmup=1)
    assert h.columns["logprob"][0] == pytest.approx(-np.log(4))
    from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

    with torch.no_grad():
        mean, log_std, _ = model.actor.get_action_dist_params(torch.tensor(h.columns["state"][1:2]))
    density = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(), AffineTransform(0, 2)])
    assert h.columns["logprob"][1] == pytest.approx(
        float(density.log_prob(torch.tensor(h.columns["action"][1:2]))), abs=0.05
    )


def test_ppo_learns_cart_pole():
    task = make_task("gym:CartPole-v1", max_steps=200)
    (h,) = make_source("ppo").learn(task, task.instances("train")[1:2], np.array([1]), 0, 180)
    assert h.returns[-40:].mean() > 120 > 40 > h.returns[:20].mean()


def test_the_recorder_serves_trainings_of_ones_own():
    from stable_baselines3 import DQN

    recorder = Recorder(n_episodes=5)
    DQN("MlpPolicy", "CartPole-v1", seed=0, learning_starts=20, train_freq=(1, "episode")).learn(
        5000, callback=recorder
    )
    h = recorder.history(
        CART.spaces, task={"name": "x", "params": {}, "instance": 0}, source={"name": "y", "params": {}}, seed=0
    )
    assert len(h) == 5 and np.isfinite(h.columns["logprob"]).all() and len(recorder.steps) == h.n_transitions
    with pytest.raises(UserError, match="no episode has ended"):
        Recorder().history(CART.spaces)


@pytest.mark.parametrize(
    "name, id, message",
    [
        ("dqn", "Pendulum-v1", "acts in spaces of kind Discrete.*try sac or ppo"),
        ("sac", "CartPole-v1", "acts in spaces of kind Box.*try ppo or dqn"),
    ],
)
def test_sources_that_do_not_fit_are_refused_before_any_work(tmp_path, name, id, message):
    with pytest.raises(UserError, match=message):
        generate(make_task(f"gym:{id}"), make_source(name), tmp_path / "s", 1, 1)
    assert not (tmp_path / "s").exists()


WITHOUT_SB3 = "import sys; sys.modules['stable_baselines3'] = None\nfrom ad_distill.cli.main import main\n"


def test_without_the_extra(tmp_path):
    got = python(
        WITHOUT_SB3 + "main(['generate', 'gym:CartPole-v1', '--source', 'ppo', '--out', 'x'])",
        cwd=tmp_path,
        check=False,
    )
    assert (
        got.returncode == 2
        and got.stderr == "ad_distill: source 'ppo' needs stable-baselines3: pip install 'ad_distill[sb3]'\n"
    )
    got = python(WITHOUT_SB3 + "main(['generate', 'gym:CartPole-v1', '--out', 'x'])", cwd=tmp_path, check=False)
    assert (
        got.returncode == 2
        and "pip install 'ad_distill[sb3]'" in got.stderr
        and "--source random" in got.stderr
        and got.stderr.count("\n") == 1
        and not (tmp_path / "x").exists()
    )
    assert set(FAST) <= set(SOURCES)


def test_an_environment_that_the_code_has_never_heard_of(tmp_path):
    "From the package index to a table of scores, and no code."
    ad = lambda *args: run(sys.executable, "-m", "ad_distill", *args, cwd=tmp_path)
    ad(
        "generate",
        "gym:minigrid:MiniGrid-Empty-5x5-v0",
        "--source",
        "random",
        "--histories",
        "3",
        "--episodes",
        "4",
        "--out",
        "s",
    )
    ad("train", "s", "--episodes", "2", "--stride", "1", "--steps", "20", "--trust", "minigrid", "--out", "m")
    got = ad(
        "evaluate",
        "m",
        "--trust",
        "minigrid",
        "--instances",
        "2",
        "--streams",
        "1",
        "--episodes",
        "2",
        "--out",
        "t.csv",
        "--json",
    )
    assert (
        json.loads(got.stdout)["task"] == "gym:minigrid:MiniGrid-Empty-5x5-v0"
        and len((tmp_path / "t.csv").read_text().splitlines()) == 5
    )


class Lock(gym.Env):
    "Its attributes are of every kind."

    observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(6)

    def __init__(self):
        self.secret, self.weight, self.is_on, self.goal, self.moved = 3, 1.5, True, (1, 2), 4

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.moved = 0, 1
        return 0, {}

    def step(self, action):
        self.time += 1
        return 0, float(action == self.secret), False, self.time >= 4, {}


gym.register("Lock-v0", Lock)


def test_a_whole_number_is_drawn_whole():
    lock = make_task("gym:Lock-v0", vary="secret=0:5")
    assert sorted(lock.describe(i)["secret"] for i in range(lock.n_instances)) == [0, 1, 2, 3, 4, 5]
    assert all(isinstance(lock.describe(i)["secret"], int) for i in range(6))
    for vary in ("secret=0.0:5", "weight=0:5"):
        assert isinstance(next(iter(make_task("gym:Lock-v0", vary=vary).describe(0).values())), float)


@pytest.mark.parametrize(
    "vary, why",
    [
        ("is_on=0:1", "the switch True"),
        ("goal=0:3", "the tuple"),
        ("moved=2:9", "reset.. of Lock-v0 made it 1"),
        ("secret=5:0", "the lower end first"),
        ("secret=0:inf", "the lower end first"),
    ],
)
def test_what_cannot_be_drawn_is_refused(vary, why):
    with pytest.raises(UserError, match=why):
        make_task("gym:Lock-v0", vary=vary)


def test_notes_say_where_best_comes_from():
    assert "reward_threshold" in make_task("gym:FrozenLake-v1").notes[1]
    assert "no best return" in make_task("gym:Lock-v0").notes[1]
    assert "as `best` says" in make_task("gym:Lock-v0", best=4.0).notes[1]
