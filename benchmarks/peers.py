"""The Dark Room, held against another implementation after equal CPU time: steps a second, and score on unseen goals.

The peer is the code of Zisman et al. 2023 (arXiv 2312.12275, github.com/corl-team/ad-eps): the same room of 9x9 cells,
the same moves, 20 steps an episode. It is not part of this project and wants software of its own. With a copy of it in
FOLDER, and in ENV an environment with torch, gymnasium==0.29.1, "numpy<2", matplotlib, pyrallis and wandb:

    python benchmarks/peers.py ours --out ours.json
    ENV/bin/python benchmarks/peers.py ad-eps FOLDER/dark_room --beside ours.json --out peer.json
    ENV/bin/python benchmarks/peers.py ad-eps FOLDER/dark_room --beside ours.json --out cut.json --cut

The peer gets the same training goals and is played on the same test goals, as often in a row; its own functions make
its data and play its model, and its model is trained as its `train` does, until the CPU time of the first command is
used up, times --times. Of its settings those of its configuration are taken, or with --cut a model and batches as small
as ours. Everything in one thread.
"""
import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", WANDB_MODE="disabled")

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

EPISODES, LAST = 60, 10
AS_GIVEN = dict(embedding_dim=64, hidden_dim=512, num_layers=4, seq_len=80, batch_size=512)  # configs/ad.yaml
CUT = dict(embedding_dim=64, hidden_dim=64, num_layers=2, seq_len=80, batch_size=32)


class Clock:
    "CPU-seconds of this process and of its children, since it was made or asked last."
    def __init__(self): self.at = self._now()

    def _now(self): return sum(os.times()[:4])

    def __call__(self):
        before, self.at = self.at, self._now()
        return self.at - before


def ours(args):
    "The settings of `exp_darkroom` at scale small."
    from ad_distill.data.dataset import Strided, Windows
    from ad_distill.evaluation.play import evaluate, pick_instances
    from ad_distill.models.loading import load_model
    from ad_distill.sources.core import generate, make_source
    from ad_distill.tasks.core import make_task
    from ad_distill.train import distill
    room, clock, sizes = make_task("dark_room"), Clock(), (1040, 300)
    train, test = room.instances("train"), room.instances("test")
    weights = {"action": 1., "state": 0., "reward": .1, "logprob": 0.}
    with tempfile.TemporaryDirectory() as where:
        store = generate(room, make_source("q_learning", decay=.85), Path(where) / "histories", *sizes)
        made = clock()
        distill(task=room, store=store, path=Path(where) / "model", windows=Windows(10, Strided(25, .2)), probe=False,
                model=dict(width=64, layers=2, heads=2, loss_weights=weights),
                training=dict(max_steps=args.updates, per_device_train_batch_size=8))
        trained = clock()
        ids = pick_instances(room, len(test), 1, "test")
        table = evaluate(load_model(Path(where) / "model"), room, EPISODES, instances=ids, seed=0)
        played = clock()
    def cells(instances): return [list(map(int, room.describe(int(i))["goals"][0])) for i in instances]
    returns = table.pivot_table(index="instance", columns="episode", values="return").loc[[*test]].to_numpy()
    goals = dict(train_goals=cells(train), test_goals=cells(test), best=room.best_return(test).tolist(),
                 chance=room.random_return(test).tolist())
    return goals | figures(goals, returns, "ours", (made, trained, played), np.prod(sizes), args.updates, 8 * 200)


def figures(goals, returns, who, cpu, episodes, updates, transitions):
    "What is reported of either: rates, and scores between random play and the best there is. `returns`: (goals, e)."
    low, high = (np.array(goals[k])[:, None] for k in ("chance", "best"))
    score = ((returns - low) / (high - low))[:, :EPISODES].mean(0)  # (e,)
    made, trained, played = cpu
    reached = np.flatnonzero(score >= .8)
    return {"who": who, "score": float(score[-LAST:].mean()), "first": float(score[0]),
            "episodes_to_80": int(reached[0]) + 1 if len(reached) else None, "updates": updates,
            "cpu_seconds": {"generate": made, "train": trained, "play": played},
            "steps_a_second": {"generate": float(episodes) * 20 / made, "train": updates * transitions / trained,
                               "play": returns.size * 20 / played}}


def peer(args):
    "Its functions, the training loop of its `train` with a clock."
    sys.path.insert(0, str(args.folder.resolve()))
    os.chdir(args.folder)
    import ad_darkroom
    import envs  # noqa: F401 (registers the rooms)
    import generate_trajectories as made_by
    from utils.data import SequenceDataset
    beside, size, clock = json.loads(args.beside.read_text()), CUT if args.cut else AS_GIVEN, Clock()
    budget = args.times * sum(beside["cpu_seconds"][k] for k in ("generate", "train"))
    torch.manual_seed(0)
    np.random.seed(0)
    with tempfile.TemporaryDirectory() as where:
        goals, actor = np.array(beside["train_goals"]), made_by.OptimalAgent()
        files = [made_by.generate_trajectory(g, actor, "DarkRoom-v0", where, args.episodes) for g in goals]
        made_by.save_metadata(where, goals, files)
        dataset, made = SequenceDataset(where, seq_len=size["seq_len"]), clock()
    shape = {k: v for k, v in size.items() if k != "batch_size"}
    model = ad_darkroom.ADTransformer(num_states=81, num_actions=5, embedding_dropout=.3, residual_dropout=.1,
                                      attention_dropout=.5, **shape)
    updates = train(model, dataset, size["batch_size"], budget - made)
    trained = clock()
    model.eval()
    found, _ = ad_darkroom.evaluate_in_context("DarkRoom-v0", model, beside["test_goals"], EPISODES, 0)
    returns, n = np.array([found[tuple(g)][:EPISODES] for g in beside["test_goals"]]), len(goals) * args.episodes
    who = "ad-eps, cut" if args.cut else "ad-eps"
    return figures(beside, returns, who, (made, trained, clock()), n, updates, size["batch_size"] * size["seq_len"])


def train(model, dataset, batch, seconds):
    "Adam as in its configuration, the rate warmed up and cooled by CPU time, as it is by updates there."
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, betas=(.9, .99))
    loader = torch.utils.data.DataLoader(dataset, batch, shuffle=True)
    began, n = time.process_time(), 0
    while True:
        for states, actions, rewards in loader:
            share = (time.process_time() - began) / seconds
            if share >= 1: return n
            for group in optimizer.param_groups:
                group["lr"] = 3e-4 * (share / .1 if share < .1 else .5 * (1 + np.cos(np.pi * (share - .1) / .9)))
            logits = model(states=states.long(), actions=actions.long(), rewards=rewards)
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), actions.long().flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            n += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_subparsers(required=True)
    mine, other = which.add_parser("ours"), which.add_parser("ad-eps")
    mine.set_defaults(run=ours)
    mine.add_argument("--updates", type=int, default=2600, help="of the model; default: 2,600")
    other.set_defaults(run=peer)
    other.add_argument("folder", type=Path, help="dark_room of a copy of its repository")
    other.add_argument("--beside", type=Path, required=True, help="what the first command wrote")
    other.add_argument("--cut", action="store_true", help="a model and batches as small as ours")
    other.add_argument("--times", type=float, default=1., help="so many times the CPU time of ours; default: 1")
    other.add_argument("--episodes", type=int, default=1000, help="of each training goal; default: 1,000")
    for command in (mine, other): command.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    args.out, beside = args.out.resolve(), getattr(args, "beside", None)
    if beside: args.beside = beside.resolve()
    torch.set_num_threads(1)
    found = args.run(args)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print({k: v for k, v in found.items() if "goals" not in k and k not in ("best", "chance")})


if __name__ == "__main__": main()
