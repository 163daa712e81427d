"""The recorders. Most of it needs neither trlX nor TRL. A real run of trlX is made when AD_DISTILL_TRLX_PYTHON names
the python of an environment made with requirements-trlx.txt; tests that need TRL are skipped where it is not installed
(pip install 'ad_distill[rlhf]')."""

import ast
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, python, run

from ad_distill.recorders import trlx as recorder
from ad_distill.registry import UserError

RECORDED = ROOT / "tests/data/trlx_recorded"
TRLX = os.environ.get("AD_DISTILL_TRLX_PYTHON")
needs_trlx = pytest.mark.skipif(
    not TRLX, reason="AD_DISTILL_TRLX_PYTHON names no python with trlX (requirements-trlx.txt)"
)
needs_trl = pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="TRL is not installed: pip install 'ad_distill[rlhf]'"
)


# ---- trlX, without trlX


def test_the_module_imports_nothing_but_trlx_and_the_standard_library():
    tree = ast.parse((ROOT / "ad_distill/recorders/trlx.py").read_text(encoding="utf-8"))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names} | {
        "." * n.level + (n.module or "") for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)
    }
    assert {n.split(".")[0] for n in names} <= set(sys.stdlib_module_names) | {"trlx"}


def test_the_file_works_alone(tmp_path):
    "Copied beside a script, under another name."
    (tmp_path / "recorder.py").write_bytes((ROOT / "ad_distill/recorders/trlx.py").read_bytes())
    out = python(
        "import recorder; f = recorder.RolloutFolder('run', {}); "
        "print(f.append([{'score': 1}], optimizer_step=0).name)",
        cwd=tmp_path,
    )
    assert out.stdout.strip() == "rollouts-00000.json"


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "a.json"
    recorder.write_json(path, [1])

    def fail(*args):
        raise OSError("disk full")

    if step != "write":
        monkeypatch.setattr(recorder.os, step, fail)
    with pytest.raises((OSError, ValueError)):
        recorder.write_json(path, [float("nan")] if step == "write" else [2])
    monkeypatch.undo()
    assert json.loads(path.read_text()) == [1] and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
def test_every_file_is_whole_after_kill_9(tmp_path):
    code = "from ad_distill.recorders.trlx import RolloutFolder\nf = RolloutFolder('run', {'a': 1})\n"
    code += "while True: f.append([{'logprobs': [-.1234567] * 20000}] * 5, optimizer_step=f.next)"
    p = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while len(list(tmp_path.glob("run/rollouts-*.json"))) < 3:
        time.sleep(0.02)
        assert p.poll() is None
    os.kill(p.pid, signal.SIGKILL)
    p.wait()
    files = sorted(tmp_path.glob("run/rollouts-*.json"))
    for n, f in enumerate(files):
        d = json.loads(f.read_text())
        assert d["iteration"] == d["optimizer_step"] == n and len(d["rollouts"]) == 5
    before = [f.read_bytes() for f in files]
    again = recorder.RolloutFolder(tmp_path / "run", {"a": 2})
    assert again.append([], optimizer_step=0).name == f"rollouts-{len(files):05d}.json"
    assert [f.read_bytes() for f in files] == before and json.loads((tmp_path / "run/config.json").read_text()) == {
        "a": 1
    }


def test_without_trlx_there_is_one_clear_line():
    if recorder.AcceleratePPOTrainer is not object:
        pytest.skip("trlX is installed")
    with pytest.raises(ModuleNotFoundError, match="requirements-trlx.txt"):
        recorder.HistoryPPOTrainer(None)


class Tensor(list):
    "As much of a tensor as the recorder asks for."

    def tolist(self):
        return list(self)


class FakePPOTrainer:
    "trlX's order of calls: see 'The trainer' in the notebook."

    def __init__(self, config, reward_fn=None, rank=0, **kwargs):
        self.config, self.reward_fn, self.pushed = config, reward_fn, []
        self.accelerator = types.SimpleNamespace(is_main_process=rank == 0)
        self.tokenizer, self.kl_ctl = (
            types.SimpleNamespace(pad_token_id=1, eos_token_id=0),
            types.SimpleNamespace(value=0.05),
        )
        if config.train.rollout_logging_dir is not None:
            self.log_rollouts = True
            self.setup_rollout_logging(config)

    def make_experience(self, num_rollouts=1024, iter_count=0):
        elements = []
        for chunk in range(2):
            prompts, outputs = ["Dan ran.", "Ann sat."], [f" one {chunk}", f" two {chunk}"]
            scores = self.reward_fn(
                samples=[p + o for p, o in zip(prompts, outputs)],
                prompts=prompts,
                outputs=outputs,
                tokenizer=self.tokenizer,
            )
            elements += [
                types.SimpleNamespace(
                    query_tensor=Tensor([1, 5]),
                    response_tensor=Tensor([7 + chunk, 0]),
                    logprobs=Tensor([-0.12345678, -1.0]),
                    values=Tensor([0.0, 1.0]),
                    rewards=Tensor([0.0, float(s)]),
                )
                for s in scores
            ]
        self.push_to_store(elements)

    def evaluate(self):
        self.reward_fn(samples=["x"], prompts=["evaluated"], outputs=["x"], tokenizer=self.tokenizer)

    def push_to_store(self, data):
        self.pushed.append((len(list(Path(self.rollout_logging_dir).glob("rollouts-*"))), data))

    def load(self, directory=None, **kwargs):
        self.opt = types.SimpleNamespace(state={"w": {"step": 8}})


@pytest.fixture
def fake(monkeypatch):
    "The recorder on a stand-in for trlX."
    registered = []

    def register_trainer(cls):
        registered.append(cls.__name__)
        return cls

    for name, what in {
        "trlx": {},
        "trlx.trainer": {"register_trainer": register_trainer},
        "trlx.trainer.accelerate_ppo_trainer": {"AcceleratePPOTrainer": FakePPOTrainer},
        "trlx.utils": {},
        "trlx.utils.modeling": {"gather_dict": lambda d: d},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(what)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("recorder_on_a_fake", recorder.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert registered == ["HistoryPPOTrainer"]
    return module


def config(folder, **method):
    train, method = (
        types.SimpleNamespace(rollout_logging_dir=folder and str(folder)),
        types.SimpleNamespace(scale_reward="ignored", **method),
    )
    return types.SimpleNamespace(train=train, method=method, to_dict=lambda: {"train": vars(train)})


def test_the_trainer_writes_before_each_update_and_hears_no_evaluation(tmp_path, fake):
    seen = []

    def reward(prompts, **kwargs):
        seen.append(prompts)
        return [0.25, np.float32(0.5)][: len(prompts)]

    t = fake.HistoryPPOTrainer(config(tmp_path / "not/there"), run="a", reward_fn=reward)
    assert not t.log_rollouts  # trlX's own log is off
    t.make_experience(4)
    t.evaluate()
    t.make_experience(4, 6)
    t.evaluate()
    assert len(seen) == 6 and t.reward_fn is reward
    assert [n for n, _ in t.pushed] == [1, 2]  # the file is there when trlX gets the batch
    a, b = (json.loads((tmp_path / f"not/there/a/rollouts-0000{i}.json").read_text()) for i in range(2))
    assert (a["iteration"], a["optimizer_step"], b["iteration"], b["optimizer_step"]) == (0, 0, 1, 6)
    assert {k: a[k] for k in ("kl_coef", "pad_token_id", "eos_token_id")} == {
        "kl_coef": 0.05,
        "pad_token_id": 1,
        "eos_token_id": 0,
    }
    assert [r["output"] for r in a["rollouts"]] == [" one 0", " two 0", " one 1", " two 1"]
    assert a["rollouts"][3] == {
        "prompt": "Ann sat.",
        "output": " two 1",
        "score": 0.5,
        "query_tensor": [1, 5],
        "response_tensor": [8, 0],
        "logprobs": [-0.1234568, -1.0],
        "values": [0.0, 1.0],
        "rewards": [0.0, 0.5],
    }


def test_a_resumed_training_adds_to_the_run(tmp_path, fake):
    reward = lambda prompts, **kwargs: [1.0] * len(prompts)
    fake.HistoryPPOTrainer(config(tmp_path), run="a", reward_fn=reward).make_experience()
    first = (tmp_path / "a/rollouts-00000.json").read_bytes()
    t = fake.HistoryPPOTrainer(config(tmp_path), run="a", reward_fn=reward)
    t.load("checkpoint")
    t.make_experience()
    assert (tmp_path / "a/rollouts-00000.json").read_bytes() == first
    assert json.loads((tmp_path / "a/rollouts-00001.json").read_text())["optimizer_step"] == 8
    t = fake.HistoryPPOTrainer(config(tmp_path), reward_fn=reward)
    assert Path(t.rollout_logging_dir).name.startswith("run-")  # without a name, a folder of its own as in trlX


@pytest.mark.parametrize(
    "reward, says",
    [
        (lambda prompts, **k: [1.0, float("nan")], "score nan for the completion of 'Ann sat.'"),
        (lambda prompts, **k: [1.0], "1 scores for 2 rollouts"),
        (lambda prompts, **k: {}["x"], "raised KeyError.*prompt 'Dan ran.'"),
    ],
    ids=["nan", "count", "raises"],
)
def test_a_bad_reward_function_is_one_line_and_what_was_recorded_stays(tmp_path, fake, reward, says):
    t = fake.HistoryPPOTrainer(config(tmp_path), run="a", reward_fn=lambda prompts, **k: [1.0] * len(prompts))
    t.make_experience()
    t.reward_fn = reward
    with pytest.raises(ValueError, match=says) as e:
        t.make_experience(4, 6)
    assert "batch 1, after 6 updates" in str(e.value) and "\n" not in str(e.value)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["config.json", "rollouts-00000.json"]


def test_nowhere_to_write(fake):
    with pytest.raises(ValueError, match="rollout_logging_dir"):
        fake.HistoryPPOTrainer(config(None))


def check_law(run, reference, tolerance):
    "rewards = -kl * (logprob - ref) + score at the last index; no penalty where the token before is padding."
    n = 0
    for f, expected in zip(sorted(run.glob("rollouts-*.json")), reference, strict=True):
        d = json.loads(f.read_text())
        for r, ref in zip(d["rollouts"], expected, strict=True):
            tokens, l = sum(t != d["pad_token_id"] for t in r["response_tensor"]), len(r["logprobs"])
            assert l == len(r["values"]) == len(r["rewards"]) == len(ref) == min(tokens + 2, len(r["response_tensor"]))
            law = -d["kl_coef"] * (np.array(r["logprobs"]) - ref) * (np.arange(l) - 1 < tokens)
            law[-1] += r["score"]
            np.testing.assert_allclose(r["rewards"], law, atol=tolerance)
            n += 1
    return n


def test_the_law_on_a_real_recorded_run():
    assert check_law(RECORDED / "run", json.loads((RECORDED / "reference_logprobs.json").read_text()), 2e-7) == 380


# ---- trlX itself


def real_run(out, *args, fails=False):
    res = run(TRLX, ROOT / "tests/trlx_run.py", out, *args, cwd=ROOT, check=not fails, PYTHONPATH=str(ROOT))
    return json.loads((out / "seen.json").read_text()), res


def check_against_trlx(run, seen, first=0):
    "Field by field what trlX kept in memory; the batches, and the reference by which the law holds."
    files = sorted(run.glob("rollouts-*.json"))[first:]
    rows, reference = [r for chunk in seen["logprobs"][1::2] for r in chunk], []
    for f, pushed in zip(files, seen["pushed"], strict=True):
        d = json.loads(f.read_text())
        assert pushed["files"] == d["iteration"] + 1  # written before trlX has it, and so before any update on it
        reference.append([])
        for r, e in zip(d["rollouts"], pushed["elements"], strict=True):
            assert (r["query_tensor"], r["response_tensor"]) == (e["query_tensor"], e["response_tensor"])
            for k in ("logprobs", "values", "rewards"):
                np.testing.assert_allclose(r[k], e[k], atol=1e-7)
            at = len(r["query_tensor"]) - 1
            reference[-1].append(rows.pop(0)[at : at + len(r["logprobs"])])
    assert not rows
    heard = iter(r for f in files for r in json.loads(f.read_text())["rollouts"])
    recorded = [c for c in seen["calls"] if c["prompts"] != seen["calls"][-1]["prompts"]]  # all but evaluations
    for c in recorded:
        for p, o, s, r in zip(c["prompts"], c["outputs"], c["scores"], heard):
            assert (p, o, s if isinstance(s, float) else sum(s)) == (r["prompt"], r["output"], r["score"])
    assert next(heard, None) is None
    return reference


@needs_trlx
def test_trlx_a_run_and_its_resumption(tmp_path):
    saving = ["--set", "train.save_optimizer=true", "train.checkpoint_interval=8"]
    seen, _ = real_run(tmp_path, "--epochs", "3", *saving)
    folder = tmp_path / "rollouts/run"
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        *(f"rollouts-0000{i}.json" for i in range(3)),
    ]  # the last batch too
    assert (
        [json.loads(p.read_text())["optimizer_step"] for p in sorted(folder.glob("rollouts-*"))]
        == [p["updates"] for p in seen["pushed"]]
        == [0, 4, 8]
    )
    assert check_law(folder, check_against_trlx(folder, seen), 2e-7) == 76
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    seen, _ = real_run(
        tmp_path, "--epochs", "2", *saving[:2], f'train.resume_from_checkpoint="{tmp_path}/checkpoints/checkpoint_08"'
    )
    assert all((folder / k).read_bytes() == v for k, v in before.items())
    check_against_trlx(folder, seen, first=3)
    assert [json.loads(p.read_text())["optimizer_step"] for p in sorted(folder.glob("rollouts-*"))] == [0, 4, 8, 8, 12]


@needs_trlx
@pytest.mark.parametrize(
    "args",
    [["--pad-is-eos"], ["--per-token"], ["--set", 'method.scale_reward="running"', "method.target=2.0"]],
    ids=["pad is eos", "scores per token", "scaled scores, adaptive KL"],
)
def test_trlx_met_in_the_wild(tmp_path, args):
    seen, _ = real_run(tmp_path, "--epochs", "2", *args)
    reference = check_against_trlx(tmp_path / "rollouts/run", seen)
    for f, refs in zip(sorted((tmp_path / "rollouts/run").glob("rollouts-*.json")), reference, strict=True):
        d = json.loads(f.read_text())
        for r, ref in zip(d["rollouts"], refs, strict=True):
            l, tokens = len(ref), sum(t != d["pad_token_id"] for t in r["response_tensor"])
            law = -d["kl_coef"] * (np.array(r["logprobs"]) - ref) * (np.arange(l) - 1 < tokens)
            if "scores" in r:
                law[: len(r["scores"])] += r["scores"]
            else:
                law[-1] += r["score"] / r.get("score_scale", 1)
            np.testing.assert_allclose(r["rewards"], law, atol=1e-6)


@needs_trlx
def test_trlx_stops_at_nan(tmp_path):
    _, res = real_run(tmp_path, "--epochs", "3", "--break-at", "6", fails=True)
    assert res.returncode and "score nan for the completion of" in res.stderr.strip().splitlines()[-1] + res.stderr
    assert [p.name for p in sorted((tmp_path / "rollouts/run").glob("rollouts-*"))] == ["rollouts-00000.json"]


# ---- TRL


@pytest.fixture
def story_model():
    pytest.importorskip("trl")
    from ad_distill.rlhf.stories.model import story_model_path

    return str(story_model_path())


def trl_config(kind, folder, **kwargs):
    import trl

    return getattr(trl, f"{kind}Config")(
        output_dir=str(folder),
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        max_completion_length=12,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=1,
        **kwargs,
    )


@needs_trl
@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
@pytest.mark.filterwarnings("ignore")
def test_trl_rollouts_in_order_with_the_acting_policys_logprobs(tmp_path, story_model, kind):
    import copy

    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    from ad_distill.recorders.trl import RolloutRecorder
    from ad_distill.data.store import Store
    from ad_distill.rlhf.rollouts import episode_tokens

    heard, prompts = (
        [],
        ["Dan went to the market.", "Ann ran to the lake.", "Kate drove to the farm.", "Leo walked to the library."],
    )

    def length(prompts, completions, completion_ids, trainer_state, **kwargs):
        if trainer.model.training:
            heard.append(
                (
                    list(prompts),
                    copy.deepcopy(completion_ids),
                    copy.deepcopy(trainer.model.state_dict()),
                    trainer_state.global_step,
                )
            )
        return [len(c.split()) / 10 for c in completions]

    async def seldom(completions, **kwargs):
        return [None if len(c.split()) > 6 else 1.0 for c in completions]

    settings = dict(
        per_device_train_batch_size=4,
        num_generations=2,
        gradient_accumulation_steps=2,
        steps_per_generation=4,
        max_steps=5,
        temperature=0.8,
        reward_weights=[1.0, 0.5],
        eval_strategy="steps",
        eval_steps=2,
        per_device_eval_batch_size=4,
    )
    recorder = RolloutRecorder()
    trainer = getattr(trl, f"{kind}Trainer")(
        story_model,
        recorder.listen([length, seldom]),
        trl_config(kind, tmp_path / "out", **settings),
        Dataset.from_dict({"prompt": prompts * 4}),
        Dataset.from_dict({"prompt": prompts}),
    )
    with recorder.record(trainer, tmp_path / "store"):
        trainer.train()
    store = Store.open(tmp_path / "store")
    history = store[0]
    assert (
        len(store) == 1 and len(history) == 3 * 16 and (tmp_path / "store/tokenizer").is_dir()
    )  # batches of 4 * 4 at updates 0, 2, 4
    assert [r.updates for r in recorder.rollouts] == [0] * 16 + [2] * 16 + [4] * 16 and [h[3] for h in heard] == [
        0,
        2,
        4,
    ]
    assert history.source["name"] == f"{kind}Trainer" and history.source["params"]["temperature"] == 0.8
    tokenizer, policy, i = trainer.processing_class, AutoModelForCausalLM.from_pretrained(story_model).eval(), 0
    for texts, completions, weights, _ in heard:
        policy.load_state_dict(weights)
        for text, ids in zip(texts, completions, strict=True):
            p, c, score, logprobs = episode_tokens(history[i])
            assert tokenizer.decode(p) == text and c.tolist() == ids
            words = len(tokenizer.decode(ids, skip_special_tokens=True).split())
            assert score == pytest.approx(words / 10 + (0.5 if words <= 6 else 0), abs=1e-6)
            with torch.no_grad():
                z = policy(torch.tensor([[*p, *c]])).logits[0, len(p) - 1 : -1] / 0.8
            np.testing.assert_allclose(logprobs, z.log_softmax(-1)[range(len(c)), c], atol=1e-4)
            assert history[i].terminated[-1] == (ids[-1] == tokenizer.eos_token_id)
            i += 1


@needs_trl
@pytest.mark.filterwarnings("ignore")
def test_trl_conversations_are_recorded_as_the_chat_template_writes_them(tmp_path):
    "Roles stand in the prompt; every token of a completion is the model's, as trainers with tools are refused."
    import trl
    from datasets import Dataset
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from ad_distill.data.store import Store
    from ad_distill.recorders.trl import RolloutRecorder
    from ad_distill.rlhf.conversations import stored_rollouts

    tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT / "tests/data/trlx_logs/tokenizer")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|endoftext|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=1, n_positions=128))
    system, heard = {"role": "system", "content": "Be kind."}, []
    prompts = [[system, {"role": "user", "content": x}] for x in ("Will it rain?", "Why?")]

    def length(prompts, completions, completion_ids, **kwargs):
        assert completions[0][0]["role"] == "assistant"
        heard.extend(zip(prompts, map(list, completion_ids)))
        return [len(c[0]["content"]) / 10 for c in completions]

    recorder = RolloutRecorder()
    settings = dict(per_device_train_batch_size=4, num_generations=2, max_steps=2)
    data = Dataset.from_dict({"prompt": prompts * 4})
    config = trl_config("GRPO", tmp_path / "out", **settings)
    trainer = trl.GRPOTrainer(model, recorder.listen(length), config, data, processing_class=tokenizer)
    with recorder.record(trainer, tmp_path / "store"):
        trainer.train()
    back = list(stored_rollouts(Store.open(tmp_path / "store"), 0))
    assert len(back) == len(heard) == 8
    for r, (asked, ids) in zip(back, heard):
        said = f"[system]Be kind.<|endoftext|>[user]{asked[1]['content']}<|endoftext|>[assistant]"
        assert tokenizer.decode(r.prompt_ids) == said
        assert r.completion_ids == ids and len(r.logprobs) == len(ids) and (r.mask, r.messages) == (None, None)
    trainer.tools = [print]
    with pytest.raises(UserError, match="this trainer uses tools: completions may hold tokens"):
        with recorder.record(trainer):
            pass


@needs_trl
@pytest.mark.filterwarnings("ignore")
def test_trl_keeps_what_came_before_a_bad_reward(tmp_path, story_model):
    import trl
    from datasets import Dataset

    from ad_distill.recorders.trl import RolloutRecorder
    from ad_distill.data.store import Store
    from ad_distill.registry import UserError

    def nan(completions, trainer_state, **kwargs):
        return [float("nan") if trainer_state.global_step == 2 else 1.0] * len(completions)

    recorder = RolloutRecorder()
    trainer = trl.GRPOTrainer(
        story_model,
        recorder.listen(nan),
        trl_config("GRPO", tmp_path / "out", per_device_train_batch_size=4, num_generations=2, max_steps=5),
        Dataset.from_dict({"prompt": ["Dan went to the market."] * 8}),
    )
    with (
        pytest.raises(UserError, match="'nan' returned NaN .* after 2 updates, for a completion of 'Dan went"),
        recorder.record(trainer, tmp_path / "store"),
    ):
        trainer.train()
    assert len(Store.open(tmp_path / "store")[0]) == 8


@needs_trl
@pytest.mark.filterwarnings("ignore")
def test_trl_grpo_holds_against_rloo(story_model):
    "On one reward function both raise the mean reward by 0.25 in 512 rollouts (last 64 against first 64)."
    from ad_distill import recorders  # noqa: F401
    from ad_distill.recorders import trl as _  # noqa: F401
    from ad_distill.sources.core import make_source
    from ad_distill.tasks.core import make_task

    task = make_task("story_rlhf")
    grpo, rloo = (
        make_source(name).learn(task, np.array([9]), np.array([0]), 0, 512)[0] for name in ("trl_grpo", "rloo")
    )
    for h in (grpo, rloo):
        assert h.returns[-64:].mean() > h.returns[:64].mean() + 0.25, h.source["name"]
    assert abs(grpo.returns[:64].mean() - rloo.returns[:64].mean()) < 0.1  # the same model at the start
    assert (
        grpo.spaces == rloo.spaces
        and grpo.task == rloo.task
        and grpo.columns.keys() == rloo.columns.keys()
        and len(grpo) == len(rloo) == 512
    )
    assert {k: v.dtype for k, v in grpo.columns.items()} == {k: v.dtype for k, v in rloo.columns.items()}
    total = [np.add.reduceat(h.columns["logprob"], h.starts)[:64].mean() for h in (grpo, rloo)]
    assert np.isfinite(total).all() and abs(total[0] - total[1]) < 1.5


@needs_trl
@pytest.mark.filterwarnings("ignore")
def test_trl_grpo_gives_the_same_history_however_it_is_run(tmp_path, story_model):
    import torch

    from ad_distill.recorders import trl as _  # noqa: F401
    from ad_distill.sources.core import generate, make_source
    from ad_distill.tasks.core import make_task

    def make(where, n, workers=1):
        return generate(
            make_task("story_rlhf"), make_source("trl_grpo"), tmp_path / where, n, 40, seed=5, workers=workers
        )

    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.rand(1), np.random.rand()
    torch.manual_seed(7)
    np.random.seed(7)
    whole = make("whole", 3)
    assert (torch.rand(1), np.random.rand()) == before  # global generators are left as they were
    make("resumed", 1)
    resumed = make("resumed", 3, workers=2)
    assert len(whole) == len(resumed) == 3 and [*whole] == [*resumed] and whole[0] != whole[1]
    assert (tmp_path / "whole/transitions.arrow").read_bytes() == (tmp_path / "resumed/transitions.arrow").read_bytes()


@needs_trl
@pytest.mark.filterwarnings("ignore")
def test_trl_grpo_learns_a_text_task_with_a_model_of_ones_own(story_model):
    from ad_distill.recorders import trl as _  # noqa: F401
    from ad_distill.sources.core import make_source
    from ad_distill.tasks.core import make_task

    task, source = (
        make_task("text_rlhf", prompts='["Dan went to the market.", "Ann ran to the lake."]', reward="length"),
        make_source("trl_grpo", model=story_model, max_tokens=12),
    )
    source.check(task)
    rollouts = source.learn(task, np.array([0]), np.array([0]), 0, 40)[0]
    assert rollouts.spaces == source.spaces(task) and len(rollouts) == 40
    assert np.isfinite(rollouts.columns["logprob"]).all()
    from dataclasses import replace

    h = replace(source, tokens=False).learn(task, np.array([0]), np.array([0]), 0, 40)[0]
    assert h.spaces == task.spaces and len(h) == h.n_transitions == 40
    assert np.array_equal(h.returns, rollouts.returns)
    assert all(r == pytest.approx(len(c.split()) / 20) for c, r in zip(h.columns["action"], h.columns["reward"]))
    assert (h.columns["logprob"] < -1).all()
