"""Q-learning in Dark Room: our batch of rooms against the same learner in Gymnasium's SyncVectorEnv."""
from functools import partial

import gymnasium as gym
import numpy as np
from harness import compare

from ad_distill.sources.core import make_source
from ad_distill.tasks.core import make_task, rollout, stream_seeds
from ad_distill.tasks.rooms import GridEnv


def generate_vs_sync_vector_env(quick: bool) -> dict:
    streams, episodes, pairs = (16, 10, 1) if quick else (1024, 200, 5)
    task, source, numbers = make_task("dark_room"), make_source("q_learning"), np.arange(streams)
    ids = np.resize(task.instances("train"), streams)
    goals = [task.describe(i)["goals"] for i in ids]

    def sync():
        rooms = [partial(GridEnv, goals=g) for g in goals]
        return gym.vector.SyncVectorEnv(rooms, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)

    def play(make_env, episodes=episodes):
        "Everything that a run needs: environments, learners, their seeds, and the transitions kept."
        agent = source.agent(task, ids, stream_seeds(0, numbers, 1), episodes)
        return rollout(make_env(), agent, episodes, stream_seeds(0, numbers, 0), capacity=episodes * task.horizon)

    def transitions(make_env): return play(make_env).columns["reward"].size

    ours, theirs = play(partial(task.make_env, ids), 10).columns, play(sync, 10).columns
    if not all(np.array_equal(ours[k], theirs[k]) for k in ours):
        raise AssertionError("the two kinds of environments give different transitions")
    result = compare(partial(transitions, partial(task.make_env, ids)), partial(transitions, sync), pairs)
    return {**result, "unit": "transitions per CPU-second", "target": {"ratio": 10, "ours": 5e6},
            "what": f"{streams} streams, {episodes} episodes; theirs: gymnasium.vector.SyncVectorEnv"}
