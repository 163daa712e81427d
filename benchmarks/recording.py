"""PPO of stable-baselines3 on CartPole: what recording every step costs, and what a second process gains."""
import os
import tempfile
import time
from functools import partial

import numpy as np
from harness import compare

from ad_distill.sources.core import generate, make_source
from ad_distill.sources.sb3 import Recorder, sb3_env
from ad_distill.tasks.core import make_task

TASK = make_task("gym:CartPole-v1", max_steps=200)


def recording_vs_bare_training(quick: bool) -> dict:
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env
    steps, pairs = (512, 1) if quick else (12_800, 7)
    source, instance = make_source("ppo"), int(TASK.instances("train")[0])

    def train(callback=None, env=None):
        model = source.model(env or sb3_env(TASK, instance, np.arange(source.n_envs)), 0, steps)
        return model.learn(steps, callback=callback, log_interval=None)

    def recorded():
        recorder = Recorder()
        taken = train(recorder).num_timesteps
        task = {"name": TASK.name, "params": TASK.params, "instance": instance}
        recorder.history(TASK.spaces, task=task, source={"name": "ppo", "params": {}}, seed=0)
        return taken

    def bare(): return train().num_timesteps

    def usual():
        env = make_vec_env(partial(TASK.render_env, instance, None), source.n_envs)
        return train(env=env).num_timesteps

    def weights(callback): return [p.detach().numpy() for p in train(callback).policy.parameters()]
    for with_, without in zip(weights(Recorder()), weights(None), strict=True):
        if not np.array_equal(with_, without): raise AssertionError("recording changes what is learnt")
    result, beside = compare(recorded, bare, pairs), compare(recorded, usual, 1 if quick else 3)
    what = (f"PPO, {steps} steps of CartPole, history made; theirs: the same without a callback; vs_dummy_vec_env: in "
            f"the VecEnv that stable-baselines3 {stable_baselines3.__version__} makes, without a callback")
    return {**result, "vs_dummy_vec_env": beside["ratio"], "unit": "steps per CPU-second",
            "target": {"ratio": 1 / 1.1}, "what": what}


def two_workers_vs_one(quick: bool) -> dict:
    episodes, pairs = (4, 1) if quick else (500, 3)  # a history of ten seconds or so: processes take three to start
    source = make_source("ppo")

    def seconds(workers):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            generate(TASK, source, f"{folder}/s", 4, episodes, workers=workers)
            return time.perf_counter() - start

    # what is imported once does not count
    if quick: seconds(1)
    else: source.learn(TASK, TASK.instances("train")[:1], np.zeros(1, int), 0, 4)
    times = np.array([[seconds(2), seconds(1)] for _ in range(pairs)])  # (pairs, 2)
    (two, one), ratios = np.median(times, 0).tolist(), times[:, 0] / times[:, 1]
    what = (f"four histories of {episodes} episodes of PPO on CartPole, with the start of the processes; by the clock, "
            f"so it needs a machine with two free cores; this one has {os.cpu_count()}")
    return {"ratio": float(np.median(ratios)), "ours": two, "theirs": one, "pairs": ratios.tolist(),
            "unit": "seconds, two workers : one", "lower_is_better": True, "target": {"ratio": .65}, "what": what}
