"""The benchmarks run and write what `make bench` promises. Their figures depend on the machine: none is looked at."""

import json
import sys

from conftest import ROOT, run

NAMES = {
    "generate_vs_sync_vector_env",
    "windows_vs_memmap",
    "train_step_vs_bare_loop",
    "act_vs_recompute",
    "store_memory",
}


def test_quick_run(tmp_path):
    out = tmp_path / "results.json"
    run(sys.executable, ROOT / "benchmarks/run.py", "--quick", "--out", out, cwd=ROOT)
    got = json.loads(out.read_text())
    assert NAMES <= {r["name"] for r in got["results"]}
    for r in got["results"]:
        assert r["ratio"] > 0 and r["ours"] > 0 and r["theirs"] > 0 and r["unit"], r
    assert {"cpu", "load", "versions"} <= got["about"].keys()


def test_unknown_name_is_refused(tmp_path):
    res = run(sys.executable, ROOT / "benchmarks/run.py", "--only", "nothing", cwd=ROOT, check=False)
    assert res.returncode == 2 and "act_vs_recompute" in res.stderr
