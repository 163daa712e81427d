"""Acting in Dark Room, from numbers and from text: our caches against recomputing the window at each step."""
import numpy as np
import torch
from harness import compare

from ad_distill.models.rl_agent import RLAgent
from ad_distill.models.lm import LMModel, LMSettings, small_lm
from ad_distill.models.lm_agent import LMAgent
from ad_distill.models.lm_context import Context
from ad_distill.models.rl import RLConfig, RLModel
from ad_distill.language.serializer import make_serializer
from ad_distill.tasks.core import RandomAgent, StreamDraws, make_task, rollout, stream_seeds, task_id
from ad_distill.language.tokenizers import build_tokenizer

CONTEXT = 200


class WindowAgent:
    "Keeps the last transitions and reads them all again to choose an action."
    def __init__(self, model, seeds):
        self.model, self.draws = model, StreamDraws(seeds)
        self.window = None  # columns, each (b, t, ...)

    @torch.inference_mode()
    def act(self, state):
        b = len(state)
        unknown = [torch.zeros(b, 1, dtype=dtype) for dtype in (torch.long, torch.float, torch.float, torch.bool)]
        now = [torch.from_numpy(state)[:, None], *unknown]
        if self.window is None: self.window = now
        else: self.window = [torch.cat([old[:, 1 - CONTEXT:], new], 1) for old, new in zip(self.window, now)]
        logits = self.model.action_head(self.model.hidden(*self.window)[:, -1])
        self.taken = self.model.action_head.sample(logits, torch.from_numpy(self.draws())[:, None])
        return tuple(x.numpy() for x in self.taken)

    @torch.inference_mode()
    def observe(self, state, action, reward, terminated, truncated, next_state):
        action, logprob = self.taken
        known = action, torch.from_numpy(reward), logprob, torch.from_numpy(terminated | truncated)
        for column, value in zip(self.window[1:], known): column[:, -1] = value


def assert_same_actions(ours, theirs):
    if not np.array_equal(ours["action"], theirs["action"]):
        raise AssertionError("the cache and the window choose different actions")


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
    ours, theirs = (play(agent(model, seeds[:8]), 8, fill) for agent in (RLAgent, WindowAgent))
    assert_same_actions(ours, theirs)

    cached, window = RLAgent(model, seeds), WindowAgent(model, seeds)
    seen = play(cached, streams, fill)
    seen["state"], seen["action"] = seen["state"].astype(int), seen["action"].astype(int)
    columns = [seen[k] for k in ("state", "action", "reward", "logprob", "truncated")]
    window.window = [torch.from_numpy(column).transpose(0, 1) for column in columns]  # (b, t, ...)

    def steps(agent, n_episodes):  # the context stays full from one call to the next
        play(agent, streams, n_episodes)
        return streams * n_episodes * task.horizon

    result = compare(lambda: steps(cached, episodes), lambda: steps(window, 1), pairs)
    return {**result, "unit": "environment steps per CPU-second", "target": {"ratio": 40, "ours": 20e3},
            "what": f"2 layers, width 64, context {CONTEXT}, full; {streams} streams, environment included; "
                    "theirs: model.hidden(window)"}


class WholeContext(Context):
    "Keeps what was written, but no keys and values: every time all of it is read."
    def read(self, back=(1,)):
        self.forget()
        return super().read(back)


def act_text_vs_recompute(quick: bool) -> dict:
    streams, rounds, pairs = (4, 1, 1) if quick else (64, 4, 2)
    task = make_task("dark_room")
    serializer = make_serializer("compact", task.spaces)
    env = task.make_env(np.resize(task.instances("held_out"), streams))
    random = rollout(env, RandomAgent(task.spaces, range(streams)), 20, np.arange(streams))
    about = {"task": {**task_id(task), "instance": 0}, "source": {"name": "random", "params": {}}}
    tokenizer = build_tokenizer(serializer, random.history(0, **about, seed=0))

    def an_agent(slide, kind=None):
        torch.manual_seed(0)
        network = small_lm(tokenizer, width=64, layers=3, heads=4)
        model = LMModel(network, serializer, tokenizer, LMSettings(episodes=7, slide=slide)).eval()
        agent = LMAgent(model, stream_seeds(0, np.arange(streams), 1))
        if kind: agent.context = kind(model, streams, agent.most)
        return agent

    def fresh(): return task.make_env(np.resize(task.instances("held_out"), streams))
    def play(agent, n): return rollout(fresh(), agent, n, np.arange(streams)).columns
    first = 2 if quick else 8
    assert_same_actions(play(an_agent(1), first), play(an_agent(1, WholeContext), first))

    def full():
        "Six episodes of sixty tokens (anything, as long as it is full) and one that begins."
        return [[[0] * 60 for _ in range(6)] + [[]] for _ in range(streams)]

    def measure(slide):
        "The window is full from the first call on; calls have whole rounds of sliding, so that each costs the same."
        cached, whole = an_agent(slide), an_agent(slide, WholeContext)
        for agent in (cached, whole):
            agent.context.episodes = full()
            agent.context.forget()

        def steps(agent, n):
            play(agent, n)
            return streams * n * task.horizon
        return compare(lambda: steps(cached, rounds * slide), lambda: steps(whole, slide), pairs)

    result, one = measure(2), measure(1)
    what = ("compact, 3 layers, width 64, 4 heads, window of 7 episodes (up to 420 tokens), full, sliding by 2 "
            "episodes; under slide_1 by 1, where reading anew after each episode costs a twentieth of recomputing by "
            f"itself; {streams} streams, environment included; theirs: all of the window at each step")
    return {**result, "slide_1": one, "unit": "environment steps per CPU-second",
            "target": {"ratio": 20, "ours": 2e3}, "what": what}
