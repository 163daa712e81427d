"""Acting in Dark Room: our ring-buffer cache against recomputing the window of the last transitions at each step."""
import numpy as np
import torch
from harness import compare

import ad_distill.tasks.grid  # noqa: F401 (registers the tasks)
from ad_distill.evaluate import ModelAgent
from ad_distill.models.rl import RLConfig, RLModel
from ad_distill.tasks.core import StreamDraws, make_task, rollout, stream_seeds

CONTEXT = 200


class WindowAgent:
    "Keeps the last transitions and reads them all again to choose an action."
    def __init__(self, model, seeds): self.model, self.draws, self.window = model, StreamDraws(seeds), None

    @torch.inference_mode()
    def act(self, state):
        b = len(state)
        unknown = [torch.zeros(b, 1, dtype=dtype) for dtype in (torch.long, torch.float, torch.float, torch.bool)]
        now = [torch.from_numpy(state)[:, None], *unknown]
        self.window = [torch.cat([old[:, 1 - CONTEXT:], new], 1) for old, new in zip(self.window, now)] if self.window else now
        logits = self.model.action_head(self.model.hidden(*self.window)[:, -1])
        self.taken = self.model.action_head.sample(logits, torch.from_numpy(self.draws())[:, None])
        return tuple(x.numpy() for x in self.taken)

    @torch.inference_mode()
    def observe(self, state, action, reward, terminated, truncated, next_state):
        action, logprob = self.taken
        known = action, torch.from_numpy(reward), logprob, torch.from_numpy(terminated | truncated)
        for column, value in zip(self.window[1:], known): column[:, -1] = value


def act_vs_recompute(quick: bool) -> dict:
    streams, episodes, pairs = (8, 1, 1) if quick else (64, 20, 5)
    task = make_task("dark_room")
    torch.manual_seed(0)
    model = RLModel(RLConfig(task.spaces, layers=2, width=64, heads=2, context=CONTEXT)).eval()
    torch.nn.init.normal_(model.action_head.layer.weight, std=.3)  # a new model chooses uniformly, whatever it reads

    def play(agent, b, n_episodes):
        env = task.make_env(np.resize(task.instances("held_out"), b))
        return rollout(env, agent, n_episodes, np.arange(b)).columns

    fill = CONTEXT // task.horizon  # until here the window is all there is, and both have to choose the same
    seeds = stream_seeds(0, np.arange(streams), 1)
    ours, theirs = (play(agent(model, seeds[:8]), 8, fill) for agent in (ModelAgent, WindowAgent))
    if not np.array_equal(ours["action"], theirs["action"]): raise AssertionError("the cache and the window choose different actions")

    cached, window = ModelAgent(model, seeds), WindowAgent(model, seeds)
    seen = play(cached, streams, fill)
    seen["state"], seen["action"] = seen["state"].astype(int), seen["action"].astype(int)
    window.window = [torch.from_numpy(seen[k]).transpose(0, 1) for k in ("state", "action", "reward", "logprob", "truncated")]

    def steps(agent, n_episodes):  # the context stays full from one call to the next
        play(agent, streams, n_episodes)
        return streams * n_episodes * task.horizon

    result = compare(lambda: steps(cached, episodes), lambda: steps(window, 1), pairs)
    return {**result, "unit": "environment steps per CPU-second", "target": {"ratio": 40, "ours": 20e3},
            "what": f"2 layers, width 64, context {CONTEXT}, full; {streams} streams, environment included; theirs: model.hidden(window)"}
