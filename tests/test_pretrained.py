"""The road with a pretrained model: a small Llama with a real vocabulary, and a real model if there is one."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("peft", reason="LoRA needs peft: pip install 'ad_distill[lora]'")

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

from ad_distill.cli.main import main  # noqa: E402
from ad_distill.data.dataset import Strided, Windows, dataset_for  # noqa: E402
from ad_distill.data.store import Store  # noqa: E402
from ad_distill.models.lm import saved_settings  # noqa: E402
from ad_distill.models.loading import load_model  # noqa: E402
from ad_distill.registry import UserError  # noqa: E402
from ad_distill.train import read_summary, with_probes  # noqa: E402

REAL = os.environ.get("AD_DISTILL_LM", "")  # a folder with a causal language model, or one GGUF file
WINDOWS = ["--stride", "2", "--episodes", "4", "--batch", "2", "--quiet"]


def big_vocabulary(begins=True):
    "A byte-level tokenizer with 49,152 tokens and a BOS, which it puts before a text or not, made without a network."
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(a, b) for a in letters for b in letters][: 49_152 - 1 - len(letters)]
    vocab = {w: i for i, w in enumerate(dict.fromkeys([*letters, *(a + b for a, b in pairs)]))}
    tokenizer = Tokenizer(models.BPE(vocab, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    first = ("<s>", tokenizer.token_to_id("<s>"))
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[first])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", pad_token="<s>")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "A Llama in bfloat16, as models come today."
    path, tokenizer = tmp_path_factory.mktemp("base"), big_vocabulary()
    assert len(tokenizer) == 49_152
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, tie_word_embeddings=True, **shape)
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "bandit"
    typed("generate", "bandit", "--source", "ucb", "--histories", "6", "--episodes", "12", "--out", path, "--quiet")
    return path


def typed(*args):
    "Run a command here, as what it imports takes seconds."
    main([str(a) for a in args], standalone_mode=False)


def test_the_whole_road(base, store, tmp_path, capsys):
    out, lora = tmp_path / "model", ["--model", "lm", "--base", base, "-s", "lora", "4"]
    typed("train", store, *lora, *WINDOWS, "--steps", "6", "--no-probe", "--out", out)
    assert "trained)" in capsys.readouterr().out
    summary = read_summary(out)
    assert summary["trainable_parameters"] < summary["parameters"] / 20
    assert not any(k.startswith("perplexity") for k in summary)
    model = load_model(out, "cpu")
    assert model.bos is not None and model.lm.dtype == torch.float32

    typed("probe", out, "--json", "--quiet")
    found = json.loads(capsys.readouterr().out)
    assert {"perplexity_action", "legal_action_rate"} <= found.keys() <= {"path", *read_summary(out)}
    typed("probe", out, "--store", store, "--json")
    assert json.loads(capsys.readouterr().out) == found, "it was asked before"

    typed("evaluate", out, "--episodes", "3", "--instances", "2", "--streams", "2", "--out", tmp_path / "s.csv", "-q")
    assert (tmp_path / "s.csv").read_text().count("\n") == 1 + 3 * 2 * 2
    plain = LlamaForCausalLM.from_pretrained(out)
    assert sum(p.numel() for p in plain.parameters()) < summary["parameters"], "adapters are merged"


def test_acting_reads_what_training_read(base, store, tmp_path):
    "Tokens of a context, its BOS included, are those of a window."
    typed(
        "train", store, "--model", "lm", "--base", base, *WINDOWS, "--steps", "1", "--no-probe", "--out", tmp_path / "m"
    )
    model, windows = load_model(tmp_path / "m", "cpu"), Windows(4, Strided(2))
    opened = Store.open(store)
    item = dataset_for(model, opened, windows, 1)[0]
    ids = item["input_ids"]
    assert ids[0] == model.bos and (ids[1:] != model.bos).all()
    from ad_distill.models.lm_context import Context

    context = Context(model, 1, 8)
    for part in np.array_split(ids[1:].numpy(), 3):
        context.write([part.tolist()])
        with torch.inference_mode():
            streamed = context.read()[0, -1]
    with torch.no_grad():
        whole = model.lm(input_ids=ids[None]).logits[0, -1]
    torch.testing.assert_close(streamed, whole, rtol=1e-3, atol=1e-4)


def test_what_a_model_is_used_to(base, store, tmp_path):
    "BOS as its tokenizer has it, lines cut by that; one that was trained here goes on as it was."
    chat, few = tmp_path / "chat", [*WINDOWS, "--steps", "1", "--no-probe"]
    shutil.copytree(base, chat)
    big_vocabulary(begins=False).save_pretrained(chat)
    typed("train", store, "--model", "lm", "--base", chat, *few, "--out", tmp_path / "a")
    asked = ["-s", "bos", "true", "-s", "cut", "values"]
    typed("train", store, "--model", "lm", "--base", chat, *asked, *few, "--out", tmp_path / "b")
    typed("train", store, "--model", "lm", "--base", tmp_path / "b", *few, "--out", tmp_path / "c")
    found = [saved_settings(tmp_path / x) for x in "abc"]
    assert [(s.bos, s.cut) for s in found] == [(False, "lines"), (True, "values"), (True, "values")]


def test_a_failed_start_leaves_nothing(base, store, tmp_path):
    out = tmp_path / "model"
    wrong = [
        "train",
        store,
        "--model",
        "rl",
        *WINDOWS,
        "--steps",
        "2",
        "-s",
        "gradient_checkpointing",
        "true",
        "--out",
        out,
    ]
    with pytest.raises(Exception, match="language models"):
        typed(*wrong)
    assert not out.exists()
    right = ["--model", "lm", "--base", base, "-s", "gradient_checkpointing", "true", "-s", "bf16", "true"]
    typed("train", store, *right, *WINDOWS, "--steps", "2", "--no-probe", "--out", out)
    assert read_summary(out)["steps"] == 2


def test_killed_while_it_is_probed(base, store, tmp_path, monkeypatch):
    "The model is there, and resuming asks it again."
    out, reads = tmp_path / "model", []
    args = ["train", store, "--model", "lm", "--base", base, *WINDOWS, "--steps", "2", "--out", out]

    def killed(*args, **kwargs):
        reads.append(load_model(out, "cpu").bos)
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("ad_distill.evaluation.probes.text_metrics", killed)
        with pytest.raises(MemoryError):
            typed(*args)
    assert reads and "perplexity_action" not in read_summary(out)
    typed(*args, "--resume")
    assert "perplexity_action" in read_summary(out)


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
def test_killed_before_its_first_checkpoint(store, tmp_path):
    "The next start goes on cleanly, with other settings too; while the first is alive, it is left alone."
    out = tmp_path / "model"
    small = ["train", store, *WINDOWS, "--no-probe", "--out", out]
    long = [sys.executable, "-m", "ad_distill", *map(str, small), "--steps", "100000"]
    run = subprocess.Popen(long, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    while not (out / "settings.json").exists():
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.1)
    with pytest.raises(UserError, match="another process is training"):
        typed(*small, "--steps", "3")
    run.kill()
    run.communicate()
    shutil.copytree(out, tmp_path / "same")
    typed(*small, "--steps", "3")
    typed(*small[:-1], tmp_path / "same", "--steps", "2", "--resume")
    assert read_summary(out)["steps"] == 3 and read_summary(tmp_path / "same")["steps"] == 2
    assert {p.name for p in out.iterdir()} == {
        "checkpoints",
        "config.json",
        "model.safetensors",
        "settings.json",
        "training.json",
    }


@pytest.mark.skipif(
    not REAL, reason="AD_DISTILL_LM names no folder with a real causal language model (or its GGUF file)"
)
def test_a_real_model(store, tmp_path):
    "Some LoRA steps make it better at what it reads; it needs 2 GB of memory and some minutes."
    out = tmp_path / "model"
    lora = ["--model", "lm", "--base", REAL, "-s", "lora", "8", "-s", "max_tokens", "512"]
    typed("train", store, *lora, *WINDOWS, "--steps", "60", "-s", "logging_steps", "1", "--no-probe", "--out", out)
    log = [e["loss"] for e in read_summary(out)["log"] if "loss" in e]
    assert np.mean(log[-4:]) < 0.9 * np.mean(log[:4])
    found = with_probes(Path(out), read_summary(out), Store.open(store), Windows(4, Strided(2)))
    assert found["legal_action_rate"] > 0.5
