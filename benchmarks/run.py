"""`make bench`: each fast path against its alternative, in the same run, printed as ratios and written to results.json.

Ours and theirs are measured in turn (ours, theirs, ours, theirs, ...) in CPU-seconds of one thread; the ratio is the
median over the pairs, so that what else the machine does meanwhile meets both. Beside it stands the same by the clock.
"""
import os

# Read when numpy and torch are imported.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", HF_HUB_OFFLINE="1",
                  HF_HUB_DISABLE_PROGRESS_BARS="1")

import argparse
import json
import time
import warnings
from pathlib import Path

import torch
from acting import act_text_vs_recompute, act_vs_recompute
from free_text import act_free_text_vs_generate, act_memory_vs_generate
from generate import generate_vs_sync_vector_env
from grpo import recorder_vs_trl
from harness import about, load
from memory import rollouts_vs_content, store_memory
from recording import recording_vs_bare_training, two_workers_vs_one
from rollout_logs import OF_TODAY, import_logs_vs_orjson, read_logs_vs_orjson
from serialize import parse_vs_json, serialize_vs_json
from stories import distill_stories_vs_bare_loop
from training import lora_step_vs_transformers, train_step_vs_bare_loop
from windows import windows_vs_memmap, windows_vs_memmap_tensors

ALL = (
    generate_vs_sync_vector_env,
    windows_vs_memmap,
    windows_vs_memmap_tensors,
    train_step_vs_bare_loop,
    distill_stories_vs_bare_loop,
    lora_step_vs_transformers,
    act_vs_recompute,
    act_text_vs_recompute,
    act_free_text_vs_generate,
    act_memory_vs_generate,
    serialize_vs_json,
    parse_vs_json,
    store_memory,
    rollouts_vs_content,
    read_logs_vs_orjson,
    import_logs_vs_orjson,
    *OF_TODAY,
    recording_vs_bare_training,
    recorder_vs_trl,
    two_workers_vs_one,
)
BENCHMARKS = {f.__name__: f for f in ALL}


def number(x): return f"{x:,.2f}" if x < 100 else f"{x:,.0f}"


def reached(result):
    "What falls short of its target, in words; empty if nothing does."
    lower = result.get("lower_is_better")
    missed = {k: v for k, v in result["target"].items() if (result[k] > v if lower else result[k] < v)}
    return [f"{k} {'at most' if lower else 'at least'} {number(v)}" for k, v in missed.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", choices=BENCHMARKS, action="append", metavar="NAME",
        help=f"only this one (may be repeated): {', '.join(BENCHMARKS)}")
    add("--quick", action="store_true", help="tiny sizes, seconds in all: shows that it runs, the figures mean nothing")
    add("--out", type=Path, help="file for the results; default: results.json beside this file for a whole run")
    args = parser.parse_args()
    is_whole = not (args.only or args.quick)
    if args.out is None and is_whole: args.out = Path(__file__).parent / "results.json"
    warnings.filterwarnings("ignore", module="torch|transformers|accelerate")
    torch.set_num_threads(1)

    results = []
    line = "{:28} {:>8} {:>13} {:>13}  {:34} {:>7} {:>5}".format
    print(line("", "ratio", "ours", "theirs", "unit", "wall", "load"), flush=True)
    for name in args.only or BENCHMARKS:
        started = time.perf_counter()
        result = {"name": name, **BENCHMARKS[name](args.quick)}
        result |= {"load": load(), "seconds": round(time.perf_counter() - started, 1)}
        results.append(result)
        wall = number(result["wall"]["ratio"]) if "wall" in result else ""
        figures = [number(result[k]) for k in ("ratio", "ours", "theirs")]
        print(line(name, *figures, result["unit"], wall, str(result["load"])), flush=True)
        if args.quick: continue
        for missed in reached(result): print(f"{'':28} below its target: {missed}", flush=True)
    if args.out:
        found = {"results": results, "about": {**about(), "quick": args.quick}}
        args.out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"written to {args.out}")


if __name__ == "__main__": main()
