"""From a run of GRPO on a language model to a model that has read it: recorded, killed, resumed, trained on, evaluated
and exported. The model is tiny, its 49,152 tokens are those of a real one; nothing is fetched."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

pytest.importorskip("trl")
pytest.importorskip("peft")

WORDS = "the quick brown fox jumps over a lazy dog and then sleeps".split()
PROMPTS = [f"Say {a} {b} now." for a in WORDS[:4] for b in WORDS[4:8]]


def record(model, store, kill=0, resume=False, extra="", seed=1):
    "Four recorded updates of GRPO; at update `kill` it says so and waits."
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    from ad_distill.recorders.trl import RolloutRecorder

    def variety(completions, trainer_state, **kwargs):
        if kill and trainer_state.global_step == kill:
            print("at", kill, flush=True)
            time.sleep(60)
        return [len(set(c)) / 20 for c in completions]

    args = trl.GRPOConfig(
        output_dir=f"{store}-out{seed}",
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        max_completion_length=6,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="steps",
        save_steps=2,
        disable_tqdm=True,
        seed=seed,
        per_device_train_batch_size=4,
        num_generations=4,
        max_steps=4,
        beta=0.0,
    )
    recorder = RolloutRecorder()
    trainer = trl.GRPOTrainer(
        model,
        recorder.listen(variety),
        args,
        Dataset.from_dict({"prompt": [p + extra for p in PROMPTS]}),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    )
    task = {"name": "text_rlhf", "params": {"reward": "length"}}
    with recorder.record(trainer, store, task=task):
        trainer.train(resume_from_checkpoint=resume)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A causal language model of two layers with 49,152 tokens: ByteLevel BPE and tokens added to it."
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    learnt = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(PROMPTS, learnt)
    bpe.add_tokens([f"<word{i}>" for i in range(49152 - bpe.get_vocab_size())])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def record_elsewhere(model, store, kill):
    "The same in a process of its own."
    code = f"import test_real_models; test_real_models.record({model!r}, {str(store)!r}, {kill})"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ad_distill(*args):
    from ad_distill.cli.main import main

    main([str(x) for x in args], standalone_mode=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
def test_a_run_that_is_killed_resumed_trained_on_evaluated_and_exported(tmp_path, model):
    from ad_distill.data.store import Store
    from ad_distill.rlhf.rollouts import store_tokenizer

    path = tmp_path / "store"
    run = record_elsewhere(model, path, kill=3)
    assert run.stdout.readline().strip() == "at 3", run.stderr.read()[-2000:]
    assert len(Store.open(path)) == 0  # it is growing
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    killed = Store.open(path)
    assert len(killed) == 1 and len(killed[0]) == 3 * 4 and killed.spaces.action.n == 49152
    before = [killed[0][i].action.tolist() for i in range(8)]

    record(model, path, resume=True)
    record(model, path, extra=" " + " ".join(WORDS), seed=2)
    store = Store.open(path)
    assert [len(h) for h in store] == [16, 16]  # the resumed one in its own history; the other one has longer prompts
    assert [store[0][i].action.tolist() for i in range(8)] == before
    assert all(np.isfinite(h.columns["logprob"]).all() for h in store)
    assert len(store_tokenizer(store)) == 49152
    store.verify()

    some = ["--steps", 2, "--stride", 2, "--batch", 1, "--quiet"]
    text = ["-s", "lora", 2, "-s", "max_tokens", 256, "-s", "max_action_tokens", 8]
    table, lm, rl = tmp_path / "table.csv", tmp_path / "lm", tmp_path / "rl"
    ad_distill("train", path, "--model", "lm", "--base", model, "--episodes", 3, *some, *text, "--out", lm)
    ad_distill("evaluate", lm, "--episodes", 3, "--streams", 1, "--out", table, "--quiet")
    ad_distill("export", path, "--to", "datasets", "--out", tmp_path / "table")
    ad_distill("train", path, "--model", "rl", "--episodes", 2, *some, "-s", "width", 4, "--out", rl)
    assert len(table.read_text().splitlines()) > 3 and rl.is_dir()


def always_the_same(model, folder):
    "The model with weights of a policy that has collapsed: whatever it reads, one token has nearly all probability."
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dull = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        for p in dull.parameters():
            p.zero_()
        dull.model.norm.weight[0] = 1
        dull.get_input_embeddings().weight[:, 0] = 1
        dull.get_input_embeddings().weight[100, 0] = 60
    dull.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_grpo_on_a_real_vocabulary_keeps_tokens_and_prompts(tmp_path, model, monkeypatch):
    from ad_distill.data.store import Store
    from ad_distill.registry import UserError
    from ad_distill.rlhf.rollouts import text_store

    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    words = ["text_rlhf", "-p", "prompts", "prompts.txt", "--source", "trl_grpo", "-s", "model", model]
    small = ["-s", "rollouts", 8, "-s", "group", 4, "-s", "max_tokens", 6]
    real = ["-s", "lora", 4, "-s", "dtype", "bfloat16", "-s", "micro_batch", 4, "-s", "schedule", "cosine"]
    ad_distill("generate", *words, *small, *real, "--histories", 1, "--episodes", 24, "--out", "store", "--quiet")

    said = json.loads((tmp_path / "store/store.json").read_text())
    said.pop("crc32")
    said["info"]["task"]["params"]["prompts"] = str(tmp_path / "prompts.txt")  # as stores were written once
    (tmp_path / "store/store.json").write_text(json.dumps(said))
    ad_distill("generate", *words, *small, *real, "--histories", 1, "--episodes", 24, "--out", "store", "--quiet")
    with pytest.raises(UserError, match="holds other histories: task"):
        ad_distill("generate", *words, "-p", "reward", "vader", *small, *real, "--histories", 1, "--episodes", 24,
                   "--out", "store", "--quiet")  # fmt: skip

    monkeypatch.chdir("/")
    (tmp_path / "prompts.txt").unlink()  # the store has its prompts
    store = Store.open(tmp_path / "store")
    history, texts = store[0], text_store(store)[0]
    assert store.spaces.action.n == 49152 and len(history) == 24 and (history.lengths <= 6).all()
    assert np.isfinite(history.columns["logprob"]).all()
    assert set(texts.columns["state"]) <= set(PROMPTS) and len(set(texts.columns["state"])) > 1
    assert np.allclose(history.returns, [len(s.split()) / 20 for s in texts.columns["action"]])
    few = ["--steps", 1, "--stride", 2, "--batch", 1, "--episodes", 3, "--no-probe", "--quiet"]
    text = ["-s", "lora", 2, "-s", "max_tokens", 256]
    ad_distill("train", tmp_path / "store", "--model", "lm", "--base", model, *few, *text, "--out", tmp_path / "lm")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    dull = [*words[:-1], always_the_same(model, tmp_path / "dull"), *small, "--histories", 1, "--episodes", 400]
    with pytest.raises(UserError, match=r"completions collapsed: after \d+ updates only 1 of the last 32") as e:
        ad_distill("generate", *dull, "--out", "stopped", "--quiet")
    assert "\n" not in str(e.value) and not (tmp_path / "stopped").exists()
