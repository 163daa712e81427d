"""A long log in large step files is imported in bounded memory; by hand, at full size: AD_DISTILL_LOG_MB=1000."""

import json
import os
import subprocess
import sys

import numpy as np

SIZE = int(os.environ.get("AD_DISTILL_LOG_MB", "100"))  # of the log; of 1000 MB the files have 64
FILE = max(16, 64 * SIZE // 1000)
BOUND = 500 if SIZE >= 1000 else 320  # MB of memory, of which an empty import takes about 150; rusage has the parent's
IMPORT = """
import json, sys, threading
import psutil
from ad_distill import import_log
from ad_distill.rlhf.conversations import stored_rollouts
watched, peak = threading.Event(), 0
def watch():
    global peak
    while not watched.wait(.005): peak = max(peak, psutil.Process().memory_info().rss >> 20)
watcher = threading.Thread(target=watch)
watcher.start()
store, said = import_log("roll", sys.argv[1], sys.argv[2], turns=len(sys.argv) > 3)
watched.set()
watcher.join()
last = next(stored_rollouts(store, 0, said["rollouts"] - 1))
assert len(sys.argv) < 4 or len(last.messages) == 6
print(json.dumps(dict(peak=peak, rollouts=said["rollouts"], size=sum(p.stat().st_size for p in store.path.rglob("*")))))
"""


def words(rng, n, vocabulary="the fox was sad and lost its way home in rain".split()):
    return " ".join(rng.choice(vocabulary, n).tolist())


def line_of_verl(rng, step):
    row = {"input": words(rng, 100), "output": words(rng, 900) + "é", "score": 0.5, "step": step, "seed": words(rng, 9)}
    return json.dumps(row) + "\n"


def trajectory(rng):
    "A conversation of three turns and what ROLL says of it, as JSON in JSON."
    said = [{"role": x, "content": words(rng, 150)} for _ in range(3) for x in ("user", "assistant")]
    about = {"reward_info": {"episode_reward": 1.5, "step_rewards": [0.5] * 3}, "length_info": {"terminated": True}}
    return json.dumps(about), json.dumps(said)


def write_verl(folder, step, size, rng):
    lines = [line_of_verl(rng, step) for _ in range(64)]
    n = max(1, size // sum(map(len, lines)))
    (folder / f"{step}.jsonl").write_text("".join(lines * n))
    return 64 * n


def write_roll(folder, step, size, rng):
    "A step is one line: what is longest to hold."
    held = [trajectory(rng) for _ in range(64)]
    n = max(1, size // sum(len(a) + len(b) for a, b in held))
    columns = [list(x) * n for x in zip(*held)]
    row = {"trajectory_data": columns[0], "messages": columns[1], "global_step": [step] * (64 * n)}
    (folder / f"rollout_dump_data.step_{step}.jsonl").write_text(json.dumps(row) + "\n")
    return 64 * n


def measured(folder, reader, write, *turns):
    rng, files = np.random.default_rng(0), range(1, max(2, SIZE // FILE) + 1)
    (folder / "log").mkdir()
    rollouts = sum(write(folder / "log", step, FILE << 20, rng) for step in files)
    program = IMPORT.replace('"roll"', repr(reader))
    args = [sys.executable, "-c", program, str(folder / "log"), str(folder / "store"), *turns]
    got = json.loads(subprocess.run(args, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert got["rollouts"] == rollouts
    size = sum(p.stat().st_size for p in (folder / "log").iterdir())
    print(reader, f"{size / 1e6:.0f} MB of log", got)
    assert got["peak"] < BOUND and got["size"] < 2 * size, got


def test_a_line_a_rollout(tmp_path):
    measured(tmp_path, "verl", write_verl)


def test_a_line_a_step_of_conversations(tmp_path):
    measured(tmp_path, "roll", write_roll)


def test_a_step_a_turn_and_read_again(tmp_path):
    measured(tmp_path, "roll", write_roll, "turns")
