"""Histories as text: writing and reading a million Dark Room transitions, against `json` with the same rows."""
import json
import sys
import time

import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete
from harness import compare

from ad_distill.language.serializer import make_serializer
from ad_distill.registry import SERIALIZERS
from ad_distill.trajectory import History, Spaces, versions


def dark_room(rows, horizon=20, seed=0):
    "A history of random steps in a dark room."
    rng, n = np.random.default_rng(seed), rows // horizon * horizon
    columns = {
        "state": rng.integers(0, 9, (n, 2)),
        "action": rng.integers(0, 5, n),
        "reward": rng.random(n) < .3,
        "logprob": np.full(n, np.log(.2)),
        "terminated": np.zeros(n, bool),
        "truncated": np.arange(n) % horizon == horizon - 1,
    }
    lengths, spaces = np.full(n // horizon, horizon), Spaces(MultiDiscrete([9, 9]), Discrete(5))
    about = {"task": {"name": "dark_room"}, "source": {"name": "random"}}
    return History(columns, lengths, spaces, **about, seed=seed, versions=versions())


def json_lines(history):
    "The rows of a history as objects, and those as lines of JSON."
    columns = [history.columns[k].tolist() for k in ("state", "action", "reward")]
    objects = [{"state": s, "action": a, "reward": r} for s, a, r in zip(*columns, strict=True)]
    return objects, [json.dumps(o) for o in objects]


def against_json(quick, ours, theirs, names=("compact", "coords")):
    "Both serializers, each against the json module with the same rows; the slower of the two ratios counts."
    rows, pairs = (2000, 1) if quick else (1_000_000, 3)
    history = dark_room(rows)
    given, found = json_lines(history), {}
    for name in names:
        serializer = make_serializer(name, history.spaces)
        text = serializer.serialize(history)
        expected = [serializer.quantize(history[i]) for i in range(20)]
        if serializer.parse(serializer.serialize(history[:20])) != expected:
            raise AssertionError(f"{name} reads something else than it wrote")
        found[name] = compare(lambda: ours(serializer, history, text) or rows, lambda: theirs(*given) or rows, pairs)
    slower = min(found, key=lambda name: found[name]["ratio"])
    return {**found[slower], "by_name": found, "rows": rows, "unit": "transitions per CPU-second",
            "what": f"{rows:,} Dark Room transitions; {slower} (the slower of {' and '.join(names)}) against the json "
                    "module"}


def serialize_vs_json(quick: bool) -> dict:
    def ours(serializer, history, text): serializer.serialize(history)
    def theirs(objects, lines):
        for o in objects: json.dumps(o)
    result = against_json(quick, ours, theirs)
    return {**result, "target": {"ours": 200e3}}  # a million in 5 CPU-seconds


def parse_vs_json(quick: bool) -> dict:
    def ours(serializer, history, text): serializer.parse(text)
    def theirs(objects, lines):
        for line in lines: json.loads(line)
    result = against_json(quick, ours, theirs)
    return {**result, "target": {"ours": 1e6 / 15}}  # a million in 15 CPU-seconds


def cpu(work, *args):
    "CPU-seconds of a call, and its result."
    start = time.process_time()
    out = work(*args)
    return time.process_time() - start, out


def main(rows):
    history = dark_room(rows)
    objects, _ = json_lines(history)
    write_json, lines = cpu(lambda: "\n".join(json.dumps(o) for o in objects))
    read_json, _ = cpu(lambda: [json.loads(line) for line in lines.split("\n")])
    gap = " " * 10
    print(f"{rows:,} transitions, CPU-seconds (ratio to the json module)")
    print(f"{'json module':<12} write {write_json:6.2f}{gap}read {read_json:6.2f}{gap}"
          f"{len(lines) / rows:5.1f} characters a transition")
    for name in SERIALIZERS:
        serializer = make_serializer(name, history.spaces)
        write, text = cpu(serializer.serialize, history)
        label, _ = cpu(serializer.labelled, history)
        read, back = cpu(serializer.parse, text)
        looked_at = (0, len(back) // 2, -1)
        differs = any(back[i] != serializer.quantize(history[i]) for i in looked_at)
        if len(back) != len(history) or differs:
            raise AssertionError(f"{name} reads something else than it wrote")
        to_write = f"write {write:6.2f} ({write_json / write:4.1f}x)"
        to_read = f"read {read:6.2f} ({read_json / read:4.1f}x)"
        size = f"{len(text) / rows:5.1f} characters a transition"
        print(f"{name:<12} {to_write}  {to_read}  {size}; with labels {label:.2f}")


if __name__ == "__main__": main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
