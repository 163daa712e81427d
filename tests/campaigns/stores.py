"""Damaged and hostile stores: every one is read rightly, or refused in one line.

By hand: `python tests/campaigns/stores.py --seed 0 --count 2000`."""

import json, random, shutil, traceback, warnings

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Text
from harness import main, picked

from ad_distill.data.store import Store, StoreWriter
from ad_distill.registry import UserError
from ad_distill.trajectory import History, Spaces

SPACES = (Spaces(Discrete(7), Discrete(3)), Spaces(Box(-1, 1, (3,)), MultiDiscrete([2, 3])), Spaces(Text(9), Text(9)))
NUMBERS = (-1, 0, 1, 7, 2**31, 2**62, 2**63, 10**12, 10**30, -(10**30), 1.5, True, None, "7", [], {}, [3], [10**6] * 3)
WORDS = ("", "float128", "object", "Discrete", "Box", "x" * 5000, "\0", "inf")
FILES = ("store.json", "index.jsonl", "transitions.arrow")


def history(i, spaces):
    rng = np.random.default_rng(i)
    lengths = rng.integers(1, 5, 3)
    n = int(lengths.sum())
    for s in (spaces.state, spaces.action):
        s.seed(i)
    done = np.isin(np.arange(n), np.cumsum(lengths) - 1)
    columns = dict(
        state=[spaces.state.sample() for _ in range(n)],
        action=[spaces.action.sample() for _ in range(n)],
        reward=rng.random(n),
        logprob=np.full(n, -1.0),
        terminated=np.zeros(n, bool),
        truncated=done,
    )
    return History(columns, lengths, spaces, dict(name="walk", params={}), dict(name="random", params={}), i, {})


def make(path, spaces, n=4):
    with StoreWriter(path, spaces, dict(seed=0)) as writer:
        for i in range(n):
            writer.put(i, history(i, spaces))
        writer.put(n + 1, history(n + 1, spaces))


def edit_json(rng, text):
    d = json.loads(text)
    inner, (*_, last) = picked(rng, d)
    kind = rng.randrange(5)
    if kind == 0:
        del inner[last]
    elif kind == 1 and type(inner[last]) is int:
        inner[last] += rng.choice((-8, -1, 1, 8, 64))
    else:
        inner[last] = rng.choice(NUMBERS + WORDS)
    return json.dumps(d, separators=(",", ":"))


def mutate(rng, path):
    "Change one thing in a store; a word for it."
    name = rng.choice(FILES)
    file, kind = path / name, rng.randrange(12)
    data = bytearray(file.read_bytes())
    if kind < 2:
        file.write_bytes(data[: rng.randrange(len(data))])
        return f"cut {name}"
    if kind < 4:
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        return f"bits of {name}"
    if kind < 6:
        file = path / "store.json"
        file.write_text(edit_json(rng, file.read_text()))
        return "header"
    if kind < 8:
        lines = (path / "index.jsonl").read_text().splitlines(keepends=True)
        i = rng.randrange(len(lines))
        line = lines[i]
        if rng.random() < 0.5:  # one of an older version, without its checksum
            line = json.dumps({k: v for k, v in json.loads(line).items() if k != "line"})
        lines[i] = edit_json(rng, line) + "\n"
        (path / "index.jsonl").write_text("".join(lines))
        return "index" if '"line"' in line else "old index"
    if kind == 8:
        file.unlink()
        return f"no {name}"
    if kind == 9:
        deep = b"[" * 100_000 + b"]" * 100_000
        rng.choice((path / "store.json", path / "index.jsonl")).write_bytes(deep + b"\n")
        return "deep"
    if kind == 10:
        name = rng.choice((*FILES, "parts"))
        target = path / name
        shutil.move(target, path.parent / "outside")
        target.symlink_to(path.parent / "outside")
        return f"link {name}"
    part = rng.choice(("x.part", "-1.part", "9" * 40 + ".part", "00000002.part", "00000007.part", "folder", "a.tmp"))
    (path / "parts" / part).mkdir() if part == "folder" else (path / "parts" / part).write_bytes(b"junk")
    return f"part {part[:9]}"


def use(path, spaces, old=False):
    "Open, read and verify, then append; whether all that came is what was written, and whether something was said."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        store = Store.open(path)
        right = store.spaces == spaces and store.info == dict(seed=0)
        for i in range(len(store)):
            got, want = store[i], history(i, spaces)
            same = all((x == want.columns[k]).all() for k, x in got.columns.items())
            right &= got == want or (old and same)
        again = Store.open(path)
        for k in again._columns:
            for i in range(len(again)):
                want = history(i, spaces).columns[k]
                right &= bool((again.gather(k, np.full(len(want), i), np.arange(len(want))) == want).all())
        store.verify()
        n = len(store)
        with StoreWriter(path, store.spaces, store.info) as writer:
            if right and not writer.has(n):
                writer.put(n, history(n, spaces))
    return right, n, bool(said)


def one(seed, work):
    "Outcome of one variant, and what was changed."
    rng = random.Random(seed)
    spaces = rng.choice(SPACES)
    shutil.rmtree(work, ignore_errors=True)
    path = work / "s"
    work.mkdir(parents=True)
    make(path, spaces)
    what = mutate(rng, path)
    outside = work / "outside"
    before = sorted((str(p), p.read_bytes()) for p in [outside, *outside.rglob("*")] if p.is_file())
    try:
        right, n, said = use(path, spaces, what == "old index")
        outcome = "right" if right and (n == 4 or said) else "silent"
    except UserError as e:
        outcome = "refused" if len(str(e).splitlines()) == 1 else "traceback"
        n = 0
    except Exception as e:
        traceback.print_exc(limit=-4)
        outcome, n = "traceback", repr(e)[:200]
    after = sorted((str(p), p.read_bytes()) for p in [outside, *outside.rglob("*")] if p.is_file())
    return ("silent" if before != after else outcome), f"{what} ({n})"


if __name__ == "__main__":
    main(one, __doc__)
