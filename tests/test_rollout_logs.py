"""Logs of RLHF trainers: nothing is lost on the way into a store, and whatever is wrong with a log is one line."""

import json
import math
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import python
from conftest import run as run_command

import ad_distill.logs.trlx as logs
from ad_distill.cli.main import main
from ad_distill.logs.importing import import_log
from ad_distill.logs.core import Problems
from ad_distill.data.store import Store
from ad_distill.rlhf.rollouts import episode_tokens, text_store
from ad_distill.registry import UserError
from ad_distill.logs.trl import TRL
from ad_distill.logs.trlx import TrlX

DATA = Path(__file__).resolve().parent / "data"
TRLX, TRL_LOGS = DATA / "trlx_logs", DATA / "trl_logs"
TOKENIZER = TRLX / "tokenizer"
PAD, EOS = 1, 0  # of the real logs
COMPLETE = sorted((TRLX / "complete").iterdir())
TEXT_ONLY = sorted((TRLX / "text_only").iterdir())


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TOKENIZER)


def raw_files(run, pattern):
    "Files of a run with what they hold, in the order of their numbers."
    return [json.loads(p.read_text()) for p in sorted(run.glob(pattern), key=lambda p: float(p.stem.split("-")[1]))]


def tokens_of(r):
    "Prompt and completion of a raw rollout of the real logs, where pad and eos differ, without padding."
    prompt, response = list(r["query_tensor"]), list(r["response_tensor"])
    while prompt and prompt[0] == PAD:
        del prompt[0]
    while response and response[-1] == PAD:
        del response[-1]
    return prompt, response


# real logs, field by field


def test_complete_form_loses_nothing(tmp_path):
    store, summary = import_log("trlx", TRLX / "complete", tmp_path / "store", tokenizer=TOKENIZER)
    store = Store.open(tmp_path / "store")
    store.verify()
    assert [h.source["params"]["run"] for h in store] == [p.name for p in COMPLETE] and summary["left_out"][
        "rollouts"
    ] == 0
    for history, run in zip(store, COMPLETE, strict=True):
        raw = [(f, r) for f in raw_files(run, "rollouts-*.json") for r in f["rollouts"]]
        assert len(history) == len(raw) == 696
        for episode, (_, r) in zip(history, raw, strict=True):
            prompt, completion, score, logprobs = episode_tokens(episode)
            expected_prompt, expected = tokens_of(r)
            assert prompt.tolist() == expected_prompt and completion.tolist() == expected
            assert np.float32(score) == np.float32(r["score"]) and (episode.reward[:-1] == 0).all()
            assert (logprobs == np.float32(r["logprobs"][: len(expected)])).all()
            assert episode.terminated[-1] == (expected[-1] == EOS) == (not episode.truncated[-1])
        config = json.loads((run / "config.json").read_text())
        assert history.source["params"]["config"] == config and history.seed == config["train"]["seed"]
        assert history.source["params"]["iterations"] == [
            [f["iteration"], f["optimizer_step"], f["kl_coef"], len(f["rollouts"])]
            for f in raw_files(run, "rollouts-*.json")
        ]


def test_complete_form_as_text(tmp_path):
    store, _ = import_log("trlx", TRLX / "complete", tmp_path / "store", tokenizer=TOKENIZER)
    for history, run in zip(text_store(store), COMPLETE, strict=True):
        raw = [r for f in raw_files(run, "rollouts-*.json") for r in f["rollouts"]]
        assert history.columns["state"].tolist() == [r["prompt"] for r in raw]
        assert history.columns["action"].tolist() == [r["output"].removesuffix("<|endoftext|>") for r in raw]


def test_text_only_form_loses_nothing(tmp_path):
    store, _ = import_log("trlx", TRLX / "text_only", tmp_path / "store", tokenizer=TOKENIZER)
    for history, run in zip(store, TEXT_ONLY, strict=True):
        raw = [r for f in raw_files(run, "epoch-*.json") for r in f]
        assert len(history) == len(raw)
        for episode, r in zip(history, raw, strict=True):
            prompt, completion, score, logprobs = episode_tokens(episode)
            assert (prompt.tolist(), completion.tolist()) == tokens_of(r)
            assert math.isnan(score) and np.isnan(logprobs).all()


def test_scores_are_recomputed(tmp_path):
    "Without their scores, the real logs get those that they had: VADER's."
    pytest.importorskip("vaderSentiment")
    copy = Path(shutil.copytree(COMPLETE[0], tmp_path / "run", copy_function=shutil.copyfile))
    for p in list(copy.glob("rollouts-*.json"))[3:]:
        p.unlink()
    expected = [r["score"] for f in raw_files(copy, "rollouts-*.json") for r in f["rollouts"]]
    for p in copy.glob("rollouts-*.json"):
        d = json.loads(p.read_text())
        for r in d["rollouts"]:
            r["score"] = None
        p.write_text(json.dumps(d))
    known, _ = import_log("trlx", copy, tmp_path / "known", tokenizer=TOKENIZER, reward="vader")
    unknown, _ = import_log("trlx", copy, tmp_path / "unknown", tokenizer=TOKENIZER)
    assert np.allclose(known[0].returns, expected, atol=1e-6) and np.isnan(unknown[0].returns).all()


@pytest.mark.parametrize("run", COMPLETE, ids=lambda p: p.name[:8])
def test_law_of_rewards(run):
    "rewards = -kl * (logprob - ref) + score at the end, as the README of the logs has it; what the reader makes of it."
    rollouts = iter(next(TrlX().runs(run)).rollouts())
    for f in raw_files(run, "rollouts-*.json"):
        for raw in f["rollouts"]:
            r, n = next(rollouts), len(tokens_of(raw)[1])
            length = len(raw["logprobs"])
            assert length == len(raw["values"]) == len(raw["rewards"]) == min(n + 2, len(raw["response_tensor"]))
            assert (
                r.kl_coef == f["kl_coef"] and r.iteration == f["iteration"] and r.optimizer_step == f["optimizer_step"]
            )
            assert r.values == raw["values"][:n] and r.logprobs == raw["logprobs"][:n]
            rebuilt = -r.kl_coef * (np.array(r.logprobs) - r.ref_logprobs)
            if length == n:
                rebuilt[-1] += r.score
            assert np.allclose(rebuilt, raw["rewards"][:n], atol=2e-7)
            if length == n + 2:
                assert np.allclose(raw["rewards"][-1], r.score, atol=2e-7)  # the token before it is padding: no penalty
            assert math.isclose(r.rewards.sum(), sum(raw["rewards"][:n]) + (r.score if length > n else 0), abs_tol=1e-6)
    assert next(rollouts, None) is None


def test_reference_is_the_model_at_first():
    r = next(next(TrlX().runs(COMPLETE[0])).rollouts())
    assert np.allclose(r.ref_logprobs, r.logprobs, atol=1e-6)


def test_reference_logprobs_are_those_of_the_trainer():
    "What the reader works out from penalties, against what trlX itself computed, overheard when the log was recorded."
    path = DATA / "trlx_recorded"
    if not path.exists():
        pytest.skip("no log of our recorder")
    rollouts, heard = (
        list(next(TrlX().runs(path / "run")).rollouts()),
        [r for batch in json.loads((path / "reference_logprobs.json").read_text()) for r in batch],
    )
    assert len(rollouts) == len(heard)
    for r, ref in zip(rollouts, heard):
        assert np.allclose(r.ref_logprobs, ref[: len(r.completion_ids)], atol=1e-5)


# corners of trlX's form


def rollout(response, extra=2, score=1.0, kl=0.1, prompt=(1, 1, 5, 6), pad=1, seed=0, **more):
    "A raw rollout, with penalties for ref = logprob + 1."
    n = sum(x != pad for x in response)
    length, rng = min(n + extra, len(response)), random.Random(seed)
    logprobs = [-rng.random() for _ in range(length)]
    rewards = [kl] * n + [0.0] * (length - n) if length >= n else [kl] * length
    if isinstance(score, list):
        rewards = [r + s for r, s in zip(rewards, score + [0.0] * length)]
    else:
        rewards[-1] += more.pop("paid", score)
    return {
        "prompt": "a b",
        "output": "c",
        "score": score,
        "query_tensor": list(prompt),
        "response_tensor": list(response),
        "logprobs": logprobs,
        "values": [0.0] * length,
        "rewards": rewards,
        **more,
    }


def write(folder, *files, config=None, pad=1, eos=0, kl=0.1, **head):
    folder.mkdir(parents=True, exist_ok=True)
    for i, rollouts in enumerate(files):
        (folder / f"rollouts-{i:05}.json").write_text(
            json.dumps(
                {
                    "iteration": i,
                    "optimizer_step": 4 * i,
                    "kl_coef": kl,
                    "pad_token_id": pad,
                    "eos_token_id": eos,
                    "rollouts": rollouts,
                    **head,
                }
            )
        )
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def read(path, tokenizer=None, problems=None):
    return [r for run in TrlX().runs(path, tokenizer, problems) for r in run.rollouts()]


def test_pad_equal_to_eos(tmp_path):
    "The first end token stays, the rest is padding; a completion without one was cut off."
    rows = [
        rollout([7, 8, 0, 0, 0], pad=0, prompt=[0, 0, 5]),
        rollout([7, 8, 9, 9, 9], pad=0, prompt=[5, 6, 7]),
        rollout([0, 0, 0, 0, 0], pad=0, prompt=[5]),
    ]
    a, b, c = read(write(tmp_path, rows, pad=0))
    assert (a.prompt_ids, a.completion_ids, a.ended) == ([5], [7, 8, 0], True) and len(a.logprobs) == 3
    assert (b.prompt_ids, b.completion_ids, b.ended) == ([5, 6, 7], [7, 8, 9, 9, 9], False)
    assert (c.completion_ids, c.ended) == ([0], True)


def test_padding_within_and_nothing_but_padding(tmp_path):
    a, b = read(write(tmp_path, [rollout([7, 1, 8, 0, 1, 1]), rollout([1, 1, 1])]))
    assert a.completion_ids == [7, 1, 8, 0] and a.ended
    assert b.completion_ids == [1] and not b.ended and len(b.logprobs) == 1


def test_encoder_decoder(tmp_path):
    "T5: the pad at the beginning was given to the decoder; log-probabilities begin with the token after it."
    r = rollout([1, 7, 8, 0, 1], extra=0)
    r |= {"logprobs": [-1.0, -2.0, -3.0, -4.0], "values": [0.0] * 4, "rewards": [0.1, 0.1, 0.1, 1.0]}
    (a,) = read(write(tmp_path, [r], config={"model": {"model_arch_type": "seq2seq"}}))
    assert a.completion_ids == [7, 8, 0] and a.logprobs == [-1.0, -2.0, -3.0] and a.penalties == [0.1, 0.1, 0.1]


def test_scores_token_by_token(tmp_path):
    r = rollout([7, 8, 0, 1, 1], score=[0.25, 0.0, 0.5])
    (a,) = read(write(tmp_path, [r]))
    assert (
        a.score == 0.75
        and a.scores == [0.25, 0.0, 0.5]
        and np.allclose(a.penalties, 0.1)
        and np.allclose(a.rewards, [0.35, 0.1, 0.6])
    )
    store, _ = import_log("trlx", tmp_path, tmp_path / "store")
    assert store[0][0].reward.tolist() == [0.25, 0.0, 0.5]


@pytest.mark.parametrize(
    "response, last_known", [([7, 8, 0, 1, 1], True), ([7, 8, 9, 9, 9], False)], ids=["padded", "full"]
)
def test_scaled_scores(response, last_known, tmp_path):
    "With scale_reward the score paid is not the one given: where it met a token, its penalty is not known."
    (a,) = read(write(tmp_path, [rollout(response, paid=0.3)], config={"method": {"scale_reward": "running"}}))
    assert np.allclose(a.penalties[:-1], 0.1) and math.isnan(a.penalties[-1]) is not last_known and a.score == 1
    assert math.isnan(a.ref_logprobs[-1]) is not last_known


def test_clipped_scores(tmp_path):
    (a,) = read(
        write(
            tmp_path,
            [rollout([7, 8, 9], extra=0, score=50.0, paid=10.0)],
            config={"method": {"cliprange_reward": 10, "scale_reward": "ignored"}},
        )
    )
    assert a.score == 50 and np.allclose(a.penalties, 0.1)


def test_adaptive_kl(tmp_path):
    "Each file says its own coefficient."
    write(tmp_path, [rollout([7, 0], kl=0.1)], kl=0.1)
    d = json.loads((tmp_path / "rollouts-00000.json").read_text()) | {
        "kl_coef": 0.2,
        "rollouts": [rollout([7, 0], kl=0.2)],
    }
    (tmp_path / "rollouts-00001.json").write_text(json.dumps(d))
    (tmp_path / "rollouts-00002.json").write_text(json.dumps(d | {"kl_coef": 0}))
    a, b, c = read(tmp_path)
    assert a.kl_coef == 0.1 and b.kl_coef == 0.2 and c.ref_logprobs is None
    for r in (a, b):
        assert np.allclose(r.ref_logprobs - r.logprobs, 1)


def test_order_is_by_number(tmp_path, tokenizer):
    for name, token in (("epoch-10000000000.5.json", 12), ("epoch-9999999999.25.json", 11), ("epoch-999.json", 10)):
        (tmp_path / name).write_text(json.dumps([{"query_tensor": [5], "response_tensor": [token, 0]}]))
    assert [r.completion_ids[0] for r in read(tmp_path, tokenizer)] == [10, 11, 12]


def test_complete_form_comes_first(tmp_path, tokenizer):
    "trlX goes on writing its own form beside the recorder's."
    write(tmp_path, [rollout([7, 0])])
    (tmp_path / "epoch-17.5.json").write_text(json.dumps([{"query_tensor": [5], "response_tensor": [9, 0]}]))
    assert [r.completion_ids for r in read(tmp_path)] == [[7, 0]]


def test_missing_file_is_said(tmp_path):
    write(tmp_path, *[[rollout([7, 0])]] * 4)
    (tmp_path / "rollouts-00002.json").unlink()
    assert len(read(tmp_path, problems=(problems := Problems()))) == 3
    assert "rollouts-00002.json" in problems.notes[0]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("form", ["complete", "text_only"])
def test_large_files_are_read_in_pieces(form, indent, tmp_path, monkeypatch, tokenizer):
    "And the same comes out, also with NaN, which is no JSON, and with text that looks like the end of an object."
    rows = [
        rollout([7, 8, 0, 1], seed=i, prompt=[1] * (i % 3) + [5])
        | {"prompt": 'a"},{"b' * (i % 2), "output": "ü\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")}
        for i in range(50)
    ]
    rows[20]["score"] = math.nan
    if form == "complete":
        write(tmp_path, rows)
    else:
        rows = [{k: r[k] for k in ("query_tensor", "response_tensor")} for r in rows]
    file = tmp_path / ("rollouts-00000.json" if form == "complete" else "epoch-1.json")
    file.write_text(
        json.dumps(json.loads(file.read_text()) if form == "complete" else rows, indent=indent, ensure_ascii=False)
    )
    whole = repr(read(tmp_path, tokenizer))
    monkeypatch.setattr(logs, "WHOLE", 0)
    for piece in (300, 1000, 5000):
        monkeypatch.setattr(logs, "PIECE", piece)
        assert repr(read(tmp_path, tokenizer)) == whole


# damaged logs


def test_interrupted(tmp_path):
    path = TRLX / "interrupted"
    with pytest.raises(UserError, match="(?s)epoch-1795334198.*cut off.*--skip-bad") as e:
        import_log("trlx", path, tmp_path / "store", tokenizer=TOKENIZER)
    assert "\n" not in str(e.value) and not (tmp_path / "store").exists() and not list(tmp_path.iterdir())
    store, summary = import_log("trlx", path, tmp_path / "store", tokenizer=TOKENIZER, skip_bad=True)
    whole = next((TRLX / "text_only").iterdir())
    expected = []
    for p in sorted((path / "run-truncated-last-file").glob("epoch-*.json")):
        intact = next((r / p.name for r in TEXT_ONLY if (r / p.name).exists()), whole)
        expected += [tokens_of(r) for r in json.loads(intact.read_text())]
    got = [(p.tolist(), c.tolist()) for p, c, *_ in map(episode_tokens, store[0])]
    assert len(got) == 179 and got == expected[:179], "whole rollouts of the file that is cut are kept too"
    assert (
        summary["left_out"] | {"problems": None} == {"files": 1, "rollouts": 1, "problems": None}
        and "after 19 whole rollouts" in summary["left_out"]["problems"][0]
    )


@pytest.mark.parametrize("part", [0, 0.3, 0.6, 0.99])
def test_cut_anywhere(part, tmp_path):
    "However much of the last file is there, all before the cut is kept."
    rows = [[rollout([7, 8, 0, 1], seed=i)] * 5 for i in range(3)]
    write(tmp_path, *rows)
    whole, last = read(tmp_path), tmp_path / "rollouts-00002.json"
    last.write_bytes(last.read_bytes()[: int(part * last.stat().st_size)])
    with pytest.raises(UserError, match="rollouts-00002.json"):
        read(tmp_path)
    kept = read(tmp_path, problems=(problems := Problems(skip=True)))
    assert kept == whole[: len(kept)] and len(kept) >= 10 + int(5 * part - 0.5) and problems.files == 1


HEAD = {"iteration": 0, "optimizer_step": 0, "kl_coef": 0.1, "pad_token_id": 1, "eos_token_id": 0}
BAD = {
    "empty": (b"", "empty"),
    "binary": (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", "does not begin"),
    "other": (b'{"loss": [1, 2]}', "no rollouts"),
    "list": (b"[1, 2, 3]", "no rollouts"),
    "number": (b"17", "no rollouts"),
    "no_pad": (b'{"rollouts": []}', "pad_token_id"),
    "garbage": (json.dumps(HEAD)[:-1].encode() + b', "rollouts": [{"query_tensor": [1], ...}]}', "no JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file(name, tmp_path):
    content, says = BAD[name]
    write(tmp_path, [rollout([7, 0])], [rollout([7, 0])], [rollout([8, 0])])
    (tmp_path / "rollouts-00001.json").write_bytes(content)
    with pytest.raises(UserError) as e:
        read(tmp_path)
    assert "rollouts-00001.json" in str(e.value) and says in str(e.value) and "\n" not in str(e.value), str(e.value)
    problems = Problems(skip=True)
    assert [r.completion_ids[0] for r in read(tmp_path, problems=problems)] == [7, 8]
    assert problems.files == 1 and len(problems.lines) == 1


BAD_ROLLOUTS = {
    "missing": (lambda r: r.pop("logprobs"), "logprobs"),
    "short": (lambda r: r["values"].pop(), "lengths do not fit"),
    "few": (lambda r: r.update(logprobs=[-1.0], values=[0.0], rewards=[1.0]), "lengths do not fit"),
    "null": (lambda r: r.update(response_tensor=None), "NoneType"),
    "string": (lambda r: r.update(response_tensor="abc"), "rollout 1"),
}


@pytest.mark.parametrize("name", BAD_ROLLOUTS)
def test_bad_rollout(name, tmp_path):
    spoil, says = BAD_ROLLOUTS[name]
    rows = [rollout([7, 8, 0, 1]) for _ in range(3)]
    spoil(rows[1])
    write(tmp_path, rows)
    with pytest.raises(UserError) as e:
        import_log("trlx", tmp_path, tmp_path / "store")
    assert says in str(e.value) and "rollout" in str(e.value) and "\n" not in str(e.value)
    store, summary = import_log("trlx", tmp_path, tmp_path / "store", skip_bad=True)
    assert len(store[0]) == 2 and summary["left_out"]["rollouts"] == 1


@pytest.mark.parametrize(
    "change, says",
    [
        ({"response_tensor": [7, "8", 0, 1]}, "rollout 1"),
        ({"response_tensor": [7, 2**40, 0, 1]}, "rollout 1"),
        ({"logprobs": [None] * 4, "values": [0.0] * 4, "rewards": [0.0] * 4}, "rollout 1"),
    ],
    ids=["text", "large", "null"],
)
def test_what_is_no_number(change, says, tmp_path):
    rows = [rollout([7, 8, 0, 1]) for _ in range(3)]
    rows[1] |= change
    write(tmp_path, rows)
    with pytest.raises(UserError, match=says):
        import_log("trlx", tmp_path, tmp_path / "store")
    assert len(import_log("trlx", tmp_path, tmp_path / "store", skip_bad=True)[0][0]) == 2


def test_folders_that_hold_no_log(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("hello")
    for name, says in (("empty", "it is empty"), ("other", "notes.txt"), ("nowhere", "no such file or folder")):
        for reader in (TrlX(), TRL()):
            with pytest.raises(UserError, match=says):
                list(reader.runs(tmp_path / name))


def test_damaged_config(tmp_path):
    (write(tmp_path, [rollout([7, 0])]) / "config.json").write_text('{"train": {')
    with pytest.raises(UserError, match="config.json is damaged"):
        read(tmp_path)
    assert len(read(tmp_path, problems=Problems(skip=True))) == 1


# tokenizers


def test_text_only_needs_a_tokenizer(tmp_path):
    shutil.copytree(TEXT_ONLY[0], tmp_path / "run", copy_function=shutil.copyfile)
    with pytest.raises(UserError, match="--tokenizer"):
        import_log("trlx", tmp_path / "run", tmp_path / "store")


def other_tokenizer(folder, size, pad):
    "A word-level tokenizer that has nothing to do with the logs."
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    t = Tokenizer(models.WordLevel({"<eos>": 0, **{f"w{i}": i for i in range(1, size)}}, "<eos>"))
    PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<eos>", pad_token=f"w{pad}").save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "log, size, says",
    [
        ("complete", 100, "has token"),
        ("complete", 900, "makes"),
        ("text_only", 100, "has token"),
        ("text_only", 900, "padded with token 1"),
    ],
)
def test_tokenizer_that_does_not_match(log, size, says, tmp_path):
    tokenizer = other_tokenizer(tmp_path / "tokenizer", size, size - 1)
    with pytest.raises(UserError, match=f"does not match the log.*{says}"):
        import_log("trlx", TRLX / log, tmp_path / "store", tokenizer=tokenizer)
    assert not (tmp_path / "store").exists()


def test_without_tokenizer(tmp_path):
    "The complete form needs none; its store has no text form then, and says so."
    write(tmp_path / "logs/a/b/run", [rollout([7, 8, 0, 1])])
    store, summary = import_log("trlx", tmp_path / "logs/a/b/run", tmp_path / "store")
    assert store.spaces.action.n == 9 and summary["tokenizer"] is None
    with pytest.raises(UserError, match="has no tokenizer"):
        text_store(store)


# TRL


def table(file):
    return [r | {"short": math.nan if r["short"] is None else r["short"]} for r in pq.read_table(file).to_pylist()]


def test_trl_loses_nothing(tmp_path):
    store, _ = import_log("trl", TRL_LOGS / "dense", tmp_path / "store")
    raw = [r for p in sorted((TRL_LOGS / "dense/completions").glob("*.parquet")) for r in table(p)]
    h = store[0]
    assert (
        len(h) == len(raw) == 192
        and h.columns["state"].tolist() == [r["prompt"] for r in raw]
        and h.columns["action"].tolist() == [r["completion"] for r in raw]
    )
    assert (
        np.array_equal(h.returns, np.float32([np.nansum([r["vowels"], 0.5 * (r["short"] or 0)]) for r in raw]))
        and np.isnan(h.columns["logprob"]).all()
    )
    assert any(math.isnan(r["short"]) for r in raw), (
        "the log was made to hold rollouts to which a function does not apply"
    )
    assert h.source["params"]["rewards"] == {"vowels": 1, "short": 0.5}


def test_trl_weights_and_columns():
    raw = [r for p in sorted((TRL_LOGS / "dense/completions").glob("*.parquet")) for r in table(p)]
    got = [r.score for r in next(TRL("short,vowels", "0.5,2").runs(TRL_LOGS / "dense")).rollouts()]
    assert np.allclose(got, [np.nansum([2 * r["vowels"], 0.5 * r["short"]]) for r in raw])
    got = [r.score for r in next(TRL("short").runs(TRL_LOGS / "dense")).rollouts()]
    assert np.allclose(got, [r["short"] for r in raw], equal_nan=True) and np.isnan(got).any()
    for wrong, says in (
        (TRL("shor"), "did you mean short"),
        (TRL("short", "1,2"), "weights"),
        (TRL(weights="a,b"), "numbers"),
    ):
        with pytest.raises(UserError, match=says):
            next(wrong.runs(TRL_LOGS / "dense"))


def test_trl_sparse_and_repeated():
    problems = Problems()
    runs = {r.name: r for r in TRL().runs(TRL_LOGS, problems=problems)}
    assert any("3 of 15 steps were logged (5, 10, 15)" in line for line in problems.notes)
    assert any(line.startswith("repeated: 2 of 4 files") for line in problems.notes)
    assert [len(list(runs[k].rollouts())) for k in ("dense", "repeated", "sparse")] == [192, 64, 48]
    assert [r.optimizer_step for r in runs["sparse"].rollouts()][::16] == [4, 9, 14]


def test_trl_as_tokens(tmp_path, tokenizer):
    store, _ = import_log("trl", TRL_LOGS / "sparse", tmp_path / "store", tokenizer=TOKENIZER)
    text = import_log("trl", TRL_LOGS / "sparse", tmp_path / "text")[0][0]
    for e, prompt, completion in zip(store[0], text.columns["state"], text.columns["action"]):
        p, c, score, logprobs = episode_tokens(e)
        assert (
            p.tolist() == tokenizer(prompt).input_ids
            and c.tolist() == tokenizer(completion).input_ids  # nobody says that it ended
            and not e.done.any()
            and np.isnan(logprobs).all()
        )
    assert np.array_equal(store[0].returns, text.returns)


def completions(path, steps, **columns):
    n = len(steps)
    columns = {
        "step": steps,
        "prompt": [f"p{s}" for s in steps],
        "completion": [f"c{i}" for i in range(n)],
        "r": [float(i) for i in range(n)],
        "advantage": [0.0] * n,
    } | columns
    pq.write_table(pa.table(columns), path)
    return path


def test_trl_conversations(tmp_path):
    user, assistant = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
    completions(
        tmp_path / "completions_00001.parquet",
        [1, 1],
        prompt=[[user], [{"role": "system", "content": "Be kind"}, user]],
        completion=[[assistant], [assistant]],
    )
    a, b = next(TRL().runs(tmp_path)).rollouts()
    assert (a.prompt, a.completion) == ("Hi", "Ho") and b.prompt == "system: Be kind\nuser: Hi"


def test_trl_one_file_with_all_steps(tmp_path):
    "As a data set that was merged: sorted by step, within a step as it was."
    file = completions(tmp_path / "train-00000-of-00001.parquet", [2, 2, 1, 1, 3])
    assert [r.completion for r in next(TRL().runs(file)).rollouts()] == ["c2", "c3", "c0", "c1", "c4"]
    assert [r.completion for r in next(TRL().runs(tmp_path)).rollouts()] == ["c2", "c3", "c0", "c1", "c4"]


def test_trl_order_is_by_step(tmp_path):
    for name, step in (
        ("completions_100000.parquet", 100000),
        ("completions_99999.parquet", 99999),
        ("completions_00002.parquet", 2),
    ):
        completions(tmp_path / name, [step])
    assert [r.prompt for r in next(TRL().runs(tmp_path)).rollouts()] == ["p2", "p99999", "p100000"]


@pytest.mark.parametrize(
    "kind, says", [("cut", "cut off"), ("empty", "cut off"), ("foreign", "no column"), ("no_rows", "no rows")]
)
def test_trl_bad_file(kind, says, tmp_path):
    for i in (1, 2, 3):
        completions(tmp_path / f"completions_0000{i}.parquet", [i] * 3, completion=[f"{i}.{k}" for k in range(3)])
    bad = tmp_path / "completions_00002.parquet"
    if kind == "cut":
        bad.write_bytes(bad.read_bytes()[:-200])
    if kind == "empty":
        bad.write_bytes(b"")
    if kind == "foreign":
        pq.write_table(pa.table({"x": [1]}), bad)
    if kind == "no_rows":
        pq.write_table(pq.read_table(bad).slice(0, 0), bad)
    with pytest.raises(UserError) as e:
        import_log("trl", tmp_path, tmp_path / "store")
    assert "completions_00002.parquet" in str(e.value) and says in str(e.value) and "\n" not in str(e.value)
    store, summary = import_log("trl", tmp_path, tmp_path / "store", skip_bad=True)
    assert len(store[0]) == 6 and summary["left_out"]["files"] == 1


def test_trl_name_that_is_no_data_set(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="nobody/nothing") as e:
        list(TRL().runs("nobody/nothing"))
    assert "\n" not in str(e.value)


# on the command line


@pytest.fixture
def cli(tmp_path, capsys, monkeypatch):
    "Runs commands in this process: what they import takes seconds."
    monkeypatch.chdir(tmp_path)

    def call(*args, code=0):
        with pytest.raises(SystemExit) as e:
            main([str(a) for a in args])
        out, err = capsys.readouterr()
        assert (e.value.code or 0) == code, out + err
        return out, err

    return call


def test_commands(cli):
    assert {r["name"] for r in json.loads(cli("readers", "--json")[0])} >= {"trlx", "trl"}
    out, err = cli("import", "trlx", TRLX / "interrupted", "--skip-bad", "--out", "a")
    assert (
        "179 rollouts" in out
        and "left out: 1 damaged file, at least 1 rollout" in out
        and "tokenizer: " in err
        and "epoch-1795334198" in err
    )
    out, err = cli("import", "trl", TRL_LOGS / "dense", "-s", "columns", "vowels", "--out", "b", "--json")
    assert json.loads(out)["rollouts"] == 192 and not err
    assert (
        "Example: ad_distill import" in cli("import", "--help")[0]
        and "Example: ad_distill readers" in cli("readers", "--help")[0]
    )
    assert "rollout_log" in cli("show", "a")[0] and "return" in cli("show", "b", "--history", 0)[0]


@pytest.mark.parametrize(
    "args, says",
    [
        ("import trlx {trlx}/interrupted --out x", "cut off"),
        ("import trlxx {trlx} --out x", "did you mean trlx?"),
        ("import trlx {trlx}/nowhere --out x", "nowhere"),
        ("import trlx {trlx} --out full", "full exists already"),
        ("import trlx {trlx}/complete --out full/file", "full/file exists already"),
        ("import trl {trl}/dense -s column vowels --out x", "did you mean columns?"),
        ("import trlx {trlx}/complete --reward vada --out x", "did you mean vader?"),
        ("import trlx {trlx}/complete", "--out"),
        ("import trlx --out x", "PATH"),
        ("import trl {trlx}/tokenizer --out x", "no TRL log"),
        ("import trlx {trlx}/complete --tokenizer nowhere --out x", "nowhere"),
    ],
    ids=lambda x: x if " " in x else "",
)
def test_mistakes(args, says, cli, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    out, err = cli(*args.format(trlx=TRLX, trl=TRL_LOGS).split(), code=2)
    assert len(err.splitlines()) == 1 and err.startswith("ad_distill: ") and says in err and not out, err
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "full"], "a mistake changed something"


def test_models_learn_from_imported_histories(tmp_path):
    "Both families train on a token store, a language model also on one that is text only."
    import_log("trlx", TRLX / "complete", tmp_path / "tokens", tokenizer=TOKENIZER)
    import_log("trl", TRL_LOGS / "dense", tmp_path / "text")
    code = """
from ad_distill.cli.main import main
small = "--stride 60 --episodes 3 --steps 1 --batch 2 -s width 16 --quiet".split()
lm = "--model lm --serializer plain"
for args in ("tokens --model rl --out a", f"tokens {lm} --out b", f"text {lm} --out c"):
    try: main(["train", *args.split(), *small])
    except SystemExit as e: assert not e.code, args
"""
    python(code, cwd=tmp_path)
    assert all((tmp_path / k / "config.json").exists() for k in "abc")


def test_memory_is_bounded(tmp_path):
    "A log of 80 MB, one run, takes little more than one of 2 MB."
    source = (COMPLETE[0] / "rollouts-00003.json").read_bytes()

    def peak(n):
        folder = tmp_path / f"log{n}"
        folder.mkdir()
        for i in range(n):
            (folder / f"rollouts-{i:05}.json").write_bytes(source)
        code = f"""
import resource
from ad_distill.logs.importing import import_log
store, _ = import_log("trlx", {str(folder)!r}, {str(tmp_path / f"store{n}")!r})
print(len(store[0]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
        rollouts, kilobytes = map(int, python(code, cwd=tmp_path).stdout.split())
        assert rollouts == 32 * n
        return kilobytes / 1e3

    few, many = peak(60), peak(2500)
    assert many - few < 120, f"{few:.0f} MB for 2 MB of log, {many:.0f} MB for 80 MB"


# what people met


def scored(path, **settings):
    problems = Problems()
    run = next(TRL(**settings).runs(path, problems=problems))
    return [r.score for r in run.rollouts()], problems.notes, run


def advantages(r, n, scaled=True):
    "As GRPO of TRL 1.16 makes them in groups of n."
    groups = np.array(r, float).reshape(-1, n)
    a = groups - groups.mean(1, keepdims=True)
    return (a / (groups.std(1, ddof=1, keepdims=True) + 1e-4) if scaled else a).ravel()


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("weights", [(1, 1), (1, 0.25)])
def test_rewards_are_what_makes_the_advantages(weights, scaled, tmp_path):
    "Also where what was logged beside them is a number (trl #5233)."
    rng = np.random.default_rng(0)
    a, b, gold, sure = rng.random((4, 32)).round(2)
    gold = gold.reshape(-1, 4)[:, :1].repeat(4, 1).ravel()  # of each prompt
    completions(
        tmp_path / "completions_00001.parquet",
        [1] * 32,
        prompt=[f"p{i // 4}" for i in range(32)],
        r=a,
        r2=b,
        gold=gold,
        sure=sure,
        advantage=advantages(weights[0] * a + weights[1] * b, 4, scaled),
    )
    got, notes, run = scored(tmp_path)
    assert np.allclose(got, a + weights[1] * b) and run.about["rewards"] == {"r": 1, "r2": weights[1]}
    assert any("left out of the score: gold, sure" in line for line in notes)


def test_columns_that_nothing_tells_are_asked_for(tmp_path):
    file = completions(tmp_path / "completions_00001.parquet", [1] * 4, gold=[42.0, 42, 25, 25])
    with pytest.raises(UserError, match="-s columns A,B"):
        scored(file)
    assert scored(file, columns="r")[0] == [0, 1, 2, 3]
    pq.write_table(pq.read_table(file).drop_columns(["advantage"]), file)
    with pytest.raises(UserError, match="r, gold"):
        scored(file)


def first(folder, prompt, completion):
    completions(folder / "completions_00001.parquet", [1], prompt=[prompt], completion=[completion])
    return next(next(TRL().runs(folder)).rollouts())


def test_calls_thoughts_and_names_are_kept(tmp_path):
    "trl #5309, #5366, #5323"
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
    said = [
        {"role": "assistant", "content": None, "reasoning_content": "I add.", "tool_calls": [call]},
        {"role": "tool", "name": "add", "content": "5"},
        {"role": "assistant", "content": "It is 5."},
    ]
    r = first(tmp_path, [{"role": "user", "content": "2 and 3?"}], said)
    for part in ("I add.", '{"name": "add", "arguments": {"a": 2, "b": 3}}', "tool (add): 5", "It is 5."):
        assert part in r.completion, r.completion
    assert [m.role for m in r.messages] == ["user", "assistant", "tool", "assistant"]
    assert [m.by_model for m in r.messages] == [False, True, False, True]
    assert r.messages[1].tool_calls == [{"name": "add", "arguments": {"a": 2, "b": 3}}]


def test_contents_in_parts(tmp_path):
    "As TRL writes those of a vision model (trl #3072)."
    see = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in it?"}]}
    r = first(tmp_path, [see], [{"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}])
    assert (r.prompt, r.completion) == ("<image>What is in it?", "A cat.")


def evaluated(folder, trained, checked="held out"):
    for step in range(1, 7):
        prompt = checked if step % 2 == 0 else trained(step)
        completions(
            folder / f"completions_0000{step}.parquet",
            [step] * 4,
            prompt=[prompt] * 4,
            completion=[f"{step}.{i}" for i in range(4)],
        )


def test_evaluations_are_left_out(tmp_path):
    "TRL writes them over the rollouts of their step (trl #6613)."
    evaluated(tmp_path, lambda step: f"p{step}")
    got, notes, run = scored(tmp_path)
    assert len(got) == 12 and any(line.startswith(f"{run.name}: 12 rollouts are left out") for line in notes)
    assert len(scored(tmp_path, evaluation=True)[0]) == 24


def test_epochs_are_no_evaluations(tmp_path):
    for step in range(1, 10):
        completions(
            tmp_path / f"completions_0000{step}.parquet", [step] * 2, prompt=[f"p{step % 3}"] * 2, r=[step, 0.0]
        )
    assert len(scored(tmp_path)[0]) == 18


@pytest.mark.parametrize("change", ["reward", "late"])
def test_only_true_repeats_are_left_out(change, tmp_path):
    "ms-swift #4570, trl #6166"
    n = 300
    for step in (1, 2):
        r, c = np.arange(n, dtype=float), [f"c{i}" for i in range(n)]
        if step == 2 and change == "reward":
            r[1] = 7
        if step == 2 and change == "late":
            c[290] = "other"
        completions(tmp_path / f"completions_0000{step}.parquet", [step] * n, prompt=["p"] * n, completion=c, r=r)
    assert len(scored(tmp_path)[0]) == 2 * n


@pytest.mark.parametrize(
    "change, says",
    [
        ({"logprobs": [0.5, -1.0, -1.0, 0.0]}, "logprob is 0.5"),
        ({"logprobs": [-1.0, -math.inf, -1.0, 0.0]}, "logprob is -inf"),
        ({"score": math.inf}, "score is inf"),
        ({"score": [1.0, 1.0, 1.0, 1.0, 5.0]}, "5 scores"),
        ({"output": "\ud800"}, "half a character"),
    ],
)
def test_what_a_store_would_refuse_has_a_place_and_can_be_skipped(change, says, tmp_path):
    rows = [rollout([7, 8, 0, 1], extra=1) for _ in range(3)]
    rows[1] |= change
    write(tmp_path, rows)
    with pytest.raises(UserError, match=f"rollouts-00000.json: rollout 1: .*{says}") as e:
        import_log("trlx", tmp_path, tmp_path / "store")
    assert "\n" not in str(e.value)
    store, summary = import_log("trlx", tmp_path, tmp_path / "store", skip_bad=True)
    assert len(store[0]) == 2 and summary["left_out"]["rollouts"] == 1


def test_campaign():
    "Damaged logs: as they say, or one line."
    folder = Path(__file__).resolve().parent / "campaigns"
    run_command(sys.executable, "logs.py", "--seed", "1", "--count", "100", cwd=folder)
