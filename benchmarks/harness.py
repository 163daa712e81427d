"""Two ways to do the same work, measured in turn, and a word on where that was."""
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ad_distill.trajectory import versions


def compare(
    ours: Callable[[], int],  # does some work; returns how much, in units
    theirs: Callable[[], int],  # does such work in the other way
    pairs: int,  # how often: ours, theirs, ours, theirs, ...
) -> dict:  # units a CPU-second of both, and the median of the ratios within pairs; under "wall" the same by the clock
    "Measure both in this process, in turn, after one call of each that does not count."
    ours()
    theirs()
    rates = np.array([[_rates(ours), _rates(theirs)] for _ in range(pairs)])  # (pairs, 2, 2): CPU and wall
    (our_cpu, our_wall), (their_cpu, their_wall) = np.median(rates, 0).tolist()
    ratio_cpu, ratio_wall = np.median(rates[:, 0] / rates[:, 1], 0).tolist()
    pairs_cpu = (rates[:, 0, 0] / rates[:, 1, 0]).tolist()
    return {"ratio": ratio_cpu, "ours": our_cpu, "theirs": their_cpu, "pairs": pairs_cpu,
            "wall": {"ratio": ratio_wall, "ours": our_wall, "theirs": their_wall}}


def _rates(work):
    "Units a second of CPU time and of wall time."
    cpu, wall = time.process_time(), time.perf_counter()
    n = work()
    return n / (time.process_time() - cpu), n / (time.perf_counter() - wall)


def about() -> dict:
    "What kind of machine this is, how busy, and with which software."
    packages = ("torch", "pyarrow", "transformers", "accelerate")
    return {"cpu": _cpu(), "cores": os.cpu_count(), "threads": 1, "system": platform.system(), "load": load(),
            "versions": {**versions(), **{p: importlib.metadata.version(p) for p in packages}}}


def _cpu():
    try: lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError: return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def load() -> float | None:
    "Processes that wanted to run during the last minute; None where the system does not say."
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
