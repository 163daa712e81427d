"""Training steps: our trainer, on `transformers.Trainer`, against a bare loop with the same model and batches."""
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import compare
from real import adapters, cut_model
from transformers import get_cosine_schedule_with_warmup

from ad_distill.data.dataset import Strided, TrajectoryDataset, Windows, collate
from ad_distill.data.tokens import sample
from ad_distill.language.serializer import make_serializer
from ad_distill.language.tokenizers import build_tokenizer
from ad_distill.models.lm import LMModel, LMSettings
from ad_distill.models.rl import RLConfig, RLModel
from ad_distill.sources.core import generate, make_source
from ad_distill.tasks.core import make_task
from ad_distill.train import DistillArguments, MuonAdamW, distill_arguments, hidden_matrices, train


def train_step_vs_bare_loop(quick: bool) -> dict:
    histories, steps, pairs = (4, 6, 1) if quick else (64, 300, 5)
    task = make_task("dark_room")
    with tempfile.TemporaryDirectory() as where:
        store = generate(task, make_source("q_learning"), Path(where) / "store", histories, 300)
        args = DistillArguments(output_dir=str(Path(where) / "out"), max_steps=steps, save_strategy="no", use_cpu=True)
        batch = args.per_device_train_batch_size
        dataset = TrajectoryDataset(store, n=batch * steps)
        trained = {}

        def fresh():
            torch.manual_seed(0)
            return RLModel(RLConfig(store.spaces, reward_values=(0., 1.)))

        def ours(model):
            train(model, dataset, args, progress=False)

        def theirs(model):
            matrices = hidden_matrices(model)
            others = [p for p in model.parameters() if not any(p is m for m in matrices)]
            betas = args.adam_beta1, args.adam_beta2
            optimizer = MuonAdamW(matrices, others, args.muon_lr, args.learning_rate, betas, args.weight_decay)
            schedule = get_cosine_schedule_with_warmup(optimizer, int(args.warmup_steps), steps)
            model.train()
            for indices in np.arange(len(dataset)).reshape(-1, batch):
                model(**collate(dataset.__getitems__(indices)))["loss"].backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()

        def run(loop):
            model = trained[loop] = fresh()
            loop(model)
            return steps

        result = compare(partial(run, ours), partial(run, theirs), pairs)
        for a, b in zip(trained[ours].parameters(), trained[theirs].parameters()):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        return {**result, "unit": "training steps per CPU-second", "target": {"ratio": 0.9},
                "what": f"{steps} steps of {batch} windows of 200 transitions, start-up included; "
                        "theirs: a for loop to the same weights"}


def lora_model():
    from peft import get_peft_model
    return get_peft_model(cut_model(), adapters())


def lora_step_vs_transformers(quick: bool) -> dict:
    steps, pairs = (1, 1) if quick else (12, 3)
    task = make_task("dark_room", size=5, horizon=8)
    with tempfile.TemporaryDirectory() as where:
        store = generate(task, make_source("q_learning"), Path(where) / "store", 4, 60)
        serializer = make_serializer("compact", store.spaces)
        tokenizer = build_tokenizer(serializer, sample(store))
        wanted = {"max_steps": steps, "save_strategy": "no", "per_device_train_batch_size": 2}
        args = distill_arguments(Path(where) / "out", wanted, 0, {"base": "a cut model", "lora": 8})
        settings = LMSettings(episodes=4)
        data = dict(format="language", serializer=serializer, tokenizer=tokenizer)
        dataset = TrajectoryDataset(store, windows=Windows(4, Strided(10)), n=2 * steps, **data)

        def ours():
            train(LMModel(lora_model(), serializer, tokenizer, settings), dataset, args, progress=False)
            return steps

        def theirs():
            model = lora_model().train()
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.learning_rate)
            for indices in np.arange(len(dataset)).reshape(-1, 2):
                batch = collate(dataset.__getitems__(indices))
                batch.pop("field")
                model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            return steps

        result = compare(ours, theirs, pairs)
        return {**result, "unit": "training steps per CPU-second", "target": {"ratio": 0.9},
                "what": f"{steps} LoRA steps of 2 windows on 2 layers of width 576 with 49,152 tokens, making the "
                        "model included; theirs: a for loop over transformers and peft"}
