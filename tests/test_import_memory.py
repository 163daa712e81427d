"""A long log in large step files is imported in bounded memory; by hand, at full size: AD_DISTILL_LOG_MB=1000."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ad_distill.registry import READERS

SIZE = int(os.environ.get("AD_DISTILL_LOG_MB", "64"))  # of the log; of 1000 MB the files have 64
FILE = max(8, 64 * SIZE // 1000)
BOUND = 350 if SIZE >= 1000 else SIZE * 5 // 4  # MB more than after the import of a small log, which takes about 150
TOKENS = {"nemo_rl", "open_instruct", "trlx", "slime"}  # a run of tokens as lists would take five times its size
IMPORT = """
import json, sys, threading, time
import psutil
from ad_distill import import_log
from ad_distill.rlhf.conversations import stored_rollouts
log, store, reader, small, *turns = sys.argv[1:]
import_log(reader, small, small + ".store")  # modules are loaded
held = lambda: psutil.Process().memory_info().rss >> 20
watched, before = threading.Event(), held()
peak = before
def watch():
    global peak
    while not watched.wait(.005): peak = max(peak, held())
watcher = threading.Thread(target=watch)
watcher.start()
store, said = import_log(reader, log, store, turns=bool(turns))
watched.set()
watcher.join()
last = next(stored_rollouts(store, 0, said["rollouts"] - 1))
assert not turns or len(last.messages) == 6
size = sum(p.stat().st_size for p in store.path.rglob("*"))
cpu = round(time.process_time(), 1)
print(json.dumps(dict(cpu=cpu, peak=peak, more=peak - before, rollouts=said["rollouts"], size=size)))
"""


def words(rng, n, vocabulary="the fox was sad and lost its way home in rain".split()):
    return " ".join(rng.choice(vocabulary, n).tolist())


def line_of_verl(rng, step):
    return {
        "input": words(rng, 100),
        "output": words(rng, 900) + "é",
        "score": 0.5,
        "step": step,
        "seed": words(rng, 9),
    }


def line_of_jsonl(rng, step):
    return {"prompt": words(rng, 100), "response": words(rng, 900), "reward": 0.5, "step": step}


def line_of_areal(rng, step):
    return {"prompt": words(rng, 100), "completion": words(rng, 900), "reward": 0.5, "tail_version": step}


def messages(rng, turns=3):
    return [{"role": x, "content": words(rng, 150)} for _ in range(turns) for x in ("user", "assistant")]


def line_of_prime_rl(rng, step):
    said = messages(rng)
    nodes = [{"message": m, "sampled": m["role"] == "assistant", "parent": i - 1} for i, m in enumerate(said)]
    del nodes[0]["parent"]
    rewards = {"happy": {"score": 0.5, "weight": 1.0}}
    return {"traces": [{"nodes": nodes, "rewards": rewards}], "run": {"work": {"step": step}}}


def line_of_nemo_rl(rng, step):
    ids = rng.integers(1000, 30000, 900).tolist()
    mask = [0] * 100 + [1] * 800
    said = {"content": [[words(rng, 100), words(rng, 800)]], "rewards": [0.5], "input_lengths": [900]}
    return said | {"token_ids": [ids], "token_loss_mask": [mask], "generation_logprobs": [[-0.5] * 900]}


def line_of_open_instruct(rng, step):
    ids = rng.integers(1000, 30000, 900).tolist()
    said = {"prompt_tokens": ids[:100], "response_tokens": ids[100:], "reward": 0.5, "finish_reason": "stop"}
    return {"step": step, "sample_idx": 0, **said, "logprobs": [-0.5] * 800}


def of_art(rng):
    asked, *said = messages(rng)
    return {"reward": 0.5, "messages_and_choices": [asked, *({"message": m, "finish_reason": "stop"} for m in said)]}


def line_of_art(rng, step):
    return {"trajectories": [of_art(rng)], "metadata": {}}


def write_ms_swift(folder, step, size, rng):
    "A batch a line, each of a step of its own, and one file."
    columns = {"prompt": [words(rng, 100) for _ in range(64)], "completion": [words(rng, 900) for _ in range(64)]}
    n = max(1, size // len(json.dumps(columns)))
    with open(folder / "completions.jsonl", "a") as f:
        for i in range(n):
            at, said = {"step": [str(1000 * step + i)] * 64}, columns["completion"]
            varied = {**columns, "completion": [f"{i} {said[0]}", *said[1:]]}  # a batch that comes again is left out
            f.write(json.dumps({**at, **varied, "Happy": [0.5] * 64, "advantages": [0.0] * 64}) + "\n")
    return 64 * n


def step_of_trlx(rng, step):
    "What a line is elsewhere stands in a list here."
    ids = rng.integers(1000, 30000, 500).tolist()
    said = {"query_tensor": ids[:50], "response_tensor": ids[50:], "prompt": words(rng, 50), "output": words(rng, 450)}
    return said | {"score": 0.5, **{k: [-0.5] * 450 for k in ("logprobs", "values", "rewards")}}


def write_lines(name, line):
    "How files with objects a line are written; several steps may go on with one file."

    def write(folder, step, size, rng):
        file = folder / name.format(step=step)
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(line(rng, step)) + "\n" for _ in range(64)]
        n = max(1, size // sum(map(len, lines)))
        with open(file, "a") as f:
            f.writelines(lines * n)
        return 64 * n

    return write


def write_files(name, line):
    "A rollout a file."

    def write(folder, step, size, rng):
        lines = [json.dumps(line(rng, step)) for _ in range(64)]
        n = max(64, 64 * size // sum(map(len, lines)))
        for i in range(n):
            file = folder / name.format(step=step, i=i)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(lines[i % 64])
        return n

    return write


def line_of_rllm(rng, step):
    about = {"training_step": step, "task_hash": "a", "termination_reason": None}
    steps = [{"reward": 0.5, "chat_completions": messages(rng)}]
    return about | {"trajectories": [{"name": "solver", "reward": 0.5, "steps": steps}]}


def write_trlx(folder, step, size, rng):
    held = [json.dumps(step_of_trlx(rng, step)) for _ in range(64)]
    n = max(1, size // sum(map(len, held)))
    about = f'"pad_token_id": 0, "eos_token_id": 1, "iteration": {step}'
    (folder / f"rollouts-{step:05}.json").write_text(f'{{{about}, "rollouts": [{", ".join(held * n)}]}}')
    return 64 * n


def write_table(folder, name, rows, n):
    folder.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(folder / name, (table := pa.Table.from_pylist(rows)).schema, compression="none") as f:
        for _ in range(n):
            f.write_table(table)
    return 64 * n


def write_trl(folder, step, size, rng):
    rows = [{"step": step, "prompt": words(rng, 100), "completion": words(rng, 900), "happy": 0.5} for _ in range(64)]
    n = max(1, size // sum(len(r["prompt"] + r["completion"]) for r in rows))
    return write_table(folder / "completions", f"completions_{step:05}.parquet", rows, n)


def write_art_table(folder, step, size, rng):
    said = [[m | {"trainable": m["role"] == "assistant"} for m in messages(rng)] for _ in range(64)]
    rows = [{"group_index": i, "reward": 0.5, "messages": x} for i, x in enumerate(said)]
    n = max(1, size // sum(len(json.dumps(r)) for r in rows))
    return write_table(folder / "trajectories/train", f"{step:04}.parquet", rows, n)


def write_slime(folder, step, size, rng):
    torch = pytest.importorskip("torch")
    held = [line_of_open_instruct(rng, step) for _ in range(64)]
    samples, n = [], max(1, size // (64 * 20_000))
    said = {"prompt": words(rng, 100), "response": words(rng, 800), "response_length": 800, "status": "completed"}
    for i, x in enumerate(held * n):
        ids = x["prompt_tokens"] + x["response_tokens"]  # a list anew, as pickle writes the same one once
        samples.append(said | {"tokens": ids, "index": i, "reward": 0.5, "rollout_log_probs": [*x["logprobs"]]})
    (folder / "rollout_data").mkdir(exist_ok=True)
    torch.save({"rollout_id": step, "samples": samples}, folder / f"rollout_data/{step}.pt")
    return len(samples)


def trajectory(rng):
    "A conversation of three turns and what ROLL says of it, as JSON in JSON."
    about = {"reward_info": {"episode_reward": 1.5, "step_rewards": [0.5] * 3}, "length_info": {"terminated": True}}
    return json.dumps(about), json.dumps(messages(rng))


def write_roll(folder, step, size, rng):
    "A step is one line: what is longest to hold."
    held = [trajectory(rng) for _ in range(64)]
    n = max(1, size // sum(len(a) + len(b) for a, b in held))
    columns = [list(x) * n for x in zip(*held)]
    row = {"trajectory_data": columns[0], "messages": columns[1], "global_step": [step] * (64 * n)}
    (folder / f"rollout_dump_data.step_{step}.jsonl").write_text(json.dumps(row) + "\n")
    return 64 * n


WRITERS = {
    "verl": write_lines("{step}.jsonl", line_of_verl),
    "prime_rl": write_lines("rollouts/step_{step}/train/effective/traces.jsonl", line_of_prime_rl),
    "jsonl": write_lines("run.jsonl", line_of_jsonl),
    "ms_swift": write_ms_swift,
    "nemo_rl": write_lines("train_data_step{step}.jsonl", line_of_nemo_rl),
    "open_instruct": write_lines("a_rollouts_{step:06}.jsonl", line_of_open_instruct),
    "slime": write_slime,
    "art": write_lines("trajectories/train/{step:04}.jsonl", line_of_art),
    "rllm": write_files("train_step_{step}_epoch_0/episode_hasha_id{i}.json", line_of_rllm),
    "areal": write_files("rollout/{step}/{i}.jsonl", line_of_areal),
    "roll": write_roll,
    "trl": write_trl,
    "trlx": write_trlx,
}


def measured(folder, reader, write, *turns):
    rng, files = np.random.default_rng(0), range(1, max(2, SIZE // FILE) + 1)
    for name in ("log", "small"):
        (folder / name).mkdir()
    write(folder / "small", 1, 1 << 20, rng)
    rollouts = sum(write(folder / "log", step, FILE << 20, rng) for step in files)
    args = [
        sys.executable,
        "-c",
        IMPORT,
        str(folder / "log"),
        str(folder / "store"),
        reader,
        str(folder / "small"),
        *turns,
    ]
    got = json.loads(subprocess.run(args, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert got["rollouts"] == rollouts
    size = sum(p.stat().st_size for p in (folder / "log").rglob("*") if p.is_file())
    print(reader, f"{size / 1e6:.0f} MB of log", got, flush=True)
    assert got["more"] < BOUND * (2 if reader in TOKENS and SIZE < 1000 else 1) and got["size"] < 2 * size, got


@pytest.mark.parametrize("reader", WRITERS)
def test_memory_is_bounded(reader, tmp_path):
    measured(tmp_path, reader, WRITERS[reader])


def test_every_reader_is_measured():
    assert {*WRITERS} == {*READERS}


def test_tables_of_trajectories(tmp_path):
    measured(tmp_path, "art", write_art_table)


def test_a_step_a_turn_and_read_again(tmp_path):
    measured(tmp_path, "roll", write_roll, "turns")
