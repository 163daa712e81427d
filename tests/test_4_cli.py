"""The command line: quick to answer, the whole way from task to table, one line for every mistake, nothing lost when it is stopped."""
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from conftest import python, run

SCRIPT = Path(sys.executable).parent / "ad_distill"
HEAVY = ("torch", "transformers", "matplotlib", "datasets", "accelerate", "scipy", "pandas", "papermill", "IPython")
SMALL = "generate dark_room --source q_learning --histories 6 --episodes 40 --seed 3 --out {}".split()


def cli(*args, cwd, code=0, **env):
    "Run the installed command; its exit code must be `code`."
    res = run(SCRIPT, *args, cwd=cwd, check=False, **env)
    assert res.returncode == code, f"exit code {res.returncode}\n{res.stdout}\n{res.stderr}"
    return res


def mistake(*args, cwd, says=(), code=2, **env):
    "Run a command that must end in one line on stderr, and nothing on stdout."
    res = cli(*args, cwd=cwd, code=code, **env)
    lines = [line for line in res.stderr.splitlines() if not line.startswith("source: ")]
    assert len(lines) == 1 and lines[0].startswith("ad_distill: ") and not res.stdout, res.stdout + res.stderr
    for word in [says] if isinstance(says, str) else says: assert word in lines[0], lines[0]
    return lines[0]


def files(path): return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(Path(path).rglob("*")) if p.is_file()}


# what answers at once

@pytest.mark.parametrize("command", [[SCRIPT], [sys.executable, "-m", "ad_distill"]], ids=["script", "module"])
def test_help(command, tmp_path):
    out = run(*command, "--help", cwd=tmp_path).stdout
    listed = out[out.index("Commands:"):]
    at = [listed.index(f"\n  {name}") for name in ("tasks", "sources", "readers", "generate", "import", "show", "train", "evaluate", "run")]
    assert at == sorted(at)
    assert run(*command, cwd=tmp_path).stdout == out


@pytest.mark.parametrize("command", ["tasks", "sources", "readers", "generate", "import", "show", "train", "evaluate", "run"])
def test_help_of_each_command_has_an_example(command, tmp_path):
    assert f"Example: ad_distill {command}" in cli(command, "--help", cwd=tmp_path).stdout


@pytest.mark.parametrize("args", [["--help"], ["tasks"], ["sources"], ["readers"], ["generate", "--help"], ["import", "--help"], ["train", "--help"]], ids=" ".join)
def test_answers_without_heavy_imports(args, tmp_path):
    code = f"""
import sys
from ad_distill.cli import main
try: main({args!r})
except SystemExit as e: assert not e.code, e.code
heavy = [m for m in {HEAVY!r} if m in sys.modules]
sys.exit(f"imported on the way: {{heavy}}" if heavy else 0)
"""
    assert python(code, cwd=tmp_path).stdout.strip()


@pytest.mark.parametrize("args", [["--help"], ["tasks"], ["sources"], ["readers"]], ids=" ".join)
def test_answers_within_a_second(args, tmp_path):
    def cpu_seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        cli(*args, cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert min(cpu_seconds() for _ in range(3)) < 1


def test_version(tmp_path):
    import ad_distill
    assert ad_distill.__version__ == version("ad_distill")
    assert ad_distill.__version__ in cli("--version", cwd=tmp_path).stdout


@pytest.mark.parametrize("command, some", [("tasks", {"dark_room": "size", "bandit": "n_arms"}), ("sources", {"q_learning": "epsilon", "thompson": "grid"})])
def test_lists(command, some, tmp_path):
    text = cli(command, cwd=tmp_path).stdout
    known = {d["name"]: d for d in json.loads(cli(command, "--json", cwd=tmp_path).stdout)}
    for name, parameter in some.items():
        assert parameter in known[name]["parameters"] and known[name]["description"] in text
    assert all(name in text for name in known)


# from a task to a table

@pytest.fixture(scope="module")
def work(tmp_path_factory):
    "A folder with a store and a model, made by commands."
    path = tmp_path_factory.mktemp("cli")
    cli(*" ".join(SMALL).format("room").split(), cwd=path)
    cli("train", "room", "--model", "rl", "--stride", 5, "--episodes", 4, "--steps", 4, "--batch", 2, "-s", "width", 16, "--out", "model", cwd=path)
    return path


def test_generate(work, tmp_path):
    made = cli(*" ".join(SMALL).format("deep/room").split(), "--json", cwd=tmp_path)
    summary = json.loads(made.stdout)
    assert not made.stderr
    assert {k: summary[k] for k in ("task", "source", "histories", "episodes", "transitions", "path")} == dict(
        task="dark_room", source="q_learning", histories=6, episodes=240, transitions=4800, path="deep/room")
    assert summary["bytes"] == sum(map(len, files(tmp_path / "deep/room").values())) and summary["seconds"] > 0
    assert files(tmp_path / "deep/room") == files(work / "room"), "the same command, the same bytes"
    more = cli(*" ".join(SMALL).replace("6", "9").format("deep/room").split(), "--workers", 2, cwd=tmp_path)
    assert "9 histories" in more.stdout


def test_generate_converts_values_and_chooses_a_source(tmp_path):
    res = cli("generate", "bandit", "-p", "n_arms", 5, "-p", "shift", 1, "--histories", 2, "--episodes", 9, "--split", "held_out", "--out", "b", cwd=tmp_path)
    assert "thompson" in res.stderr
    info = json.loads((tmp_path / "b/store.json").read_text())["info"]
    assert info["task"]["params"]["n_arms"] == 5 and info["task"]["params"]["shift"] == 1.0 and info["split"] == "held_out"
    cli("generate", "dark_room", "-p", "size", 5, "-s", "epsilon", "0.5", "--histories", 1, "--episodes", 3, "--out", "r", cwd=tmp_path)
    assert json.loads((tmp_path / "r/store.json").read_text())["info"]["source"] == {
        "name": "q_learning", "params": dict(lr=.5, gamma=.9, optimism=1.0, epsilon=.5, epsilon_end=0.0, decay=1.0)}


def test_show(work):
    from ad_distill.store import Store
    text, store = cli("show", "room", cwd=work).stdout, Store.open(work / "room")
    assert "4,800" in text and "dark_room" in text and "returns" in text
    d = json.loads(cli("show", "room", "--json", cwd=work).stdout)
    assert (d["histories"], d["episodes"], d["transitions"], len(d["mean_return_by_tenth"])) == (6, 240, 4800, 10)
    rows = cli("show", "room", "--history", 2, "--episodes", "1:3", cwd=work).stdout
    assert "episode 1:" in rows and "episode 2:" in rows and "episode 3:" not in rows
    assert len(rows.splitlines()) == 2 + 2 * (1 + 1 + 1 + 20) and "logprob" in rows
    h = json.loads(cli("show", "room", "--history", -1, "--episodes", "-2:", "--json", cwd=work).stdout)
    assert [e["episode"] for e in h["episodes"]] == [38, 39]
    assert h["returns"] == store[5].returns.tolist() and h["episodes"][1]["state"] == store[5][39].state.tolist()


@pytest.mark.parametrize("more", [[], ["--history", "0"]], ids=["store", "history"])
def test_show_plots(more, work, tmp_path):
    cli("show", work / "room", *more, "--plot", "deep/a.png", cwd=tmp_path)
    assert (tmp_path / "deep/a.png").read_bytes()[:4] == b"\x89PNG"


def test_show_into_a_closed_pipe(work):
    res = subprocess.run(f"{SCRIPT} show room --history 0 --episodes : | head -1", shell=True, cwd=work, capture_output=True, text=True)
    assert res.stdout.startswith("History") and "Traceback" not in res.stderr


def test_train_and_evaluate(work, tmp_path):
    res = cli("train", work / "room", "--stride", 5, "--episodes", 4, "--steps", 4, "--batch", 2, "-s", "width", 16, "--seed", 1, "--out", "m", "--json", cwd=tmp_path)
    trained = json.loads(res.stdout)
    assert trained["steps"] == 4 and trained["path"] == "m" and (tmp_path / "m/model.safetensors").exists()
    again = cli("train", work / "room", "--stride", 5, "--episodes", 4, "--steps", 4, "--batch", 2, "-s", "width", 16, "--seed", 1, "--out", "m", "--resume", cwd=tmp_path)
    assert "4 steps" in again.stdout
    args = ["evaluate", "m", "--task", "dark_room", "--episodes", 3, "--instances", 2, "--streams", 2, "--seed", 0, "--out"]
    played = json.loads(cli(*args, "t/a.csv", "--json", cwd=tmp_path).stdout)
    assert played["path"] == "t/a.csv" and {"score_iqm", "score_ci", "episodes_to_80"} <= played.keys()
    rows = (tmp_path / "t/a.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 2 * 2 and {"agent", "episode", "return", "score"} <= set(rows[0].split(","))
    cli(*args, "a.json", cwd=tmp_path)
    assert len(json.loads((tmp_path / "a.json").read_text())) == 12
    cli("evaluate", "m", "--episodes", 1, "--instances", 1, "--out", "b.csv", cwd=tmp_path)  # the model knows its task


# one line for every mistake

@pytest.mark.parametrize("args, says", [
    ("genrate dark_room", ["genrate", "did you mean generate?"]),
    ("generate dark_rom --out x", ["dark_rom", "dark_key_to_door", "did you mean dark_room?"]),
    ("generate dark_room --source q_lerning --out x", ["q_lerning", "thompson", "did you mean q_learning?"]),
    ("generate dark_room -p sise 5 --out x", ["sise", "horizon", "did you mean size?"]),
    ("generate dark_room --source q_learning -s epsilom 0.5 --out x", ["epsilom", "did you mean epsilon?"]),
    ("generate dark_room -p size big --out x", ["size", "big", "int"]),
    ("generate dark_room -p size 2.5 --out x", ["size", "2.5", "int"]),
    ("generate dark_room -p size 0 --out x", "size"),
    ("generate dark_room -p size 1 --out x", "size"),
    ("generate dark_room -s epsilon 2 --out x", "epsilon"),
    ("generate bandit_gaussian -p std nan --out x", "std"),
    ("generate dark_room --source thompson --out x", ["thompson", "dark_room"]),
    ("generate dark_room --histories 0 --out x", "--histories"),
    ("generate dark_room --histories -4 --out x", "--histories"),
    ("generate dark_room --episodes 0 --out x", "--episodes"),
    ("generate dark_room --episodes many --out x", "--episodes"),
    ("generate dark_room --workers 0 --out x", "--workers"),
    ("generate dark_room --seed -1 --out x", "--seed"),
    ("generate dark_room --split test --out x", ["test", "held_out"]),
    ("generate dark_room --epsiodes 3 --out x", ["--epsiodes", "--episodes"]),
    ("generate dark_room", "--out"),
    ("generate", "TASK"),
    ("generate dark_room --out room --seed 4", ["room", "seed", "3"]),
    ("generate dark_room --out .", "neither a store nor empty"),
    ("generate dark_room --out file", "file"),
    ("generate dark_room --out file/x", "file"),
    ("show nowhere", ["nowhere", "not a store"]),
    ("show model", ["model", "not a store"]),
    ("show file", ["file", "not a store"]),
    ("show cut", ["cut", "cut off"]),
    ("show other", ["other", "version 7"]),
    ("show room --history 6", ["6", "6 histories"]),
    ("show room --history -7", "6 histories"),
    ("show room --episodes 0:2", "--history"),
    ("show room --history 0 --episodes 40:", "40 episodes"),
    ("show room --history 0 --episodes first", "A:B"),
    ("show room --plot curve.pgn", ["pgn", "png"]),
    ("show room --plot file/curve.png", "file"),
    ("train nowhere --out x", "not a store"),
    ("train model --out x", "not a store"),
    ("train empty --out x", ["empty", "no complete history"]),
    ("train room --model llm --out x", "llm"),
    ("train room --serializer prose --out x", "--model lm"),
    ("train room --model lm --serializer prosa --out x", "prose"),
    ("train room --model lm -z digit 3 --out x", "digits"),
    ("train room --model lm --base nowhere --out x", "nowhere"),
    ("train room --stride 0 --out x", "--stride"),
    ("train room --steps -1 --out x", "--steps"),
    ("train room --lr 0 --out x", "--lr"),
    ("train room --lr fast --out x", "--lr"),
    ("train room --stride 30 --out x", ["stride 30", "40"]),
    ("evaluate model --task dark_rom --out x.csv", "did you mean dark_room?"),
    ("evaluate model -p size 5 --out x.csv", "--task"),
    ("evaluate model --episodes 0 --out x.csv", "--episodes"),
    ("evaluate model --instances 0 --out x.csv", "--instances"),
    ("evaluate model --out x.xls", ".csv"),
    ("run", "exp_darkroom"),
    ("run exp_dark", ["exp_dark", "did you mean exp_darkroom?"]),
    ("run exp_darkroom -p scales smoke", ["scales", "training_seeds", "did you mean scale?"]),
    ("run exp_darkroom -p training_seeds many", ["training_seeds", "int"]),
    ("run exp_darkroom -p scale smoke --out x.txt", [".ipynb"]),
    ("run nowhere.ipynb", "nowhere.ipynb"),
    ("run file.ipynb", "file.ipynb"),
], ids=lambda x: x if isinstance(x, str) and " " in x else "")
def test_mistakes(args, says, bad):
    before = files(bad)
    mistake(*args.split(), cwd=bad, says=says)
    assert files(bad) == before, "a mistake changed something"


SLOW_MISTAKES = [  # those that need torch, which takes seconds to import
    ("train room --stride 2 -s widht 3 --out x", "did you mean width?"),
    ("train room --stride 2 -s width 3 --out x", "width"),
    ("train room --stride 2 -s width wide --out x", ["width", "int"]),
    ("train room --stride 2 -s lr_scheduler_type zigzag --out x", "zigzag"),
    ("train room --stride 2 --out model", "model"),
    ("evaluate nowhere --task dark_room --out x.csv", "nowhere"),
    ("evaluate room --task dark_room --out x.csv", "room"),
    ("evaluate model --task bandit --out x.csv", ["dark_room", "bandit"]),
    ("evaluate model --task dark_room -p size 5 --out x.csv", "size"),
    ("evaluate model --instances 999 --out x.csv", "999"),
]


def test_mistakes_that_need_torch(bad):
    "As `test_mistakes`, all in one process."
    before = files(bad)
    code = f"""
import json, contextlib, io
from ad_distill.cli import main
for args in {[a for a, _ in SLOW_MISTAKES]!r}:
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: main(args.split())
        except SystemExit as e: code = e.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""
    results = [json.loads(line) for line in python(code, cwd=bad).stdout.splitlines()]
    assert len(results) == len(SLOW_MISTAKES)
    for (args, says), (code, out, err) in zip(SLOW_MISTAKES, results):
        assert code == 2 and not out and len(err.splitlines()) == 1 and err.startswith("ad_distill: "), (args, code, out, err)
        for word in [says] if isinstance(says, str) else says: assert word in err, (args, err)
    assert {k: v for k, v in files(bad).items() if k in before} == before and not (bad / "x.csv").exists()


@pytest.fixture(scope="module")
def bad(work):
    "Next to the store and the model of `work`: things that are no stores."
    (work / "file").write_text("not a directory")
    (work / "file.ipynb").write_text("not a notebook")
    whole = files(work / "room")
    for name, changes in {"cut": {"transitions.arrow": whole["transitions.arrow"][:-99]}, "empty": {"index.jsonl": b""},
                          "other": {"store.json": whole["store.json"].replace(b'"version": 1', b'"version": 7', 1)}}.items():
        (work / name).mkdir()
        for k, v in {**whole, **changes}.items(): (work / name / k).write_bytes(v)
    return work


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    mistake("generate", "dark_room", "--histories", 1, "--out", "locked/x", cwd=tmp_path, says="locked")


def test_not_enough_memory(tmp_path):
    mistake("generate", "bandit", "--histories", 1, "--episodes", 10 ** 14, "--out", "x", cwd=tmp_path, says="memory", code=1)


# stopped in the middle

N = 200
DRIVER = "import sys, ad_distill.sources as s; from ad_distill.cli import main\ns.WIDTH = 4\nif __name__ == '__main__': main(sys.argv[1:])\n"


def hear_ctrl_c():
    "A test run that was started in the background of a shell hands down that SIGINT is ignored."
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Many:
    "A `generate` that writes often: four histories at a time. A program of its own, as worker processes have to be able to import it."
    def __init__(self, path, workers=1):
        self.path, self.store, self.program = path, path / "store", path / "driver.py"
        self.program.write_text(DRIVER)
        self.args = f"{self.program} generate dark_room --source q_learning --histories {N} --episodes 20 --seed 1 --out store --workers {workers}".split()

    def start(self, limit=None):
        def limited():
            hear_ctrl_c()
            if limit is not None: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return subprocess.Popen([sys.executable, *self.args], cwd=self.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                start_new_session=True, preexec_fn=limited)

    def finish(self):
        out, err = (p := self.start()).communicate(timeout=120)
        assert p.returncode == 0, out + err
        return files(self.store)

    def wait_for(self, p, histories):
        index = self.store / "index.jsonl"
        while p.poll() is None and not (index.exists() and index.read_bytes().count(b"\n") >= histories): time.sleep(.001)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return Many(tmp_path_factory.mktemp("unbroken")).finish()


@pytest.mark.parametrize("workers", [1, 2])
def test_kill(workers, unbroken, tmp_path):
    "kill -9 at random moments, then the same command again: the same bytes, and never fewer histories than before."
    from ad_distill.store import Store
    many, rng, had = Many(tmp_path, workers), random.Random(workers), 0
    for kill in range(7):  # while it starts, and then wherever it has got to when so many histories are there: by progress, as no clock tells how fast a machine is
        p = many.start()
        if kill < 2: time.sleep(rng.uniform(0, .3))
        else: many.wait_for(p, min(had + rng.randint(1, 25), N - 50))
        time.sleep(rng.uniform(0, .01))
        assert p.poll() is None, "it ended before it could be killed"
        os.killpg(p.pid, signal.SIGKILL) if kill % 3 else p.kill()
        try: p.communicate(timeout=30)  # workers hold its pipes open: they have to end as well
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            pytest.fail("worker processes live on after their parent was killed", False)
        if (many.store / "store.json").exists():
            assert len(store := Store.open(many.store)) >= had
            store.verify()
            had = len(store)
    assert had
    assert many.finish() == unbroken


@pytest.mark.parametrize("limit", [0, 100, 4000, 40_000])
@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk(workers, limit, unbroken, tmp_path):
    from ad_distill.store import Store
    many = Many(tmp_path, workers)
    p = many.start(limit)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 1 and not out, (p.returncode, out, err)
    assert len(err.splitlines()) == 1 and err.startswith("ad_distill: ") and "no room left" in err and "same command again" in err
    if limit > 30_000:
        assert (kept := len(store := Store.open(many.store)))
        store.verify()
        assert files(many.store)["index.jsonl"].count(b"\n") == kept
    assert many.finish() == unbroken


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupt(workers, unbroken, tmp_path):
    many = Many(tmp_path, workers)
    p = many.start()
    many.wait_for(p, 1)
    os.killpg(p.pid, signal.SIGINT)  # as Ctrl-C does
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and "Traceback" not in err, err
    assert err.splitlines()[-1].startswith("ad_distill: interrupted") and "same command again goes on" in err
    assert many.finish() == unbroken


# experiments

PARAMETERS = 'seeds = 1  # how many\nrate = 0.5\nfast = False\nscale = "small"\nother = None'
NOTEBOOKS = {
    "good": """import json, os, sys
from pathlib import Path
out = Path(os.environ["AD_DISTILL_OUT"])
out.with_suffix(".json").write_text(json.dumps({"python": sys.executable, "values": [seeds, rate, fast, scale, other]}))
out.with_suffix(".png").write_bytes(b"picture")
print("said", out); print("bar", file=sys.stderr)""",
    "user_error": "from ad_distill.trajectory import UserError\nraise UserError('seeds are few;\\ntake more')",
    "broken": "print('so far')\n1 / 0",
    "dead": "import os\nos._exit(3)",
    "slow": "import time\nprint('begun', flush=True)\nfor _ in range(600): time.sleep(.1)",
}


@pytest.fixture
def notebooks(tmp_path):
    for name, code in NOTEBOOKS.items():
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in (PARAMETERS, code)])
        nb.cells[0].metadata["tags"] = ["parameters"]
        nb.metadata = {"kernelspec": {"name": "of_another_machine", "display_name": "", "language": "python"}}
        nbformat.write(nb, tmp_path / f"{name}.ipynb")
    return tmp_path


def test_run(notebooks):
    "Values in the types of their defaults, the Python of the command, live output, and where everything is."
    args = ["run", "good.ipynb", "-p", "seeds", 3, "-p", "rate", 2, "-p", "fast", "true", "-p", "scale", 7, "-p", "other", 2.5, "--out", "deep/{x}.ipynb"]
    res, source = cli(*args, cwd=notebooks, JUPYTER_PATH=str(notebooks)), (notebooks / "good.ipynb").read_bytes()
    out = notebooks / "deep/{x}.ipynb"
    assert res.stdout.splitlines() == [f"said {out}", *(str(out.with_suffix(s)) for s in (".ipynb", ".json", ".png"))]
    assert res.stderr.strip() == "bar", "nothing from Jupyter"
    assert json.loads(out.with_suffix(".json").read_text()) == {"python": sys.executable, "values": [3, 2.0, True, "7", 2.5]}
    nbformat.validate(nbformat.read(out, 4))
    assert (notebooks / "good.ipynb").read_bytes() == source
    summary = json.loads(cli("run", "good.ipynb", "--json", cwd=notebooks).stdout)
    assert summary["out"] == str(notebooks / "runs/good.ipynb") and len(summary["files"]) == 3
    mistake("run", "good.ipynb", "--out", "good.ipynb", cwd=notebooks, says="itself")


def test_run_that_fails(notebooks):
    mistake("run", "user_error.ipynb", cwd=notebooks, says=["seeds are few; take more", "runs/user_error.ipynb"])
    res = cli("run", "broken.ipynb", "-p", "seeds", 2, "--out", "b.ipynb", cwd=notebooks, code=1)
    assert "so far" in res.stdout and "1 / 0" in res.stderr and "broken, In [3] failed: ZeroDivisionError" in res.stderr.splitlines()[-1]
    assert any(o.output_type == "error" for c in nbformat.read(notebooks / "b.ipynb", 4).cells for o in c.get("outputs", ()))
    mistake("run", "dead.ipynb", cwd=notebooks, says="ernel died", code=1)


def test_run_interrupted(notebooks):
    p = subprocess.Popen([SCRIPT, "run", "slow.ipynb"], cwd=notebooks, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear_ctrl_c)
    assert p.stdout.readline() == "begun\n"
    os.killpg(p.pid, signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and err.startswith("ad_distill: interrupted") and len(err.splitlines()) == 1, err
    assert "begun" in (notebooks / "runs/slow.ipynb").read_text()


def test_list_of_experiments(tmp_path):
    text = cli("run", "--list", cwd=tmp_path).stdout
    known = json.loads(cli("run", "--list", "--json", cwd=tmp_path).stdout)
    assert {"exp_darkroom", "exp_bandit"} <= known.keys()
    for name, parameters in known.items():
        assert name in text and {"scale", "training_seeds"} <= parameters.keys() and parameters["scale"]["help"]
