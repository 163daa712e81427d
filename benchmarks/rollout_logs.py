"""Logs of RLHF trainers: our readers against what parsing the same files takes, and a whole import."""
import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

from harness import compare

from ad_distill.logs.importing import import_log
from ad_distill.logs.trlx import TrlX

LOGS = Path(__file__).resolve().parent.parent / "tests/data/trlx_logs"
IDS = SimpleNamespace(pad_token_id=1, eos_token_id=0, name_or_path="")  # of the tokenizer of these logs

try: from orjson import loads
except ImportError: loads = json.loads


def _runs(*forms): return [run for form in forms for run in TrlX().runs(LOGS / form, IDS)]


def _what(runs):
    files = [file for run in runs for file in run.files]
    size = sum(file.stat().st_size for file in files)
    return f"{size / 1e6:.1f} MB of real trlX logs in {len(files)} files"


def read_logs_vs_orjson(quick: bool) -> dict:
    "Records of both forms, without padding, penalties apart from scores; theirs: the files parsed, and nothing else."
    runs = _runs("complete", "text_only")
    times, pairs = (1, 1) if quick else (20, 7)
    n = sum(1 for run in runs for _ in run.rollouts())

    def ours():
        for _ in range(times):
            for run in runs:
                for _ in run.rollouts(): pass
        return n * times

    def theirs():
        for _ in range(times):
            for run in runs:
                for file in run.files: loads(file.read_bytes())
        return n * times

    return {**compare(ours, theirs, pairs), "unit": "rollouts per CPU-second", "target": {"ratio": 0.5},
            "what": f"{_what(runs)}; theirs: {loads.__module__}.loads of each file"}


def import_logs_vs_orjson(quick: bool) -> dict:
    "The complete form all the way into a store on disk; theirs: the files parsed, and nothing else."
    runs, pairs = _runs("complete"), 1 if quick else 7
    n = sum(1 for run in runs for _ in run.rollouts())

    def ours():
        with tempfile.TemporaryDirectory() as where:
            logs = shutil.copytree(LOGS / "complete", Path(where) / "a/b/logs")  # without a tokenizer beside it to load
            store, _ = import_log("trlx", logs, Path(where) / "store")
            if len(store.episode_lengths) != n: raise AssertionError("the import lost rollouts")
        return n

    def theirs():
        for run in runs:
            for file in run.files: loads(file.read_bytes())
        return n

    what = f"{_what(runs)}, written as {n:,} episodes of tokens; theirs: {loads.__module__}.loads of each file"
    return {**compare(ours, theirs, pairs), "unit": "rollouts per CPU-second", "target": {}, "what": what}
