"""A small PPO run of unmodified trlX with the recorder, on a GPT-2 made here, by Python of requirements-trlx.txt.

    PYTHONPATH=. trlx_env/bin/python tests/trlx_run.py OUT [--epochs 6] [--updates 60] [--set train.seed=3 ...]

OUT/model is the pre-trained model, OUT/rollouts/run the recorded run. OUT/seen.json is what trlX itself computed and
kept, overheard independently of the recorder: every call of the reward function, every batch pushed to its store, log
probabilities of policy and reference, and updates made.
"""

import argparse
import json
import random
from pathlib import Path

import torch
import trlx
import trlx.trainer.accelerate_ppo_trainer as ppo
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trlx.data.default_configs import default_ppo_config

from ad_distill.recorders import trlx as recorder

NAMES, PLACES = ["Dan", "Leila", "Tom", "Ana", "Ravi", "Mia"], ["market", "river", "school", "station", "park"]
GOOD, BAD = ["happy", "proud", "glad", "calm"], ["sad", "angry", "lost", "tired"]


def prompt(rng):
    return f"{rng.choice(NAMES)} went to the {rng.choice(PLACES)}."


def story(rng):
    return (
        f"{prompt(rng)} {rng.choice(['He', 'She'])} felt {rng.choice(GOOD + BAD)} and {rng.choice(GOOD + BAD)}"
        + rng.choice(["", " all day", " there"])
        + "."
    )


def reward(samples, prompts, outputs, **kwargs):
    "Share of good words among the good and bad ones; per token (of prompt and completion together) if asked for."
    scores = []
    for o in outputs:
        words = o.replace(".", " ").replace("<|endoftext|>", " ").split()
        good, bad = (sum(w in ws for w in words) for ws in (GOOD, BAD))
        scores.append(good / max(good + bad, 1))
    return scores


def make_model(path, updates, pad, seed):
    "A tokenizer and a GPT-2 of 60k parameters, taught the stories."
    rng = random.Random(seed)
    corpus = [story(rng) for _ in range(2000)]
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|pad|>", "<sep>"] if pad else ["<|endoftext|>", "<sep>"]
    tok.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tok = PreTrainedTokenizerFast(
        tokenizer_object=tok, eos_token=specials[0], bos_token=specials[0], pad_token="<|pad|>" if pad else specials[0]
    )
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tok), n_positions=64, n_embd=48, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    )
    opt = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(updates):
        ids = [tok(s).input_ids + [0] for s in rng.sample(corpus, 32)]
        n = max(map(len, ids))
        x = torch.tensor([i + [0] * (n - len(i)) for i in ids])
        y = torch.tensor([i + [-100] * (n - len(i)) for i in ids])
        model(x, labels=y).loss.backward()
        opt.step(), opt.zero_grad()
    model.save_pretrained(path, safe_serialization=False)  # trlX 0.7.0 reads pytorch_model.bin only
    tok.save_pretrained(path)


def overhear(seen, folder):
    "Note what goes through functions of trlX that the recorder does not touch."
    labels, push, step = ppo.logprobs_of_labels, ppo.PPORolloutStorage.push, torch.optim.AdamW.step

    def logprobs_of_labels(logits, *args, **kwargs):
        out = labels(logits, *args, **kwargs)
        if not logits.requires_grad:
            seen["logprobs"].append(out.tolist())  # first the policy's, then the reference's, chunk by chunk
        return out

    def pushed(self, exps):
        exps = list(exps)
        seen["pushed"].append(
            {
                "updates": seen["updates"],
                "files": len(list(folder.glob("rollouts-*.json"))),
                "elements": [{k: v.tolist() for k, v in e.__dict__.items()} for e in exps],
            }
        )
        return push(self, exps)

    def stepped(self, *args, **kwargs):
        seen["updates"] += 1
        return step(self, *args, **kwargs)

    ppo.logprobs_of_labels, ppo.PPORolloutStorage.push, torch.optim.AdamW.step = logprobs_of_labels, pushed, stepped


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out", type=Path)
    p.add_argument("--epochs", type=int, default=4)
    p.add_argument("--updates", type=int, default=60)
    p.add_argument("--pad-is-eos", action="store_true")
    p.add_argument("--trainer", default=recorder.HistoryPPOTrainer.__name__)
    p.add_argument("--run", default="run")
    p.add_argument("--per-token", action="store_true")
    p.add_argument("--break-at", type=int, default=-1, help="the reward function returns NaN at this call")
    p.add_argument("--set", nargs="*", default=[], metavar="SECTION.NAME=JSON")
    a = p.parse_args()
    torch.set_num_threads(1)
    model = a.out / "model"
    if not model.exists():
        make_model(model, a.updates, not a.pad_is_eos, 0)
    config = default_ppo_config()
    recording = a.trainer == "HistoryPPOTrainer"
    logs = a.out / "rollouts"
    if not recording:
        logs.mkdir(parents=True, exist_ok=True)
    settings = {
        "train": dict(
            seq_length=64,
            epochs=a.epochs,
            total_steps=10**6,
            batch_size=16,
            checkpoint_interval=10**9,
            eval_interval=10**9,
            trainer=a.trainer,
            tracker=None,
            checkpoint_dir=str(a.out / "checkpoints"),
            rollout_logging_dir=str(logs),
            seed=3,
            save_optimizer=False,
            save_best=False,
            trainer_kwargs={"run": a.run} if recording else {},
        ),
        "model": dict(model_path=str(model), num_layers_unfrozen=1),
        "tokenizer": dict(tokenizer_path=str(model)),
        "optimizer": dict(kwargs=dict(lr=2e-3, betas=[0.9, 0.95], eps=1e-8, weight_decay=1e-6)),
        "scheduler": dict(kwargs=dict(T_max=1e12, eta_min=2e-3)),
        "method": dict(
            num_rollouts=24,
            chunk_size=8,
            ppo_epochs=2,
            init_kl_coef=0.05,
            target=None,
            scale_reward="ignored",
            gen_kwargs=dict(max_new_tokens=12, top_k=0, top_p=1.0, do_sample=True),
        ),
    }
    for s in a.set:
        (section, name), value = s.split("=", 1)[0].split("."), json.loads(s.split("=", 1)[1])
        settings[section][name] = value
    seen = {"calls": [], "logprobs": [], "pushed": [], "updates": 0}
    calls = seen["calls"]
    overhear(seen, logs / a.run)

    def heard(samples, prompts, outputs, tokenizer=None, **kwargs):
        scores = reward(samples, prompts, outputs)
        if a.per_token:
            scores = [[0.0] * (len(tokenizer(o).input_ids) - 1) + [s] for s, o in zip(scores, outputs)]
        if len(calls) == a.break_at:
            scores[1] = float("nan")
        calls.append({"prompts": prompts, "outputs": outputs, "scores": scores})
        return scores

    rng = random.Random(1)
    try:
        trlx.train(
            reward_fn=heard,
            prompts=[prompt(rng) for _ in range(52)],
            eval_prompts=[prompt(rng) for _ in range(4)],
            config=config.evolve(**settings),
        )
    finally:
        (a.out / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
