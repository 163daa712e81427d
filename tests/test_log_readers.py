"""Readers of today's trainers: an example is read right, a damaged one right or refused in one line."""

import gzip
import json
import math
import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from ad_distill import UserError, import_log
from ad_distill.cli.main import main
from ad_distill.logs.core import Problems, make_reader, readers_for
from ad_distill.logs.importing import _wrong

LOGS = Path(__file__).parent / "data/logs"
ODD = (None, True, -1, 2**31, 2**63, 10**30, -0.5, 3.5e38, 1e400, math.nan, "", "7", "\ud800", "x" * 999, [], {}, [[1]])
FOX, SAD, ASKED = "A fox ran home.", "The fox was sad and lost.", "Tell a story about a fox."


@dataclass
class Case:
    reader: str
    folder: str
    rows: list  # (prompt, completion, score, step), prompt and completion as text or tokens
    settings: dict = field(default_factory=dict)


TURNS = f"assistant: {FOX}\ntool: It rains.\nassistant: It slept."
IM = f"<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n"
IDS = [1, 15, 27, 9, 2]
CHAT = f"user\n{ASKED}\nassistant\n"
CASES = [
    Case("verl", "verl_v1", [(CHAT, FOX, 0.6, 7), (CHAT, SAD, 0.1, 7)]),
    Case("verl", "verl_legacy", [(CHAT, FOX, 0.6, 7), (CHAT, SAD, 0.1, 7)]),
    Case("prime_rl", "prime_rl", [(ASKED, FOX, 0.65, 7)]),
    Case("prime_rl", "prime_rl_turns", [(ASKED, FOX, 0.65, 8), (ASKED, TURNS, 0.65, 8)]),
    Case("prime_rl", "prime_rl_rows", [(ASKED, FOX, 0.6, 7), (ASKED, SAD, 0.1, 7)]),
    Case("ms_swift", "ms_swift", [(IM, FOX, 0.7, 7), (IM, SAD, 0.3, 7)]),
    Case("nemo_rl", "nemo_rl", [(ASKED, FOX, 0.6, 7), (ASKED, SAD, 0.1, 7)]),
    Case("open_instruct", "open_instruct", [(IDS, [31, 8, 44, 3], 0.6, 7), (IDS, [7, 8, 45, 46, 3], 0.1, 7)]),
    Case("slime", "slime", [(IDS, [31, 8, 44, 3], 0.6, 7), (IDS, [7, 8, 45, 46, 3], 0.1, 7)]),
    Case("art", "art_yaml", [(ASKED, FOX, 0.6, 7), (ASKED, SAD, 0.1, 7)]),
    Case("art", "art_jsonl", [(ASKED, FOX, 0.6, 7), (ASKED, SAD, 0.1, 7)]),
    Case("art", "art_parquet", [(ASKED, FOX, 0.6, 7), (ASKED, SAD, 0.1, 7)]),
    Case("art", "art_parquet2", [(ASKED, FOX, 0.6, 7), (ASKED, SAD, 0.1, 7)]),
    Case("rllm", "rllm", [(ASKED, FOX, 0.6, 7)]),
    Case("areal", "areal", [("1 15 27 9 2", "31 8 44 3", 0.6, 7)]),
    Case("roll", "roll", [(ASKED, FOX, 0.6, 7), (ASKED, SAD, 0.1, 7)]),
    Case("roll", "roll_agentic", [(ASKED, f"assistant: {FOX}\nuser: It rains.\nassistant: It slept.", 0.6, 7)]),
    Case("jsonl", "jsonl", [(ASKED, FOX, 0.6, 7), (ASKED, SAD, 0.1, 7)]),
]
over_cases = pytest.mark.parametrize("case", CASES, ids=[c.folder for c in CASES])


def read(case, path, problems=None):
    runs = make_reader(case.reader, **case.settings).runs(path, problems=problems or Problems())
    return [r for run in runs for r in run.rollouts()]


@over_cases
def test_an_example_is_read_right(case):
    found = read(case, LOGS / case.folder)
    as_text = [r.completion if isinstance(case.rows[0][1], str) else r.completion_ids for r in found]
    prompts = [r.prompt if isinstance(case.rows[0][0], str) else r.prompt_ids for r in found]
    assert [*zip(prompts, as_text)] == [row[:2] for row in case.rows]
    assert [(round(r.score, 6), r.iteration) for r in found] == [row[2:] for row in case.rows]
    assert [_wrong(r) for r in found] == [None] * len(found)
    assert [name for name, _ in readers_for(LOGS / case.folder)] == [case.reader]


@over_cases
def test_a_compressed_log_is_read_the_same(case, tmp_path):
    shutil.copytree(LOGS / case.folder, tmp_path / "log")
    for file in [p for p in (tmp_path / "log").rglob("*") if p.is_file()]:
        with gzip.open(f"{file}.gz", "wb") as f:
            f.write(file.read_bytes())
        file.unlink()
    plain, said = Problems(), Problems()
    assert list(map(repr, read(case, tmp_path / "log", said))) == list(map(repr, read(case, LOGS / case.folder, plain)))
    assert len(said.notes) == len(plain.notes)
    for file in (tmp_path / "log").rglob("*.gz"):
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError) as e:
        read(case, tmp_path / "log")
    assert "\n" not in str(e.value)


@over_cases
def test_an_evaluation_beside_is_left_out(case, tmp_path):
    for name in ("run", "eval"):
        shutil.copytree(LOGS / case.folder, tmp_path / name)
    problems = Problems()
    assert len(read(case, tmp_path, problems)) == len(case.rows)
    assert any("in folders of evaluations are left out" in line for line in problems.notes)


def places(x, path=()):
    "Every place in parsed JSON."
    inner = x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def edited(rng, row):
    "A value changed or removed, near the top more often than by chance."
    depth = rng.randrange(1, 5)
    path = rng.choice([p for p in places(row) if len(p) <= depth])
    inner = row
    for key in path[:-1]:
        inner = inner[key]
    if rng.random() < 0.3 and isinstance(inner, dict):
        del inner[path[-1]]
    else:
        inner[path[-1]] = rng.choice(ODD)


def damaged(rng, data):
    "A damaged file, and how many of its lines are whole; None: all of them, but one says something else."
    lines, kind = data.splitlines(keepends=True), rng.randrange(5)
    if kind == 0:
        cut = data[: rng.randrange(len(data))]
        return cut, sum(line.strip() == part.strip() for line, part in zip(lines, cut.splitlines(keepends=True)))
    if kind == 1 and len(lines) > 1:
        return b"".join(reversed(lines)), len(lines)
    if kind == 2:
        at = rng.randrange(len(data))
        return data[:at] + rng.choice((b"\xff", b"\0", b"NaN", b"]", b"[" * 10_000)) + data[at:], None
    i = rng.randrange(len(lines))
    whole_file = not lines[0].rstrip().endswith(b"}")  # an indented object
    row = json.loads(data if whole_file else lines[i])
    edited(rng, row)
    text = json.dumps(row).encode() + b"\n"
    return (text if whole_file else b"".join([*lines[:i], text, *lines[i + 1 :]])), None


def outcome(case, path, problems=None):
    "What is read, or what is said."
    try:
        found = read(case, path, problems)
    except UserError as e:
        assert "\n" not in str(e), e
        return None
    for r in found:
        _wrong(r)  # as the import does: never an exception
    return found


def save_samples(file, data):
    torch.save(data, file)


def save_rows(file, rows):
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(file)), file)


BINARY = {
    ".pt": (lambda file: torch.load(file, weights_only=True), save_samples),
    ".parquet": (lambda file: pq.read_table(file).to_pylist(), save_rows),
}


def damage_binary(rng, file, data):
    "Cut a file off, change a byte of it, or change what it holds."
    file.write_bytes(data)
    kind, at = rng.randrange(4), rng.randrange(len(data))
    if kind == 0:
        return file.write_bytes(data[:at])
    if kind == 1:
        return file.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
    load, save = BINARY[file.suffix]
    held = load(file)
    edited(rng, held)
    try:
        save(file, held)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError):
        file.write_bytes(data)  # no file can hold it


def damage(rng, file, data):
    "Damage a file; how many of its lines are whole, None: all, but one says something else."
    if file.suffix in BINARY:
        return damage_binary(rng, file, data) and None
    spoilt, whole = damaged(rng, data)
    file.write_bytes(spoilt)
    return whole


@pytest.mark.parametrize("case", [c for c in CASES if c.folder != "art_yaml"], ids=lambda c: c.folder)
def test_a_damaged_log_is_read_right_or_refused(case, tmp_path):
    shutil.copytree(LOGS / case.folder, tmp_path / "log")
    file = max((p for p in (tmp_path / "log").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data, n, seen = file.read_bytes(), len(case.rows), Counter()
    lines = len(data.splitlines()) if data.splitlines()[0].rstrip().endswith(b"}") else 1
    usual = Problems()
    read(case, tmp_path / "log", usual)
    for seed in range(200):
        whole, problems = damage(random.Random(seed), file, data), Problems()
        found = outcome(case, tmp_path / "log", problems)
        seen["read" if found is not None else "refused"] += 1
        if found is not None:
            expected = n if whole is None else n * whole // lines
            assert len(found) == expected or {*problems.notes} - {*usual.notes}, (seed, len(found), expected)
        else:
            problems = Problems(skip=True)
            kept = outcome(case, tmp_path / "log", problems)
            assert kept is None or problems.lines and len(kept) <= n, seed
    assert seen["refused"] > 20 and seen["read"] > 5, seen


def test_yaml_that_is_none_is_one_line(tmp_path):
    shutil.copytree(LOGS / "art_yaml", tmp_path / "log")
    (file,) = (tmp_path / "log").rglob("*.yaml")
    for text in ("- [", "a: 1", "- a: 1", "- trajectories: [1]", "!!python/object/apply:os.getcwd []"):
        file.write_text(text)
        assert outcome(Case("art", "", []), tmp_path / "log") is None


def art_trajectory(folder, change, name="0007.parquet"):
    "A log of one trajectory of format 2, changed."
    (file,) = (LOGS / "art_parquet2").rglob("*.parquet")
    table = pq.read_table(file)
    row = table.to_pylist()[0]
    held = json.loads(row["trajectory_json"])
    change(held, row)
    row["trajectory_json"] = json.dumps(held)
    where = folder / "trajectories/train" / name
    where.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([row], schema=table.schema), where)
    return folder


def two_turns(held, row, prompt=(1, 15, 27, 9, 2, 31, 8, 44, 3, 5)):
    "A second turn."
    said = held["messages_and_choices"]
    choice = json.loads(json.dumps(said[1])) | {"token_ids": [6, 3], "prompt_token_ids": [*prompt], "logprobs": None}
    said += [{"role": "tool", "content": "It rains."}, choice | {"finish_reason": "length"}]


def test_tokens_of_art(tmp_path):
    "Tokens, logprobs and masks of format 2; they go into the store."
    a, b = read(Case("art", "", []), LOGS / "art_parquet2")
    assert (a.prompt_ids, a.completion_ids, a.logprobs) == (IDS, [31, 8, 44, 3], [-0.7, -1.1, -0.2, -0.05])
    assert (b.prompt_ids, b.completion_ids) == (IDS, [7, 8, 45, 46, 3]) and a.ended and b.ended
    store, _ = import_log("art", LOGS / "art_parquet2", tmp_path / "store")
    assert [e.action.tolist() for e in store[0]] == [a.completion_ids, b.completion_ids]
    assert store[0][0].logprob.tolist() == pytest.approx(a.logprobs)
    (r,) = read(Case("art", "", []), art_trajectory(tmp_path / "turns", two_turns))
    assert r.completion_ids == [31, 8, 44, 3, 5, 6, 3] and r.mask == [True] * 4 + [False, True, True] and not r.ended
    assert [math.isnan(x) for x in r.logprobs] == [False] * 4 + [True] * 3
    (r,) = read(Case("art", "", [], {"text": True}), art_trajectory(tmp_path / "turns", two_turns))
    assert r.completion_ids is None and r.messages[-1].by_model
    (r,) = read(Case("art", "", []), art_trajectory(tmp_path / "none", no_tokens))
    assert r.completion_ids is None and r.score == 0


def no_tokens(held, row):
    "Neither tokens nor a reward, which is left out where it is 0."
    del held["messages_and_choices"][1]["token_ids"], held["reward"]
    row["reward"] = 0.0


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda d, row: two_turns(d, row, [1, 15]), "do not go on where .*-s text 1"),
        (lambda d, row: d["messages_and_choices"][1]["logprobs"]["content"].pop(), "its logprobs are of other tokens"),
        (lambda d, row: d.update(reward=0.2), "its reward is 0.6 in one place and 0.2"),
        (lambda d, row: d.update(exchanges={"messages": [{}]}), "exchanges of messages, expected chat_completions"),
        (lambda d, row: d.clear(), "its reward is 0.6 in one place and 0.0"),
    ],
)
def test_an_art_trajectory_that_is_none(change, says, tmp_path):
    with pytest.raises(UserError, match=says) as e:
        read(Case("art", "", []), art_trajectory(tmp_path, change))
    assert "\n" not in str(e.value)


def test_a_later_format_of_art_is_refused(tmp_path):
    shutil.copytree(LOGS / "art_parquet2", tmp_path / "log")
    (file,) = (tmp_path / "log").rglob("*.parquet")
    pq.write_table(pq.read_table(file).replace_schema_metadata({"art.trajectory_parquet.version": "3"}), file)
    with pytest.raises(UserError, match="it is of format 3, expected 1 or 2"):
        read(Case("art", "", []), tmp_path / "log")


def test_calls_of_tools_in_the_first_format_of_art(tmp_path):
    shutil.copytree(LOGS / "art_parquet", tmp_path / "log")
    (file,) = (tmp_path / "log").rglob("*.parquet")
    rows = pq.read_table(file).to_pylist()[:1]
    calls = [{"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}]
    rows[0]["messages"][1]["tool_calls"] = json.dumps(calls)
    save_rows(file, rows)
    (r,) = read(Case("art", "", []), tmp_path / "log")
    assert r.messages[1].tool_calls == [{"name": "add", "arguments": {"a": 2}}] and r.ended is None


def swift(folder, *lines, **settings):
    "(step, completion) of what is read of a log of ms-swift with such lines, and what is said."
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    problems = Problems()
    found = read(Case("ms_swift", "", [], settings), folder, problems)
    return [(r.iteration, r.completion) for r in found], " ".join(problems.notes)


def batch(step, *said, prompt="p"):
    n = len(said)
    scores = {"Happy": [0.5] * n, "advantages": [0.0] * n}
    return {"step": [str(step)] * n, "prompt": [prompt] * n, "completion": [*said], **scores}


def test_evaluations_of_ms_swift_are_left_out(tmp_path):
    "Logged at step 0 and after the batch of the training; what repeats an evaluation is part of it."
    held = (
        batch(0, "e"),
        batch(1, "a"),
        batch(2, "b"),
        batch(2, "e", prompt="q"),
        batch(3, "e", prompt="q"),
        batch(4, "c"),
    )
    found, said = swift(tmp_path, *held)
    assert found == [(1, "a"), (2, "b"), (4, "c")]
    assert "2 batches are left out: they were logged at step 0, or second at their step" in said
    assert "1 batches are left out: they repeat the one before" in said
    found, said = swift(tmp_path, *held, evaluation=True)
    assert [text for _, text in found] == ["e", "a", "b", "e", "c"] and "step 0" not in said


def test_a_resumed_run_of_ms_swift(tmp_path):
    "What was made before it stopped is not part of the run, its last step included."
    found, said = swift(tmp_path, *(batch(*x) for x in ((1, "a"), (2, "lost"), (3, "lost too"), (2, "b"), (3, "c"))))
    assert found == [(1, "a"), (2, "b"), (3, "c")] and "2 batches are left out: they were made again" in said


def test_ms_swift_on_megatron_and_on_ray(tmp_path):
    "A batch with `gen_step`; a rollout a line, alike ones too."
    columns = {"gen_step": [0, 0], "prompt": ["p", "p"], "completion": ["a", "b"], "Happy": [0.5, 1.0]}
    assert swift(tmp_path / "megatron", columns, columns | {"gen_step": [1, 1]})[0] == [
        (0, "a"),
        (0, "b"),
        (1, "a"),
        (1, "b"),
    ]
    row = {"gen_step": 0, "prompt": "p", "completion": "a", "reward": 0.5}
    found, said = swift(tmp_path / "ray", row, row, row | {"gen_step": 1})
    assert found == [(0, "a"), (0, "a"), (1, "a")] and "left out" not in said and "score = reward" in said
    assert readers_for(tmp_path / "ray") == [("ms_swift", "completions.jsonl")]
    (r, *_) = read(Case("ms_swift", "", []), tmp_path / "ray")
    assert (r.score, r.optimizer_step) == (0.5, -1)


def test_imported_and_shown(tmp_path):
    store, summary = import_log("verl", LOGS / "verl_v1", tmp_path / "store")
    assert summary["rollouts"] == 2 and any("special tokens" in line for line in summary["notes"])
    assert store.info["caveats"] == list(make_reader("verl").caveats)
    import_log("open_instruct", LOGS / "open_instruct", tmp_path / "tokens")
    for name, says in (("store", "prompts 1\n"), ("tokens", 'prompts "known as tokens only"')):
        shown = CliRunner().invoke(main, ["show", str(tmp_path / name), "--history", "0"]).output
        assert f"instance {says}" in shown


def test_a_file_a_worker_is_put_together_by_step(tmp_path):
    "As RL Logging Board has it: each worker writes all steps into a file of its own."
    log = tmp_path / "log"
    log.mkdir()
    for worker in range(3):
        rows = [{"prompt": "p", "response": f"{step} {worker}", "reward": step, "step": step} for step in range(4)]
        (log / f"rank_{worker}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run,) = make_reader("jsonl", run="folder").runs(log)
    expected = [f"{step} {worker}" for step in range(4) for worker in range(3)]
    assert [r.completion for r in run.rollouts()] == expected
    store, summary = import_log("jsonl", log, tmp_path / "apart")
    assert len(store) == 3 and any("-s run folder" in line for line in summary["notes"])
    for worker in range(2):  # rows without a step stand as they are
        (log / f"rank_{worker}.jsonl").write_text('{"prompt": "p", "response": "r", "reward": 1}\n' * 2)
    (run,) = make_reader("jsonl", run="folder").runs(log)
    assert [r.completion for r in run.rollouts()] == ["r"] * 4 + [f"{step} 2" for step in range(4)]
