"""Logs of RLHF trainers: our readers against what parsing the same files takes, and a whole import."""
import json
import random
import shutil
import tempfile
from itertools import count, product
from pathlib import Path
from types import SimpleNamespace

from harness import compare

from ad_distill.logs.core import make_reader
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
    "Logs of the complete form all the way into a store on disk; theirs: the files parsed, and nothing else."
    runs, copies, pairs = _runs("complete"), *((1, 1) if quick else (10, 5))
    n = copies * sum(1 for run in runs for _ in run.rollouts())
    with tempfile.TemporaryDirectory() as where:
        logs, stores = Path(where, "a/b/logs"), count()  # without a tokenizer beside it to load
        for run, i in product(runs, range(copies)): shutil.copytree(run.files[0].parent, logs / f"{run.name}_{i}")
        files = [file for run in TrlX().runs(logs, IDS) for file in run.files]

        def ours():
            store, _ = import_log("trlx", logs, Path(where, f"store{next(stores)}"))
            if len(store.episode_lengths) != n: raise AssertionError("the import lost rollouts")
            return n

        def theirs():
            for file in files: loads(file.read_bytes())
            return n

        what = (f"{_what(runs)}, {copies} times, written as {n:,} episodes of tokens; "
                f"theirs: {loads.__module__}.loads of each file")
        return {**compare(ours, theirs, pairs), "unit": "rollouts per CPU-second", "target": {}, "what": what}


ASKED, SAID = "Tell a story about a fox. " * 16, "The fox was sad, and lost its way home. " * 40
ROLLOUTS = 256  # of a log that is made up for a benchmark


def _numbers():
    "A prompt of 100 tokens, a completion of 400, and logprobs of that."
    rng = random.Random(0)
    ids = [rng.randrange(100_000) for _ in range(500)]
    return ids[:100], ids[100:], [-rng.random() for _ in range(400)]


def _lines(*rows): return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _trace(prompt, ids, logprobs):
    messages = {"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}
    nodes = [{"message": messages[0], "sampled": False, "token_ids": prompt, "mask": [False] * 100, "logprobs": []},
             {"parent": 0, "message": messages[1], "sampled": True, "token_ids": ids, "mask": [True] * 400,
              "logprobs": logprobs, "advantages": logprobs}]
    trace = {"agent": {"trainable": True}, "nodes": nodes, "rewards": {"happy": {"score": .6, "weight": 1.}}}
    return {"run": {"work": {"step": 1, "policy": {"start": 0, "end": 1}}}, "traces": [trace]}


def _made_up(reader):
    "The name and the bytes of a file of a log such as a reader reads."
    prompt, ids, logprobs = _numbers()
    chat = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
    n, pad = ROLLOUTS, [0.] * 100
    batch = {"step": ["1"] * n, "prompt": [ASKED] * n, "completion": [SAID] * n, "happy": [.6] * n,
             "advantages": [0.] * n}
    answers = {"global_step": [1] * n, "prompt": [ASKED] * n, "responses": [SAID] * n, "scores": [.6] * n}
    nemo = {"content": [[ASKED, SAID]], "rewards": [.6], "input_lengths": [500], "token_ids": [prompt + ids],
            "token_loss_mask": [[0] * 100 + [1] * 400], "generation_logprobs": [pad + logprobs],
            "prev_logprobs": [pad + logprobs], "advantages": [pad + logprobs]}
    saved = {"step": 1, "sample_idx": 0, "prompt_tokens": prompt, "response_tokens": ids, "reward": .6,
             "finish_reason": "stop", "logprobs": logprobs}
    episode = {"training_step": 1, "trajectories": [
        {"name": "solver", "reward": .6, "steps": [{"reward": .6, "model_response": SAID, "chat_completions": chat}]}]}
    dumped = {"reward": .6, "tail_version": 1, "prompt": ASKED, "completion": SAID}
    trajectory = {"reward": .6, "messages_and_choices": [chat[0], {"message": chat[1], "finish_reason": "stop"}]}
    return {
        "verl": ("1.jsonl", _lines(*[{"input": ASKED, "output": SAID, "score": .6, "step": 1}] * n)),
        "prime_rl": ("rollouts/step_1/train/effective/traces.jsonl", _lines(*[_trace(prompt, ids, logprobs)] * n)),
        "jsonl": ("a.jsonl", _lines(*[{"prompt": ASKED, "response": SAID, "reward": .6, "step": 1}] * n)),
        "ms_swift": ("completions.jsonl", _lines(batch)),
        "nemo_rl": ("train_data_step1.jsonl", _lines(*[nemo] * n)),
        "open_instruct": ("a_rollouts_000000.jsonl", _lines(*[saved] * n)),
        "art": ("trajectories/train/0001.jsonl", _lines(*[{"trajectories": [trajectory] * 8}] * (n // 8))),
        "rllm": ("train_step_1_epoch_0/episode_hash0_id0.json", _lines(episode)),
        "areal": ("rollout/1/1.jsonl", _lines(*[dumped] * n)),
        "roll": ("rollout_dump_data.step_1.jsonl", _lines(answers)),
    }[reader]


def _read_made_up(reader, quick):
    "A reader of JSON against the parser alone."
    name, data = _made_up(reader)
    times, pairs = (1, 1) if quick else (20, 7)
    with tempfile.TemporaryDirectory() as where:
        file = Path(where, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        (run,) = make_reader(reader).runs(where)
        n = sum(1 for _ in run.rollouts())

        def ours():
            for _ in range(times):
                for _ in run.rollouts(): pass
            return n * times

        def theirs():
            for _ in range(times):
                with open(file, "rb") as f:
                    for line in f: loads(line)
            return n * times

        return {**compare(ours, theirs, pairs), "unit": "rollouts per CPU-second", "target": {"ratio": 0.5},
                "what": f"{len(data) / 1e6:.1f} MB as {reader} writes; theirs: {loads.__module__}.loads"}


def read_slime_vs_torch(quick: bool) -> dict:
    "A file of samples; theirs: torch.load of it."
    import torch
    prompt, ids, logprobs = _numbers()
    sample = {"prompt": ASKED, "response": SAID, "tokens": prompt + ids, "response_length": 400, "reward": .6,
              "rollout_log_probs": logprobs, "loss_mask": None, "status": "completed"}
    times, pairs = (1, 1) if quick else (3, 7)
    with tempfile.TemporaryDirectory() as where:
        file = f"{where}/0.pt"
        samples = [{**sample, "tokens": [*sample["tokens"]]} for _ in range(ROLLOUTS)]
        torch.save({"rollout_id": 0, "samples": samples}, file)
        (run,) = make_reader("slime").runs(where)

        def ours():
            for _ in range(times):
                for _ in run.rollouts(): pass
            return ROLLOUTS * times

        def theirs():
            for _ in range(times): torch.load(file, weights_only=True)
            return ROLLOUTS * times

        return {**compare(ours, theirs, pairs), "unit": "rollouts per CPU-second", "target": {"ratio": 0.5},
                "what": f"{ROLLOUTS} samples made up as slime saves them; theirs: torch.load"}


def _entry(reader):
    def benchmark(quick): return _read_made_up(reader, quick)
    benchmark.__name__ = f"read_{reader}_vs_json"
    benchmark.__doc__ = f"The reader {reader} without a store; theirs: the lines parsed, and nothing else."
    return benchmark


OF_TODAY = *map(_entry, ("verl", "prime_rl", "jsonl", "ms_swift", "nemo_rl", "open_instruct", "art", "rllm", "areal",
                         "roll")), read_slime_vs_torch
