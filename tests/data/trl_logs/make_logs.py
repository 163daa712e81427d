"""A log of completions by TRL's GRPOTrainer: python make_logs.py OUT STEPS LOGGING_STEPS [STEPS_PER_GENERATION]"""
import json
import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

LOGS = Path(__file__).resolve().parent.parent / "trlx_logs"


def vowels(completions, **kwargs): return [sum(c in "aeiou" for c in x) / max(len(x), 1) for x in completions]


def short(completions, **kwargs): return [None if len(x) > 45 else 1 - len(x) / 60 for x in completions]


def main(out, steps, logging_steps, steps_per_generation=2):
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(LOGS / "tokenizer", padding_side="left")
    special = dict(bos_token_id=0, eos_token_id=0, pad_token_id=1)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=768, n_layer=1, n_head=2, n_embd=32, n_positions=64, **special))
    rollouts = json.loads(next((LOGS / "complete").glob("run-11*/rollouts-00000.json")).read_text())["rollouts"]
    prompts = Dataset.from_dict({"prompt": sorted({r["prompt"] for r in rollouts})})
    args = GRPOConfig(output_dir=out, per_device_train_batch_size=8, num_generations=4, max_completion_length=12,
                      max_steps=int(steps), logging_steps=int(logging_steps), learning_rate=3e-3,
                      gradient_accumulation_steps=2, steps_per_generation=int(steps_per_generation),
                      log_completions=True, report_to=[], use_cpu=True, save_strategy="no", reward_weights=[1., .5],
                      seed=3, bf16=False, gradient_checkpointing=False)
    GRPOTrainer(model, [vowels, short], args=args, train_dataset=prompts, processing_class=tokenizer).train()


if __name__ == "__main__": main(*sys.argv[1:])
