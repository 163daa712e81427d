"""Work on a Ray cluster: a real one of two CPUs; the same bytes as in one process, errors in one line, nothing lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import as_completed
from functools import partial
from pathlib import Path

import pytest
from conftest import hear_ctrl_c, python, run

from ad_distill.sources.workers import RayPool
from ad_distill.sources.core import generate, make_source
from ad_distill.data.store import Store
from ad_distill.tasks.core import make_task
from ad_distill.registry import UserError

SCRIPT = Path(sys.executable).parent / "ad_distill"
ARGS = "generate dark_room --source q_learning --histories 7 --episodes 30 --seed 3 --out {}".split()


def no_ray(tmp_path):
    "Without the package it is one line."
    code = "import sys; sys.modules['ray'] = None; from ad_distill.cli.main import main; main(sys.argv[1:])"
    return run(sys.executable, "-c", code, *[a.format("x") for a in ARGS], "--ray", "local", cwd=tmp_path, check=False)


def test_without_ray(tmp_path):
    res = no_ray(tmp_path)
    assert (
        res.returncode == 2
        and res.stderr.strip() == "ad_distill: --ray needs Ray: pip install 'ad_distill[ray]'"
        and not (tmp_path / "x").exists()
    )


@pytest.fixture(scope="module")
def cluster():
    "A cluster of two CPUs within this process, which the pools find."
    ray = pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False, logging_level="ERROR"
    )
    yield ray
    ray.shutdown()


def files(path):
    return {p.name: p.read_bytes() for p in sorted(Path(path).rglob("*")) if p.is_file()}


def test_same_bytes_as_in_one_process(cluster, tmp_path):
    for task, source, episodes in (("dark_room", "q_learning", 40), ("bandit", "thompson", 10)):
        made = partial(generate, make_task(task), make_source(source), n_histories=9, n_episodes=episodes, seed=5)
        one = made(path=tmp_path / task / "one")
        assert len(made(path=tmp_path / task / "two", ray="local")) == 9
        assert files(one.path) == files(tmp_path / task / "two")
        generate(make_task(task), make_source(source), tmp_path / task / "part", 4, episodes, seed=5)
        made(path=tmp_path / task / "part", ray="local")  # goes on with a store that was begun without
        assert files(one.path) == files(tmp_path / task / "part")
    assert cluster.is_initialized(), "a cluster that was there before stays"


def test_pool(cluster):
    with RayPool() as pool:
        assert pool.workers == 2
        jobs = [
            pool.submit(os.getpid),
            pool.submit(int, "7f", base=16),
            pool.submit(int, "x"),
            pool.submit(make_task, "dark_rom"),
        ]
        assert set(as_completed(jobs)) == set(jobs)
        assert jobs[0].result() != os.getpid() and jobs[1].result() == 127
        assert (
            type(jobs[2].exception()) is ValueError
            and type(jobs[3].exception()) is UserError
            and str(jobs[3].exception()).endswith("did you mean dark_room?")
        )
        died = pool.submit(os._exit, 1).exception(timeout=300)
        assert type(died) is UserError and "running the same command again" in str(died) and "\n" not in str(died)
    pool = RayPool()
    late = [pool.submit(time.sleep, 3600) for _ in range(3)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(job.exception(timeout=300) for job in late), "it waits for jobs that were given up"


def test_no_cluster_there(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # bound, but nobody listens
        for address, says in ((f"127.0.0.1:{port}", "nothing answers"), ("nonsense", "expected HOST:PORT")):
            # Ray's own try would take five minutes
            res = run(SCRIPT, *[a.format("x") for a in ARGS], "--ray", address, cwd=tmp_path, check=False, timeout=240)
            assert (
                res.returncode == 2
                and res.stderr.startswith("ad_distill: --ray")
                and res.stderr.count("\n") == 1
                and says in res.stderr
            ), res.stderr
    assert not (tmp_path / "x").exists()


def test_interrupted_command_goes_on(tmp_path):
    "Ctrl-C on a cluster of its own: one line; the same command then gives the bytes of an unbroken run."
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    many = (
        "generate dark_room --source q_learning --histories 60000 --episodes 300 --seed 3".split()
    )  # far more than are learnt before it is interrupted
    process = subprocess.Popen(
        [SCRIPT, *many, "--out", "broken", "--ray", "local", "--workers", "2"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    index = tmp_path / "broken" / "index.jsonl"
    while not index.exists() and process.poll() is None:
        time.sleep(0.1)
    assert index.exists(), process.stderr.read()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its processes
    _, err = process.communicate(timeout=240)
    assert (
        process.returncode == 130
        and err.startswith("ad_distill: interrupted; the histories that are complete are kept")
        and err.count("\n") == 1
    ), err
    few = "generate dark_room --source q_learning --histories 7 --episodes 300 --seed 3 --quiet".split()
    run(SCRIPT, *few, "--out", "broken", cwd=tmp_path)
    run(SCRIPT, *few, "--out", "whole", cwd=tmp_path)
    assert len(Store.open(tmp_path / "broken")) >= 7
    for name in ("index.jsonl", "transitions.arrow"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "broken" / name).read_bytes()[: len(whole)] == whole


def test_interrupted_while_the_cluster_starts(tmp_path):
    "Ctrl-C waits until the cluster is there, and then ends it: one that has half begun takes the process with it."
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    python(
        """
import os, signal, threading, ray
from ad_distill.sources.workers import RayPool
signal.signal(signal.SIGINT, signal.default_int_handler)
start, through = ray.init, []
def interrupted(*args, **kwargs):
    threading.Timer(.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    start(*args, **kwargs)
    through.append(True)
ray.init = interrupted
try: RayPool("local", 1); raise SystemExit("was not interrupted")
except KeyboardInterrupt: assert through and not ray.is_initialized()
ray.init = start
with RayPool("local", 1) as pool: assert pool.submit(abs, -3).result() == 3
""",
        cwd=tmp_path,
        timeout=600,
    )
