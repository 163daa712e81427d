"""Memory of its own: opening ten million transitions and drawing random windows, against the size of the file."""
import sys
import tempfile
from pathlib import Path

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
