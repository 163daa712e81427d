"""Distillation of stories as text: `distill`, all in all, against a bare loop over the same tensors."""
import copy
import tempfile
from functools import cache
from pathlib import Path

import torch
from harness import compare
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

from ad_distill.data.dataset import Strided, Windows, collate, dataset_for
from ad_distill.experiments.stories import story_writer, tokens_of
from ad_distill.language.serializer import FIELDS
from ad_distill.models.loading import load_model
from ad_distill.sources.core import generate, make_source
from ad_distill.tasks.core import make_task
from ad_distill.train import MuonAdamW, distill, distill_arguments, hidden_matrices

WEIGHTS = {"state": 0.0, "action": 1.0, "reward": 1.0, "logprob": 0.0, "markup": 0.0}
SHAPE = dict(width=64, layers=3, heads=4, max_tokens=1024, field_weights=WEIGHTS)
BATCH = 16


def bare_loop(lm, batches, args):
    "The usual loop around a model of transformers."
    matrices = hidden_matrices(lm)
    others = [p for p in lm.parameters() if not any(p is m for m in matrices)]
    betas = args.adam_beta1, args.adam_beta2
    optimizer = MuonAdamW(matrices, others, args.muon_lr, args.learning_rate, betas, args.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(args.warmup_steps), len(batches))
    for batch in batches:
        lm(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), args.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def with_labels(batch):
    "A batch whose labels are the tokens that are learnt."
    learnt = torch.tensor([WEIGHTS.get(name, 0.0) > 0 for name in FIELDS])
    labels = batch["labels"].where(learnt[batch["field"]], -100)
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


def distill_stories_vs_bare_loop(quick: bool) -> dict:
    histories, steps, rollouts, pairs = (8, 2, 8, 1) if quick else (64, 8, 48, 2)
    task = make_task("story_rlhf", text="words").view("language")
    writer, windows = story_writer(task, bind="grade"), Windows(rollouts, Strided(1))
    shape = {**SHAPE, **tokens_of(writer)}
    training = dict(max_steps=steps, per_device_train_batch_size=BATCH, save_strategy="no", use_cpu=True)
    with tempfile.TemporaryDirectory() as where:
        store = generate(task, make_source("thompson_words"), Path(where) / "store", histories, rollouts)
        runs = iter(range(1000))

        def ours():
            path = Path(where) / f"model_{next(runs)}"
            distill(task, store, path, windows, shape, training, progress=False, serializer=writer, probe=False)
            return steps * BATCH

        @cache
        def prepared():  # of the first model of ours, in the call that does not count
            model = load_model(Path(where) / "model_0")
            data = dataset_for(model, store, windows, steps * BATCH)
            together = [collate(data.__getitems__(range(i, i + BATCH))) for i in range(0, len(data), BATCH)]
            batches = [with_labels(batch) for batch in together]
            with torch.no_grad():  # both mean the same by a loss
                loss = model.lm(**batches[0]).loss
                torch.testing.assert_close(model(**together[0])["loss"], loss, rtol=1e-4, atol=1e-5)
            return model.lm.config, batches

        def theirs():
            config, batches = prepared()
            torch.manual_seed(0)
            lm = AutoModelForCausalLM.from_config(copy.deepcopy(config)).train()
            bare_loop(lm, batches, distill_arguments(Path(where) / "bare", training, 0))
            return steps * BATCH

        result = compare(ours, theirs, pairs)
        tokens = sum(int(b["attention_mask"].sum()) for b in prepared()[1]) / (steps * BATCH)
    what = (f"{steps} updates of {BATCH} windows of {rollouts} stories as words, bind=grade, {tokens:.0f} tokens each; "
            "ours: distill, from a store to a saved model; theirs: a for loop over the same tensors")
    return {**result, "unit": "windows per CPU-second", "target": {"ratio": 0.9}, "what": what,
            "tokens": {"a window": tokens, "ours": result["ours"] * tokens, "theirs": result["theirs"] * tokens}}
