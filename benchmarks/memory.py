"""Memory of its own: opening ten million transitions and drawing random windows, against the size of the file."""
import sys
import tempfile
from pathlib import Path

import numpy as np

from ad_distill.data.store import StoreWriter
from ad_distill.rlhf.rollouts import token_history, token_spaces

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from test_store_memory import HISTORIES, make, read  # noqa: E402


def store_memory(quick: bool) -> dict:
    with tempfile.TemporaryDirectory() as where:
        path = Path(where) / "store"
        make(path, 20 if quick else HISTORIES)
        file = (path / "transitions.arrow").stat().st_size
        got = read(path, 10 if quick else 800)
    return {"ratio": got["own"] / file, "ours": got["own"], "theirs": file, "unit": "bytes",
            "target": {"ours": 100e6}, "lower_is_better": True,
            "what": f"peak of a process's own memory (not of the file's pages) that opens {got['n']:,} transitions and "
                    "draws windows, Python and its modules included; theirs: the file"}


def rollouts_vs_content(quick: bool) -> dict:
    rng, n, length, vocab = np.random.default_rng(0), 16 if quick else 512, 256, 49_152
    prompts = [rng.integers(0, vocab, size) for size in rng.integers(1, 1025, n)]
    completions = [rng.integers(0, vocab, length) for _ in range(n)]
    logprobs = [-rng.random(length) for _ in range(n)]
    content = 4 * sum(map(len, prompts)) + (4 + 4) * n * length + 4 * n
    about = dict(task={"name": "any"}, source={"name": "any"}, seed=0, versions={})
    spaces = token_spaces(vocab, 1024)
    history = token_history(prompts, completions, rng.random(n), logprobs, [True] * n, spaces, **about)
    with tempfile.TemporaryDirectory() as path:
        with StoreWriter(path, spaces) as writer: writer.put(0, history)
        size = sum(file.stat().st_size for file in Path(path).iterdir())
    return {"ratio": size / content, "ours": size, "theirs": content, "unit": "bytes", "target": {"ratio": 2.},
            "lower_is_better": True,
            "what": f"a store of {n} rollouts of {length} tokens behind prompts of up to 1,024; theirs: tokens, "
                    "logprobs and scores in 4 bytes each"}
