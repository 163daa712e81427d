"""Random windows: our dataset over a store against a raw memory map of one numpy record a transition."""
import tempfile
from pathlib import Path

import numpy as np
import torch
from harness import compare

from ad_distill.data.dataset import Strided, TrajectoryDataset, Windows
from ad_distill.sources.core import generate, make_source
from ad_distill.tasks.core import make_task

NAMES = ("state", "action", "reward", "logprob")


def _raw(store, path):
    "The transitions of a store as a memory map of packed records."
    columns = store[0].columns
    record = np.dtype([(k, v.dtype, v.shape[1:]) for k, v in columns.items()])
    records = np.memmap(path, record, "w+", shape=store.n_transitions)
    start = 0
    for history in store:
        for k, v in history.columns.items(): records[k][start:start + len(v)] = v
        start += len(v)
    records.flush()
    return np.memmap(path, records.dtype, "r")


def _measure(quick, read, what):
    "Our batches of 64 windows against `read(records, rows)`, which fetches the same."
    histories, episodes, batches, pairs = (8, 260, 4, 1) if quick else (1024, 300, 300, 7)
    task, batch = make_task("dark_room"), 64
    with tempfile.TemporaryDirectory() as where:
        store = generate(task, make_source("q_learning"), Path(where) / "store", histories, episodes)
        records, windows = _raw(store, Path(where) / "raw"), Windows(10, Strided(25))
        dataset = TrajectoryDataset(store, windows=windows, n=batch * batches)
        indices = np.arange(batch * batches).reshape(batches, batch)
        episode = (dataset.history[:, None] * episodes + dataset.episode)[indices, :, None]
        rows = episode * task.horizon + np.arange(task.horizon)
        rows = rows.reshape(batches, batch, -1)  # made beforehand for them, each time by us

        def ours():
            for i in indices: dataset.__getitems__(i)
            return indices.size

        def theirs():
            for r in rows: read(records, r)
            return indices.size

        first_batch = dataset.__getitems__(indices[0]).batch
        if not all(np.array_equal(first_batch[k], records[rows[0]][k]) for k in NAMES):
            raise AssertionError("the two ways read different windows")
        return {**compare(ours, theirs, pairs), "unit": "windows per CPU-second", "target": {"ratio": 0.8},
                "what": f"64 windows of 10 episodes at stride 25, {store.n_transitions:,} transitions; theirs: {what}"}


def windows_vs_memmap(quick: bool) -> dict:
    return _measure(quick, lambda records, rows: records[rows], "records[rows], no tensors made of it")


def windows_vs_memmap_tensors(quick: bool) -> dict:
    "The strictest alternative: numpy's fastest way to fetch records, made into the tensors that a model needs."
    def read(records, rows):
        got = records.view(np.ndarray).take(rows)
        return {k: torch.from_numpy(np.ascontiguousarray(got[k])) for k in NAMES}
    return _measure(quick, read, "records.take(rows), then a tensor of each column")
