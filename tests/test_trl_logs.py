"""Logs of TRL as people have them: what is a reward, who spoke, whose batch it was."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ad_distill import UserError, import_log
from ad_distill.logs.core import Problems
from ad_distill.logs.trl import TRL


def write(folder, step, **columns):
    folder = folder / "completions"
    folder.mkdir(parents=True, exist_ok=True)
    n = len(columns["completion"])
    table = pa.table({"step": [step] * n, **columns})
    pq.write_table(table, folder / f"completions_{step:05}.parquet")


def read(folder, problems=None, **settings):
    (run,) = TRL(**settings).runs(folder, problems=problems or Problems())
    return run, list(run.rollouts())


def advantages(score, size, scale):
    "As TRL 1.16 makes them: above the mean of the group, by the spread of the group, of the batch, or by nothing."
    groups = score.reshape(-1, size)
    above = groups - groups.mean(1, keepdims=True)
    spread = {"group": groups.std(1, ddof=1, keepdims=True), "batch": score.std(ddof=1), "none": 1 - 1e-4}[scale]
    return (above / (spread + 1e-4)).ravel()


def graded(folder, weights, scale, extra=(), steps=3, size=4, groups=4, seed=0):
    "A log of some reward functions with these weights, and what else was logged."
    rng = np.random.default_rng(seed)
    n = size * groups
    for step in range(1, steps + 1):
        rewards = {f"reward_{i}": rng.random(n) for i in range(len(weights))}
        score = sum(w * r for w, r in zip(weights, rewards.values()))
        prompts = [f"prompt {step} {i // size}" for i in range(n)]
        others = {name: rng.random(n) for name in extra}
        columns = {k: [*map(float, x)] for k, x in {**rewards, **others}.items()}
        told = {"advantage": advantages(score, size, scale)}
        write(folder, step, prompt=prompts, completion=[f"{step} {i}" for i in range(n)], **columns, **told)
    return folder


# trl #5233: what a reward function logs beside (`log_extra`) is numeric too
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("weights", [(1,), (1, 1), (1, 0.5), (1, 2, 0.25), (1, -0.5)], ids=str)
def test_rewards_are_what_gives_the_advantages(weights, scale, tmp_path):
    problems = Problems()
    run, _ = read(graded(tmp_path / "run", weights, scale, extra=("confidence", "gold")), problems)
    assert run.about["rewards"] == {f"reward_{i}": w for i, w in enumerate(weights)}
    assert any("confidence, gold" in note for note in problems.notes)


# of two completions the better one is told by many columns, and by how much by few
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("weights", [(1,), (1, 1), (1, 0.5), (1, -0.5)], ids=str)
def test_rewards_of_pairs(weights, scale, tmp_path):
    for seed in range(3):
        folder = graded(tmp_path / f"{seed}", weights, scale, ("confidence", "gold"), size=2, groups=3, seed=seed)
        run, _ = read(folder)
        assert run.about["rewards"] == pytest.approx({f"reward_{i}": w for i, w in enumerate(weights)}, abs=0.01)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_where_pairs_decide_nothing_a_line_asks(scale, tmp_path):
    "Of one pair any column with the right sign would do; of two, some."
    refused = 0
    for seed in range(8):
        folder = graded(tmp_path / f"{seed}", (1, 0.5), scale, size=2, steps=1, groups=1 + seed % 2, seed=seed)
        try:
            read(folder)
        except UserError as e:
            refused += 1
            assert "groups of two fit reward_" in str(e) or "advantages do not tell" in str(e)
            assert "-s columns A,B" in str(e) and "\n" not in str(e)
    assert refused > 4


def test_a_gold_answer_is_no_reward(tmp_path):
    "Whole numbers are never rewards of TRL, and what is the same for a whole group changes no advantage."
    for kind in (int, float):
        folder = tmp_path / kind.__name__
        about = dict(prompt=["6 * 7"] * 2 + ["5 * 5"] * 2, completion=list("abcd"), right=[1.0, 0.0, 1.0, 0.0])
        write(folder, 1, **about, gold=[*map(kind, (42, 42, 25, 25))], advantage=[0.7, -0.7, 0.7, -0.7])
        problems = Problems()
        assert [r.score for r in read(folder, problems)[1]] == [1, 0, 1, 0]
        assert any("gold" in note for note in problems.notes)
        assert [r.score for r in read(folder, columns="right,gold")[1]] == [43, 42, 26, 25]


def test_where_advantages_decide_nothing_a_line_asks(tmp_path):
    about = dict(prompt=["p"] * 4, completion=list("abcd"), right=[1.0, 0.0, 1.0, 0.0], sure=[0.1, 0.2, 0.4, 0.3])
    write(tmp_path / "even", 1, **about, advantage=[0.0] * 4)
    write(tmp_path / "none", 1, **about)
    for name in ("even", "none"):
        with pytest.raises(UserError, match="-s columns A,B") as e:
            read(tmp_path / name)
        assert "\n" not in str(e.value)
        assert [r.score for r in read(tmp_path / name, columns="right")[1]] == [1, 0, 1, 0]


CALLED = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}


# trl #5309, #5366: calls of tools, thoughts and names; trl #5323, #3072: contents in parts
@pytest.mark.parametrize(
    ("messages", "text", "written"),
    [
        ([{"role": "assistant", "content": "5"}], "5", [True]),
        ([{"role": "assistant", "content": None, "tool_calls": [CALL]}],
         CALLED, [True]),
        ([{"role": "assistant", "reasoning_content": "2 and 3.", "content": "5"}],
         "<think>\n2 and 3.\n</think>\n\n5", [True]),
        ([{"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "name": "add", "content": "5"},
          {"role": "assistant", "content": "It is 5."}],
         f"assistant: {CALLED}\ntool (add): 5\nassistant: It is 5.", [True, False, True]),
        ([{"role": "assistant", "content": [{"type": "image"}, {"type": "text", "text": "A cat."}]}], "<image>A cat.",
         [True]),
        ([{"role": "assistant", "name": "Ada", "content": "5"}], "assistant (Ada): 5", [True]),
    ],
    ids=["plain", "call", "thought", "tool", "parts", "name"],
)  # fmt: skip
def test_nothing_in_a_conversation_vanishes(messages, text, written, tmp_path):
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 and 3?"}]
    write(tmp_path / "run", 1, prompt=[asked] * 2, completion=[messages] * 2, right=[1.0, 0.0])
    rollout = read(tmp_path / "run")[1][0]
    assert (rollout.prompt, rollout.completion) == ("system: Be brief.\nuser: 2 and 3?", text)
    assert [m.by_model for m in rollout.messages] == [False, False, *written]


def test_completions_that_differ_in_a_call_only(tmp_path):
    calls = [{**CALL, "function": {"name": "add", "arguments": {"a": a, "b": 3}}} for a in (2, 9)]
    said = [[{"role": "assistant", "content": "", "tool_calls": [call]}] for call in calls]
    write(tmp_path / "run", 1, prompt=["p"] * 2, completion=said, right=[1.0, 0.0])
    first, second = read(tmp_path / "run")[1]
    assert first.completion != second.completion


@pytest.mark.parametrize("bad", [None, [None], ["text"], [{"content": "no role"}]], ids=repr)
def test_a_row_that_is_no_rollout(bad, tmp_path):
    good = [{"role": "user", "content": "p"}]
    if bad == ["text"]:
        good = ["more text"]  # a column of lists of text
    write(tmp_path / "run", 1, prompt=[bad, good, good], completion=list("abc"), right=[1.0, 0.0, 1.0])
    with pytest.raises(UserError, match=r"completions_00001.parquet: rollout 0: .*--skip-bad"):
        read(tmp_path / "run")
    if bad != ["text"]:
        problems = Problems(skip=True)
        assert [r.completion for r in read(tmp_path / "run", problems)[1]] == ["b", "c"] and problems.rollouts == 1


@pytest.mark.parametrize("steps", [[3.5e38, 1.0], [1.5, 2.0], [None, 1], [-1, 2], ["1", "2"]], ids=repr)
def test_steps_that_are_no_steps(steps, tmp_path):
    folder = tmp_path / "completions"
    folder.mkdir()
    table = pa.table({"step": steps, "prompt": ["p", "q"], "completion": ["a", "b"], "right": [0.0, 1.0]})
    pq.write_table(table, folder / "completions_00001.parquet")
    with pytest.raises(UserError, match="step"):
        list(TRL().runs(tmp_path))


def evaluated(folder, train, check, steps=6, every=2):
    "A log whose every k-th batch is an evaluation's: `train` and `check` give the prompts of a step."
    rng = np.random.default_rng(1)
    for step in range(1, steps + 1):
        prompts = check(step) if step % every == 0 else train(step)
        n = len(prompts)
        write(folder, step, prompt=prompts, completion=[f"{step} {i}" for i in range(n)], right=[*rng.random(n)])
    return folder


# trl #6613: an evaluation's batch is written over the training batch of that step
def test_evaluations_are_left_out(tmp_path):
    problems = Problems()
    run, rollouts = read(
        evaluated(tmp_path / "run", lambda t: [f"{t}"] * 2 + [f"{t + 50}"] * 2, lambda t: ["x", "x", "y", "y"]),
        problems,
    )
    assert [r.optimizer_step for r in rollouts] == [0] * 4 + [2] * 4 + [4] * 4
    assert not {"x", "y"} & {r.prompt for r in rollouts}
    assert any("12 rollouts are left out" in note for note in problems.notes)
    assert len(read(tmp_path / "run", evaluation=True)[1]) == 24


@pytest.mark.parametrize("order", ["few", "unshuffled", "once"])
def test_what_is_no_evaluation_stays(order, tmp_path):
    train = {
        "few": lambda t: [["a", "b"], ["b", "a"]][t % 3 == 0],  # a small data set, shuffled
        "unshuffled": lambda t: [str(t % 3)] * 2,  # three batches in turn
        "once": lambda t: [str(t)] * 2,  # each prompt once
    }[order]
    assert len(read(evaluated(tmp_path / "run", train, train))[1]) == 12


# ms-swift #4570, trl #6166: batches of the same texts are not the same batch
def test_only_what_is_repeated_is_left_out(tmp_path):
    n = 300
    texts = dict(prompt=["p"] * n, completion=["a"] * n)
    scores = np.zeros(n)
    write(tmp_path / "run", 1, **texts, right=[*scores])
    write(tmp_path / "run", 2, **texts, right=[*scores])
    scores[-1] = 1
    write(tmp_path / "run", 3, **texts, right=[*scores])
    texts["completion"] = ["a"] * (n - 1) + ["b"]
    write(tmp_path / "run", 4, **texts, right=[*scores])
    problems = Problems()
    run, rollouts = read(tmp_path / "run", problems)
    assert [f.name[-9] for f in run.files] == ["1", "3", "4"] and len(rollouts) == 3 * n
    assert any("1 of 4 files repeat" in note for note in problems.notes)


def test_a_conversation_becomes_a_store(tmp_path):
    said = [[{"role": "assistant", "content": "", "tool_calls": [CALL]}], [{"role": "assistant", "content": "5"}]]
    write(tmp_path / "run", 1, prompt=["p"] * 2, completion=said, right=[1.0, 0.0])
    store, _ = import_log("trl", tmp_path / "run", tmp_path / "store")
    assert "add" in store[0][0].action[0] and store[0][1].action[0] == "5"


PLACES = ["market", "sea", "house", "park", "river", "school"]


def vowels(completions, **kwargs):
    return [sum(c in "aeiou" for c in x) / max(len(x), 1) for x in completions]


def short(prompts, completions, **kwargs):
    "Applies to half of the prompts."
    return [1 - len(x) / 60 if "e" in p.split()[-1] else None for p, x in zip(prompts, completions)]


def never(completions, **kwargs):
    return [None] * len(completions)


def trained(folder, rewards=(vowels,), evaluation=False, num_generations=2, **settings):
    "A log that TRL itself writes in six steps of four completions; an evaluation after every second step."
    trl = pytest.importorskip("trl")
    import torch
    from datasets import Dataset
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    logs = Path(__file__).parent / "data/trlx_logs"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(logs / "tokenizer", padding_side="left")
    special = dict(bos_token_id=0, eos_token_id=0, pad_token_id=1)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=768, n_layer=1, n_head=2, n_embd=32, n_positions=64, **special))
    held_out = Dataset.from_dict({"prompt": ["Mia saw a fox.", "Mia saw a dog."]}) if evaluation else None
    if evaluation:
        settings |= dict(eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=4)
    args = trl.GRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=4, max_completion_length=6, max_steps=6,
        log_completions=True, report_to=[], use_cpu=True, save_strategy="no", bf16=False, disable_tqdm=True, seed=3,
        gradient_checkpointing=False, num_generations=num_generations, **settings,
    )  # fmt: skip
    prompts = Dataset.from_dict({"prompt": [f"Dan went to the {x}." for x in PLACES]})
    trl.GRPOTrainer(model, list(rewards), args, prompts, held_out, processing_class=tokenizer).train()
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("every", "steps"), [(1, [1, 3, 5]), (3, [3])], ids=["each", "third"])
def test_evaluations_in_a_log_of_trl(every, steps, tmp_path):
    "TRL writes those of an evaluation over the training batch of the same step: that batch is lost, and only said."
    problems = Problems()
    _, rollouts = read(trained(tmp_path, evaluation=True, logging_steps=every), problems)
    assert [r.optimizer_step + 1 for r in rollouts] == [x for x in steps for _ in range(4)]
    assert all(r.prompt.startswith("Dan went") for r in rollouts)
    assert any("12 rollouts are left out" in note for note in problems.notes), problems.notes
    kept = read(tmp_path, evaluation=True)[1]
    assert sum(r.prompt.startswith("Mia saw") for r in kept) == 12


@pytest.mark.filterwarnings("ignore")
def test_only_the_latest_batch_in_a_log_of_trl(tmp_path):
    problems = Problems()
    _, rollouts = read(trained(tmp_path, logging_steps=3), problems)
    assert [r.optimizer_step for r in rollouts] == [2] * 4 + [5] * 4
    assert any("sparse log: 2 of 6 steps" in note for note in problems.notes)


@pytest.mark.filterwarnings("ignore")
def test_pairs_in_a_log_of_trl(tmp_path):
    "What float32 leaves of the size of an advantage is enough, for weights too."
    for weights in ([1.0, 1.0], [1.0, 0.5]):
        folder = trained(tmp_path / str(weights[1]), (vowels, short), logging_steps=1, reward_weights=weights)
        assert read(folder)[0].about["rewards"] == pytest.approx(dict(zip(("vowels", "short"), weights)), abs=0.01)


@pytest.mark.filterwarnings("ignore")
def test_columns_of_nan_in_a_log_of_trl(tmp_path):
    "A function that applies to no completion, or to some: the score is the sum of those that apply."
    trained(tmp_path / "run", (vowels, short, never), num_generations=4, logging_steps=1)
    problems = Problems()
    run, rollouts = read(tmp_path / "run", problems)
    assert {"vowels", "short"} <= {*run.about["rewards"]}
    table = pa.concat_tables(map(pq.read_table, sorted((tmp_path / "run/completions").glob("*")))).to_pydict()
    known = [sum(x for x in row if x is not None and x == x) for row in zip(table["vowels"], table["short"])]
    assert [r.score for r in rollouts] == pytest.approx(known)
    assert any(x != x or x is None for x in table["short"]) and all(x != x or x is None for x in table["never"])
    only, scores = read(tmp_path / "run", columns="never")
    assert len(scores) == 24 and all(np.isnan(r.score) for r in scores)
    store, _ = import_log(TRL(columns="never"), tmp_path / "run", tmp_path / "store")
    assert np.isnan(store[0].returns).all()
