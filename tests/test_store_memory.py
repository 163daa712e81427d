"""10 million transitions, about 500 MB, open and give random windows in less than 100 MB of memory of their own.

Pages of the mapped file are not counted: they belong to the file cache, and the system takes them back when it needs
them."""

import json, subprocess, sys, time

import numpy as np
from gymnasium.spaces import Box, Discrete

from ad_distill.data.store import Store, StoreWriter
from ad_distill.trajectory import History, Spaces

EPISODES, STEPS, HISTORIES = 300, 20, 1667
READ = """
import json, sys, time
import numpy as np
from ad_distill.data.store import Store
from ad_distill.trajectory import COLUMNS
now = time.process_time()
store = Store.open(sys.argv[1])
opened = time.process_time() - now
def memory(kind): return next(int(x.split()[1]) * 1024 for x in open("/proc/self/status") if x.startswith(kind))
rng, batches, steps, check, own = np.random.default_rng(0), int(sys.argv[2]), 20, 0., 0
now = time.perf_counter()
for k in range(batches):
    history = rng.integers(0, len(store), 64)[:, None]
    start = (rng.integers(0, 300 - 225, 64)[:, None] + 25 * np.arange(10)) * steps
    if k % 2: window = store.gather(COLUMNS, history, start, run=steps)
    else: window = store.gather(COLUMNS, history, (start[..., None] + np.arange(steps)).reshape(64, -1))
    check += float((window["state"].reshape(64, -1)[:, 0] == history[:, 0]).mean())
    if k % 10 == 0: own = max(own, memory("RssAnon"))
windows_s = 64 * batches / (time.perf_counter() - now)
for i in range(0, len(store), 5): store[i]  # reads and verifies whole histories, 100 MB of them
own, mapped = max(own, memory("RssAnon")), memory("RssFile")
print(json.dumps(dict(opened=opened, windows_s=windows_s, own=own, mapped=mapped, check=check / batches,
                      n=store.n_transitions)))
"""


def make(path, histories, episodes=EPISODES, steps=STEPS):
    "Histories whose states hold their own number, quickly."
    rows, spaces = episodes * steps, Spaces(Box(-1, 1, (8,)), Discrete(5))
    rng = np.random.default_rng(0)
    columns = dict(
        state=np.zeros((rows, 8), np.float32),
        action=rng.integers(0, 5, rows).astype(np.int8),
        reward=rng.random(rows, np.float32),
        logprob=np.full(rows, -1, np.float32),
        terminated=np.zeros(rows, bool),
        truncated=np.arange(rows) % steps == steps - 1,
    )
    with StoreWriter(path, spaces, dict(task=dict(name="big"))) as writer:
        for i in range(histories):
            columns["state"][:] = i
            task, source = dict(name="big", params=dict(size=9), instance=i), dict(name="none", params={})
            writer.put(i, History(columns, np.full(episodes, steps), spaces, task, source, i, {}))


def read(path, batches):
    command = [sys.executable, "-c", READ, str(path), str(batches)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_ten_million_transitions(tmp_path):
    make(tmp_path / "s", HISTORIES)
    assert (tmp_path / "s/transitions.arrow").stat().st_size > 420e6
    got = read(tmp_path / "s", 800)
    print(got)
    assert got["n"] >= 10_000_000
    assert got["check"] == 1  # the windows were those of their histories
    assert got["own"] < 100e6, f"{got['own'] / 1e6:.0f} MB of its own"
    assert got["opened"] < 2  # CPU-seconds; a tenth of one is usual


def test_twenty_thousand_histories_open_quickly(tmp_path):
    make(tmp_path / "s", 20_000, episodes=300, steps=1)

    def cost(f):
        "The least CPU-seconds of three calls, and what the last one gave."
        least = 9e9
        for _ in range(3):
            now = time.process_time()
            got = f()
            least = min(least, time.process_time() - now)
        return least, got

    seconds, store = cost(lambda: Store.open(tmp_path / "s"))
    plain, lines = cost(lambda: [json.loads(line) for line in open(tmp_path / "s/index.jsonl")])
    print(f"{seconds:.2f} s; its index by the json module {plain:.2f} s")
    assert len(store) == len(lines) == 20_000
    assert seconds < 4 * plain  # about as long, or less
