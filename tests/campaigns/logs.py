"""Damaged logs of trainers: every one is imported as it says, or refused in one line.

By hand: `python tests/campaigns/logs.py --seed 0 --count 2000`. Every reader has its share. What a damaged log should
give is read without the package for trlX and TRL; for the others a log whose text says something else has to give that
(what the damage changed, and nothing beside it), and one that is cut off no more than what is whole in it."""

import copy, io, json, math, random, shutil, sys, tempfile, traceback, warnings
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from harness import main, picked

from ad_distill.logs.importing import import_log
from ad_distill.registry import UserError

DATA = Path(__file__).resolve().parent.parent / "data"
sys.path.append(str(DATA.parent))
from test_log_readers import BINARY, CASES, LOGS, edited  # noqa: E402 - a small log of each form

ODD = (None, True, -1, 2**31, 2**63, 10**30, -0.5, 3.5e38, 1e400, math.nan, "", "7", "\ud800", "x" * 999, [], {}, [[1]])
DEEP = b"[" * 100_000


@cache
def trlx_log():
    "A real batch, its first rollouts."
    file = sorted((DATA / "trlx_logs/complete").glob("*/rollouts-00000.json"))[0]
    d = json.loads(file.read_text())
    return d | {"rollouts": d["rollouts"][:4]}


@cache
def trl_log():
    file = sorted((DATA / "trl_logs/dense/completions").glob("*.parquet"))[0]
    return pq.read_table(file).slice(0, 8).drop_columns(["short"]).to_pydict()


def edit(rng, d):
    "Change or remove one value, near the top more often than by chance."
    d = copy.deepcopy(d)
    depth = rng.randrange(1, 6)
    inner, (*_, last) = picked(rng, d, depth)
    if rng.random() < 0.2:
        del inner[last]
    else:
        inner[last] = rng.choice(ODD)
    return d


def edit_bytes(rng, data):
    data, kind = bytearray(data), rng.randrange(3)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    at = rng.randrange(len(data))
    if kind == 1:
        data[at] ^= 1 << rng.randrange(8)
    else:
        data[at:at] = rng.choice((b"\xff\xfe", b"\0", b"NaN", b"]", DEEP))
    return bytes(data)


def column(rng, rows):
    "Another column in the place of one."
    n, kind = len(rows), rng.randrange(7)
    message = rng.choice(({"role": "user", "content": None}, {"role": None, "content": "a"}, {"text": "a"}))
    if kind == 0:
        return pa.array([rng.choice((None, x)) for x in rows])
    if kind == 1:
        return pa.array([[str(x), "b"] for x in rows])
    if kind == 2:
        return pa.array([[message]] * n)
    if kind == 3:
        return pa.array(np.full(n, rng.choice((3.5e38, math.inf, -1.5, math.nan))))
    if kind == 4:
        return pa.array([rng.choice((-1, 2**62, 0, 7)) for _ in rows])
    if kind == 5:
        return pa.array([[[1.0], None]] * n)
    return pa.array([b"\xff\xfe"] * n).view(pa.utf8()) if rng.random() < 0.5 else pa.nulls(n)


def parquet(rng):
    columns = {k: pa.array(v) for k, v in trl_log().items()}
    if rng.random() < 0.5:
        k = rng.choice(list(columns))
        if rng.random() < 0.1:
            del columns[k]
        else:
            columns[k] = column(rng, trl_log()[k])
        what, change = f"column {k}", False
    else:
        what, change = "bytes of parquet", True
    pq.write_table(pa.table(columns), buffer := io.BytesIO())
    return what, edit_bytes(rng, buffer.getvalue()) if change else buffer.getvalue()


def make(rng, folder):
    "A damaged log: its reader, and what was changed."
    if rng.random() < 0.5:
        what, data = parquet(rng)
        (folder / "completions_00001.parquet").write_bytes(data)
        return "trl", what
    good = json.dumps(trlx_log())
    if rng.random() < 0.5:
        what, data = "bytes of json", edit_bytes(rng, good.encode())
    else:
        what, data = "json", json.dumps(edit(rng, trlx_log())).encode()
    (folder / "rollouts-00000.json").write_bytes(data)
    return "trlx", what


def said(folder, reader):
    "How many rollouts a log holds, and their scores, read without the package."
    if reader == "trlx":
        rows = json.loads((folder / "rollouts-00000.json").read_bytes())["rollouts"]
        return [r["score"] for r in rows], None
    d = pq.read_table(folder / "completions_00001.parquet").to_pydict()
    order = np.argsort(d["step"], kind="stable")
    return [d["vowels"][i] if "vowels" in d else math.nan for i in order], [d["completion"][i] for i in order]


def score(x):
    "NaN where the log has no number; a list is what was paid token by token."
    if isinstance(x, list) and all(isinstance(y, (int, float)) for y in x):
        return math.fsum(x)
    return x if isinstance(x, (int, float)) else math.nan


def same(store, scores, texts):
    h = store[0]
    want = np.array([score(x) for x in scores], np.float32)
    right = np.array_equal(h.returns, want, equal_nan=True)
    if texts is not None:
        right &= all(isinstance(x, list) or x == y for x, y in zip(texts, h.columns["action"], strict=True))
    return bool(right)


SAYS = {  # what a value may change: by the last name on the way to it
    "score": "reward rewards score scores weight Happy Length episode_reward reward_info trajectory_data "
    "trajectory_json",
    "text": "prompt input output completion response responses content message messages messages_and_choices nodes "
    "role parent sampled name tool_calls token_ids mask input_lengths token_loss_mask tokens response_length loss_mask "
    "prompt_tokens response_tokens prompt_ids completion_ids chat_completions trajectory trajectory_data steps "
    "trajectory_json exchanges trajectories traces text trainable is_content",
}
SAYS = {k: {*words.split()} for k, words in SAYS.items()}


def held(file):
    "What a file holds, as parsed without the package; None: it cannot be parsed."
    try:
        if file.suffix in BINARY:
            return BINARY[file.suffix][0](file)
        data = file.read_bytes()
        if file.suffix == ".yaml":
            return yaml.safe_load(data)
        if file.suffix == ".json":
            return [json.loads(data)]
        return [json.loads(line) for line in data.splitlines() if line.strip()]
    except (Exception, RecursionError):
        return None


def differing(a, b, names=("",)):
    "The last names on the ways to what differs; a number alone is the row of that number."
    if type(a) is type(b) and isinstance(a, dict):
        for k in {*a, *b}:
            if k not in a or k not in b:
                yield k
            else:
                yield from differing(a[k], b[k], (*names, k))
    elif type(a) is type(b) and isinstance(a, list) and len(a) == len(b):
        for x, y in zip(a, b):
            yield from differing(x, y, names)
    elif repr(a) != repr(b):
        yield names[-1]


def log_files(folder):
    return [p for p in folder.rglob("*") if p.is_file()]


def told(store):
    "(text, score) of each rollout."
    h, text = store[0], []
    for e in h:
        text.append(repr([e.state[0].tolist() if hasattr(e.state[0], "tolist") else e.state[0], e.action.tolist()]))
    return [*zip(text, map(repr, np.asarray(h.returns, np.float32).tolist()))]


@cache
def usual(i):
    "What an example holds, and what is said of it."
    with tempfile.TemporaryDirectory() as out:
        store, summary = import_log(CASES[i].reader, LOGS / CASES[i].folder, Path(out) / "store")
        return told(store), {*summary["notes"]}


def spoil(rng, file):
    "Damage a file; what was done."
    data, rows = file.read_bytes(), held(file)
    if rng.random() < 0.4:
        file.write_bytes(edit_bytes(rng, data))
        return "bytes"
    edited(rng, rows)
    try:
        if file.suffix in BINARY:
            BINARY[file.suffix][1](file, rows)
        elif file.suffix == ".yaml":
            file.write_text(yaml.safe_dump(rows))
        else:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError, AttributeError, yaml.YAMLError):
        file.write_bytes(data)  # no file can hold it
    return "value"


def unsaid(i, before, file, store, notes):
    "What came of a damaged example that is neither what it says nor said; None: nothing."
    (good, known), after, found = usual(i), held(file), told(store)
    if notes - known:
        return None
    if after is None:
        return "it cannot be parsed"
    changed = {*differing(before, after)}
    if len(found) != len(good):
        return f"{len(found)} rollouts, expected {len(good)} ({changed})"
    for k, name in enumerate(("text", "score")):
        if [x[k] for x in found] != [x[k] for x in good] and not changed & SAYS[name]:
            return f"another {name}, and changed was {changed}"
    return None


def one_example(rng, i, work):
    "Outcome of a damaged example of a reader, and what was changed."
    case = CASES[i]
    shutil.copytree(LOGS / case.folder, work / "log", dirs_exist_ok=True)
    file = max(log_files(work / "log"), key=lambda p: p.stat().st_size)
    before = held(file)
    what = f"{case.folder}: {spoil(rng, file)}"
    store, summary = import_log(case.reader, work / "log", work / "store", skip_bad=rng.random() < 0.3)
    store.verify()
    if sum(summary["left_out"][k] for k in ("rollouts", "files")):
        return "right", f"{what} (skipped)"  # and said
    why = unsaid(i, before, file, store, {*summary["notes"]})
    return ("right", what) if why is None else ("silent", f"{what}: {why}")


def one_of_ours(rng, work):
    "The same of trlX or TRL, whose logs were made here."
    reader, what = make(rng, work / "log")
    store, summary = import_log(reader, work / "log", work / "store", skip_bad=rng.random() < 0.3)
    store.verify()
    if summary["left_out"]["rollouts"] + summary["left_out"]["files"]:
        return "right", f"{what} (skipped)"  # and said
    return ("right" if same(store, *said(work / "log", reader)) else "silent"), what


def one(seed, work):
    "Outcome of one variant, and what was changed."
    rng, i = random.Random(seed), seed % (len(CASES) + 2)
    shutil.rmtree(work, ignore_errors=True)
    (work / "log").mkdir(parents=True)
    what = CASES[i].folder if i < len(CASES) else "trlx or trl"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return one_example(rng, i, work) if i < len(CASES) else one_of_ours(rng, work)
    except UserError as e:
        return ("refused" if len(str(e).splitlines()) == 1 else "traceback"), f"{what}: {e}"[:200]
    except Exception as e:
        traceback.print_exc(limit=-4)
        return "traceback", f"{what}: {e!r}"[:200]


if __name__ == "__main__":
    main(one, __doc__)
