"""Many damaged inputs, each in a child process with bounded memory: what came of them, counted.

A campaign is a function `one(seed, work)` that makes an input from the seed in the folder `work`, uses it, and gives
the outcome and a word for what was changed. Outcomes: "right" (what came is what was meant, or was said), "refused"
(one line said why), "silent" (something else came, without a word), "traceback" (anything else, signals too)."""

import argparse
import collections
import json
import math
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

OUTCOMES = ("right", "refused", "silent", "traceback")
MEMORY = 6 * 2**30  # bytes of address space that a child may have; of 0, as many as it likes


def chunk(one, seeds, memory=MEMORY):
    "Outcomes of some seeds in a child process, so that a signal is an outcome too."
    work = Path(tempfile.mkdtemp(prefix="campaign-"))
    receive, send = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(receive)
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        for seed in seeds:
            os.write(send, (json.dumps([seed, *one(seed, work)]) + "\n").encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as f:
        got = [json.loads(line) for line in f]
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    shutil.rmtree(work, ignore_errors=True)
    if status == 0:
        return got
    left = seeds[len(got) :]
    return [*got, [left[0], "traceback", f"exit {status}"], *(chunk(one, left[1:], memory) if left[1:] else [])]


def campaign(one, seed, count, memory=MEMORY, at_once=100):
    "(seed, outcome, what was changed) of each variant."
    seeds = list(range(seed * 1_000_000, seed * 1_000_000 + count))
    return [x for i in range(0, count, at_once) for x in chunk(one, seeds[i : i + at_once], memory)]


def places(d, at=()):
    "Every place in nested JSON."
    if at:
        yield at
    for k, x in d.items() if isinstance(d, dict) else enumerate(d) if isinstance(d, list) else ():
        yield from places(x, (*at, k))


def picked(rng, d, depth=math.inf):
    "What holds some value of nested JSON, and the steps to that value, at most `depth`."
    *way, last = rng.choice([at for at in places(d) if len(at) <= depth])
    for k in way:
        d = d[k]
    return d, (*way, last)


def main(one, doc, memory=MEMORY):
    "The command line of a campaign; it fails where anything was silent or a traceback."
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    args = parser.parse_args()
    got = campaign(one, args.seed, args.count, memory)
    counts = collections.Counter(outcome for _, outcome, _ in got)
    for seed, outcome, what in got:
        if outcome in ("silent", "traceback"):
            print(seed, outcome, what)
    print(f"tried {len(got)}", *(f"{k} {counts[k]}" for k in OUTCOMES), sep=", ")
    sys.exit(bool(counts["silent"] + counts["traceback"]))
