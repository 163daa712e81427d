"""The command line: the whole way from task to table, one line for every mistake, nothing lost when it is stopped."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from conftest import hear_ctrl_c, python, run

from ad_distill.data.store import Store, StoreWriter

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
    for word in [says] if isinstance(says, str) else says:
        assert word in lines[0], lines[0]
    return lines[0]


def several(*commands, cwd, codes=None):
    "Run commands in one process, as imports take seconds: what each printed, or, with `codes`, code and both streams."
    code = f"""
import json, contextlib, io
from ad_distill.cli.main import main
for args in {[[str(a) for a in c] for c in commands]!r}:
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: main(args)
        except SystemExit as e: code = e.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""
    results = [json.loads(line) for line in python(code, cwd=cwd).stdout.splitlines()]
    assert len(results) == len(commands)
    if codes:
        return results
    assert not any(code for code, *_ in results), results
    return [out for _, out, _ in results]


def files(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(Path(path).rglob("*")) if p.is_file()}


COMMANDS = (
    "tasks",
    "sources",
    "readers",
    "serializers",
    "settings",
    "generate",
    "import",
    "show",
    "parse",
    "train",
    "evaluate",
    "run",
)

# what answers at once


@pytest.mark.parametrize("command", [[SCRIPT], [sys.executable, "-m", "ad_distill"]], ids=["script", "module"])
def test_help(command, tmp_path):
    out = run(*command, "--help", cwd=tmp_path).stdout
    listed = out[out.index("Commands:") :]
    at = [listed.index(f"\n  {name}") for name in COMMANDS]
    assert at == sorted(at)
    assert run(*command, cwd=tmp_path).stdout == out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example(command, tmp_path):
    assert f"Example: ad_distill {command}" in cli(command, "--help", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["tasks"],
        ["sources"],
        ["readers"],
        ["generate", "--help"],
        ["import", "--help"],
        ["train", "--help"],
        ["settings", "--help"],
        ["parse", "--help"],
        ["evaluate", "--help"],
    ],
    ids=" ".join,
)
def test_answers_without_heavy_imports(args, tmp_path):
    code = f"""
import sys
from ad_distill.cli.main import main
try: main({args!r})
except SystemExit as e: assert not e.code, e.code
heavy = [m for m in {HEAVY!r} if m in sys.modules]
sys.exit(f"imported on the way: {{heavy}}" if heavy else 0)
"""
    assert python(code, cwd=tmp_path).stdout.strip()


def test_version(tmp_path):
    import ad_distill

    assert ad_distill.__version__ == version("ad_distill")
    assert ad_distill.__version__ in cli("--version", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    "command, some",
    [("tasks", {"dark_room": "size", "bandit": "n_arms"}), ("sources", {"q_learning": "epsilon", "thompson": "grid"})],
)
def test_lists(command, some, tmp_path):
    text = cli(command, cwd=tmp_path).stdout
    known = {d["name"]: d for d in json.loads(cli(command, "--json", cwd=tmp_path).stdout)}
    for name, parameter in some.items():
        assert parameter in known[name]["parameters"] and known[name]["description"] in text
    assert all(name in text for name in known)


def test_every_parameter_is_explained(tmp_path):
    "Of every task, source, reader and serializer: in the listing of all, and each by its name, as text and as JSON."
    kinds = ("tasks", "sources", "readers", "serializers")
    listed = dict(zip(kinds, map(json.loads, several(*[[kind, "--json"] for kind in kinds], cwd=tmp_path))))
    asked = [(kind, known["name"]) for kind in kinds for known in listed[kind]]
    assert len(asked) > 40
    told = several(*[[*a, *more] for a in asked for more in ([], ["--json"])], cwd=tmp_path)
    for (kind, name), text, one in zip(asked, told[::2], map(json.loads, told[1::2])):
        assert text.startswith(f"{name}: {one['description']}"), f"{kind} {name}"
        assert one["meanings"].keys() == one["parameters"].keys() and all(one["meanings"].values()), f"{kind} {name}"
        lines = {line.split("=")[0].strip(): line for line in text.splitlines() if line.startswith("    ")}
        for parameter, meaning in one["meanings"].items():
            assert lines[parameter].endswith(meaning.rstrip()), f"{kind} {name}: {parameter}"
        assert ("NAME VALUE" in text) == bool(one["parameters"])
    mistakes = several(
        ["serializers", "cords"],
        ["readers", "trlz"],
        ["readers", "minari"],
        ["sources", "ucb1"],
        cwd=tmp_path,
        codes=True,
    )
    assert [code for code, *_ in mistakes] == [2] * 4
    for (_, _, err), said in zip(mistakes, ("did you mean coords?", "trlx", "import", "did you mean ucb?")):
        assert said in err


def test_a_task_with_an_id_says_what_varies(tmp_path):
    text = cli("tasks", "gym:CartPole-v1", cwd=tmp_path).stdout
    assert "vary=" in text and "what varies: " in text and "256 instances, 51 of them in the split held_out" in text


def complete_in_bash(line, cwd):
    "What a real bash has in COMPREPLY after a tab at the end of a line."
    script = f"""
{cli("completion", "bash", cwd=cwd).stdout}
complete -p ad_distill >&2
COMP_WORDS=({line}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_ad_distill_completion ad_distill
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = run("bash", "--norc", "-c", script, cwd=cwd)
    assert "-F _ad_distill_completion" in done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    "line, some",
    [
        ("ad_distill ge", {"generate"}),
        ("ad_distill generate dark_", {"dark_room", "dark_room_hard", "dark_key_to_door"}),
        ("ad_distill generate dark_room --source q_", {"q_learning"}),
        ("ad_distill generate dark_room --his", {"--histories"}),
        ("ad_distill show runs/room --history 0 --serializer co", {"coords", "compact"}),
        ("ad_distill import tr", {"trl", "trlx"}),
        ("ad_distill import mi", {"minari"}),
        ("ad_distill run exp_d", {"exp_darkroom"}),
        ("ad_distill train runs/room --model lm --base ada/", {"ada/tiny-lm"}),
        ("ad_distill readers js", {"jsonl"}),
        ("ad_distill tasks story", {"story_rlhf"}),
    ],
)
def test_completion_in_bash(line, some, tmp_path, monkeypatch):
    (tmp_path / "hub/models--ada--tiny-lm").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert set(complete_in_bash(line, tmp_path)) == some


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_for_other_shells(shell, tmp_path):
    assert "_AD_DISTILL_COMPLETE" in cli("completion", shell, cwd=tmp_path).stdout


@pytest.mark.parametrize("line", ["generate ", "train x --serializer ", "import ", "run ", "train x --base "])
def test_completion_imports_nothing_heavy(line, tmp_path):
    code = f"""
import sys
from ad_distill.cli.main import main
try: main([])
except SystemExit as e: assert not e.code, e.code
heavy = [m for m in {HEAVY!r} if m in sys.modules]
sys.exit(f"imported on the way: {{heavy}}" if heavy else 0)
"""
    words = {"COMP_WORDS": f"ad_distill {line}", "COMP_CWORD": str(len(line.split()) + 1)}
    assert python(code, cwd=tmp_path, _AD_DISTILL_COMPLETE="bash_complete", **words).stdout.strip()


def test_lists_what_can_be_set(tmp_path):
    ((rl, lm, text),) = [
        several(
            *[["settings", "--model", m, *more] for m, more in (("rl", ["--json"]), ("lm", ["--json"]), ("lm", []))],
            cwd=tmp_path,
        )
    ]
    rl, lm = json.loads(rl), json.loads(lm)
    for family in (rl, lm):
        assert (
            family["jump"] == {"of": "windows", "default": 0.0, "help": family["jump"]["help"]}
            and family["jump"]["help"]
            and family["max_steps"]["of"] == "training"
        )
    ours = {"jump", "scatter", "shuffle_rewards", "max_action_tokens", "slide", "ask", "muon_lr"}
    assert ours <= lm.keys() and not {"ask", "slide"} & rl.keys() and rl["context"]["of"] == "model"
    assert all(name in text and lm[name]["help"] for name in ours) and "bf16" in lm and "bf16" not in text


# from a task to a table


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    "A folder with a store and a model of either family, made by commands."
    path = tmp_path_factory.mktemp("cli")
    cli(*" ".join(SMALL).format("room").split(), cwd=path)
    shutil.copytree(path / "room", path / "words")  # a language model keeps its tokens there
    small = "--stride 5 --episodes 4 --steps 4 --batch 2 -s width 16".split()
    several(
        ["train", "room", "--model", "rl", *small, "--out", "model"],
        [
            "train",
            "words",
            "--model",
            "lm",
            "--serializer",
            "coords digits=2",
            "-z",
            "skip_zero",
            "true",
            *small,
            "--out",
            "text",
        ],
        cwd=path,
    )
    return path


def test_generate(work, tmp_path):
    made = cli(*" ".join(SMALL).format("deep/room").split(), "--json", cwd=tmp_path)
    summary = json.loads(made.stdout)
    assert not made.stderr
    assert {k: summary[k] for k in ("task", "source", "histories", "episodes", "transitions", "path")} == dict(
        task="dark_room", source="q_learning", histories=6, episodes=240, transitions=4800, path="deep/room"
    )
    assert summary["bytes"] == sum(map(len, files(tmp_path / "deep/room").values())) and summary["seconds"] > 0
    assert files(tmp_path / "deep/room") == files(work / "room"), "the same command, the same bytes"
    more = cli(*" ".join(SMALL).replace("6", "9").format("deep/room").split(), "--workers", 2, cwd=tmp_path)
    assert "9 histories" in more.stdout


def test_generate_converts_values_and_chooses_a_source(tmp_path):
    res = cli(
        "generate",
        "bandit",
        "-p",
        "n_arms",
        5,
        "-p",
        "shift",
        1,
        "--histories",
        2,
        "--episodes",
        9,
        "--split",
        "held_out",
        "--out",
        "b",
        cwd=tmp_path,
    )
    assert "thompson" in res.stderr
    info = json.loads((tmp_path / "b/store.json").read_text())["info"]
    assert (
        info["task"]["params"]["n_arms"] == 5 and info["task"]["params"]["shift"] == 1.0 and info["split"] == "held_out"
    )
    cli(
        "generate",
        "dark_room",
        "-p",
        "size",
        5,
        "-s",
        "epsilon",
        "0.5",
        "--histories",
        1,
        "--episodes",
        3,
        "--out",
        "r",
        cwd=tmp_path,
    )
    assert json.loads((tmp_path / "r/store.json").read_text())["info"]["source"] == {
        "name": "q_learning",
        "params": dict(lr=0.5, gamma=0.9, optimism=1.0, epsilon=0.5, epsilon_end=0.0, decay=1.0),
    }


def test_progress_where_there_is_no_terminal(tmp_path):
    "A plain line now and then, a last one for a bar that was told of, none with -q, and JSON stays JSON."
    args = "generate dark_room --source q_learning --histories 40 --episodes 400 --json --out".split()
    made = cli(*args, "a", cwd=tmp_path, AD_DISTILL_PROGRESS_SECONDS=".01")
    lines = made.stderr.splitlines()
    assert len(lines) > 1 and "\r" not in made.stderr and json.loads(made.stdout)["path"] == "a"
    for line in lines:
        assert re.fullmatch(r"q_learning learns dark_room: \d+% \S+/16.0k \[.*\], \d+ s so far", line), line
    assert "100%" in lines[-1] and "100%" not in lines[0]
    assert not cli(*args, "b", "-q", cwd=tmp_path, AD_DISTILL_PROGRESS_SECONDS=".01").stderr
    for wrong in ("often", "0", "-3", "nan"):
        mistake(*args, "c", cwd=tmp_path, says=[repr(wrong), "seconds"], AD_DISTILL_PROGRESS_SECONDS=wrong)


def test_seconds_are_those_of_the_process(tmp_path):
    "With imports, and what came before them; called from Python, those of the call."
    (tmp_path / "slow.py").write_text("import time; time.sleep(1)")
    args = "generate bandit --histories 2 --episodes 2 --json --out".split()
    assert json.loads(cli(*args, "a", "--import", "slow", cwd=tmp_path).stdout)["seconds"] > 1
    typed = f"import slow, sys; from ad_distill.cli.main import main; sys.argv[1:] = {[*args, 'b']}; main()"
    assert json.loads(python(typed, cwd=tmp_path).stdout)["seconds"] > 1
    timed = f"""
import json, slow, sys, time
from ad_distill.cli.main import main
began = time.time()
try: main({[*args, "c"]})
except SystemExit: print(time.time() - began, file=sys.stderr)
"""
    called = python(timed, cwd=tmp_path)
    assert json.loads(called.stdout)["seconds"] <= float(called.stderr.splitlines()[-1])


def test_show(work):
    from ad_distill.data.store import Store

    text, store = cli("show", "room", cwd=work).stdout, Store.open(work / "room")
    assert "4,800" in text and "dark_room" in text and "returns" in text
    d = json.loads(cli("show", "room", "--json", cwd=work).stdout)
    assert (d["histories"], d["episodes"], d["transitions"], len(d["mean_return_by_tenth"])) == (6, 240, 4800, 10)
    rows = cli("show", "room", "--history", 2, "--episodes", "1:3", cwd=work).stdout
    assert "episode 1:" in rows and "episode 2:" in rows and "episode 3:" not in rows
    assert len(rows.splitlines()) == 3 + 2 * (1 + 1 + 1 + 20) and "logprob" in rows
    h = json.loads(cli("show", "room", "--history", -1, "--episodes", "-2:", "--json", cwd=work).stdout)
    assert [e["episode"] for e in h["episodes"]] == [38, 39]
    assert h["returns"] == store[5].returns.tolist() and h["episodes"][1]["state"] == store[5][39].state.tolist()
    assert (len(h["differs"]["goals"]), len(h["differs"]["goals"][0])) == (1, 2)
    assert f"instance goals [{h['differs']['goals'][0]}]" in cli("show", "room", "--history", -1, cwd=work).stdout


def test_show_says_what_was_asked_for_and_shortens_what_is_long(tmp_path):
    "Parameters that are not the usual ones; of a long episode its ends, unless it is asked for."
    _, told, ends, whole = several(
        "generate dark_room -p horizon 90 --source random --histories 1 --episodes 2 --out long".split(),
        ["show", "long"],
        ["show", "long", "--history", 0],
        ["show", "long", "--history", 0, "--episodes", "1"],
        cwd=tmp_path,
    )
    assert re.search(r"info\.task +dark_room, horizon=90\n", told) and re.search(r"info\.source +random\n", told)
    rows = [[int(n) for n in re.findall(r"^ +(\d+) ", text, re.M)] for text in (ends, whole)]
    assert rows == [2 * [*range(16), *range(82, 90)], [*range(90)]]
    assert ends.count("... 66 transitions more; --episodes prints all of them") == 2 and "more" not in whole


def test_one_is_one_and_a_size_is_a_size(tmp_path):
    made, shown, history = several(
        "generate bandit --source ucb --histories 1 --episodes 1 --out one".split(),
        ["show", "one", "--verify"],
        ["show", "one", "--history", 0],
        cwd=tmp_path,
    )
    size = sum(map(len, files(tmp_path / "one").values()))
    assert f"1 history, 1 episode, 1 transition, {size / 1000:.1f} kB, " in made and 1000 < size < 10_000
    assert f"size              {size / 1000:.1f} kB" in shown and "verified: 1 history" in shown
    assert "1 episode, 1 transition" in history and "episode 0: 1 transition, " in history
    assert not any(f"1 {wrong}" in made + shown + history for wrong in ("histories", "episodes", "transitions"))


def test_a_log_without_scores_says_so(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"prompt": "2 + 2 =", "response": "4"}\n{"prompt": "1 =", "response": "1"}\n')
    args = "import jsonl log.jsonl -s score".split()
    silent, shown, (_, out, err) = several(
        [*args, "", "--out", "silent"],
        ["show", "silent"],
        [*args, "", "--reward", "length", "--out", "paid"],
        cwd=tmp_path,
        codes=True,
    )
    told = [line for line in silent[2].splitlines() if "NaN" in line]
    assert len(told) == 1 and "every reward is unknown" in told[0] and "--reward NAME" in told[0]
    assert "no reward is known (NaN)" in shown[1] and "--reward NAME" in shown[1]
    assert "NaN" not in err and "1 run, 2 rollouts" in out
    missing = cli("import", "jsonl", "log.jsonl", "--out", "x", cwd=tmp_path, code=2).stderr
    assert "-s score NAME" in missing and "--reward NAME" in missing


@pytest.mark.parametrize("more", [[], ["--history", "0"]], ids=["store", "history"])
def test_show_plots(more, work, tmp_path):
    cli("show", work / "room", *more, "--plot", "deep/a.png", cwd=tmp_path)
    assert (tmp_path / "deep/a.png").read_bytes()[:4] == b"\x89PNG"


def test_show_into_a_closed_pipe(work):
    res = subprocess.run(
        f"{SCRIPT} show room --history 0 --episodes : | head -1", shell=True, cwd=work, capture_output=True, text=True
    )
    assert res.stdout.startswith("History") and "Traceback" not in res.stderr


def test_train_and_evaluate(work, tmp_path):
    res = cli(
        "train",
        work / "room",
        "--stride",
        5,
        "--episodes",
        4,
        "--steps",
        4,
        "--batch",
        2,
        "-s",
        "width",
        16,
        "--seed",
        1,
        "--out",
        "m",
        "--json",
        cwd=tmp_path,
    )
    trained = json.loads(res.stdout)
    assert 0 < trained["seconds"] < trained["command_seconds"]
    assert trained["steps"] == 4 and trained["path"] == "m" and (tmp_path / "m/model.safetensors").exists()
    again = cli(
        "train",
        work / "room",
        "--stride",
        5,
        "--episodes",
        4,
        "--steps",
        4,
        "--batch",
        2,
        "-s",
        "width",
        16,
        "--seed",
        1,
        "--out",
        "m",
        "--resume",
        cwd=tmp_path,
    )
    assert "4 steps" in again.stdout
    args = [
        "evaluate",
        "m",
        "--task",
        "dark_room",
        "--episodes",
        3,
        "--instances",
        2,
        "--streams",
        2,
        "--seed",
        0,
        "--out",
    ]
    played = json.loads(cli(*args, "t/a.csv", "--json", cwd=tmp_path).stdout)
    assert played["path"] == "t/a.csv" and {"score_iqm", "score_ci", "episodes_to_80"} <= played.keys()
    rows = (tmp_path / "t/a.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 2 * 2 and {"agent", "episode", "return", "score"} <= set(rows[0].split(","))
    cli(*args, "a.json", cwd=tmp_path)
    assert len(json.loads((tmp_path / "a.json").read_text())) == 12
    one = cli("evaluate", "m", "--episodes", 1, "--instances", 1, "--out", "b.csv", cwd=tmp_path)  # it knows its task
    assert "played: 1 instance of the 16 in the split held_out, 4 streams each" in one.stderr
    assert "no interval" not in one.stdout + one.stderr  # the streams give one
    alone = "evaluate m --episodes 2 --instances 1 --streams 1 --out b.csv".split()
    (_, out, err), (_, summary, _) = several(alone, [*alone, "--json"], cwd=tmp_path, codes=True)
    assert " (no interval) in the last 2 episodes" in out and "one instance and one stream give no interval" in err
    got = json.loads(summary)
    assert [got[k] for k in ("score_ci", "score_iqm_ci", "regret_ci", "episodes_to_80_ci")] == [None] * 4


def test_evaluate_against_baselines(work, tmp_path):
    "Random play, the optimum and the source of the histories, on the same instances; all of a split that is small."
    short = ["evaluate", work / "model", "--episodes", 2, "--streams", 1, "--baselines", "--out"]
    ((code, out, err), (_, summary, silence)) = several(
        [*short, "a.csv", "--split", "test"], [*short, "b.csv", "--instances", 2, "--json"], cwd=tmp_path, codes=True
    )
    assert not code and all(f"\n  {agent}: " in out for agent in ("random", "optimum", "source"))
    assert "played: 8 instances of the 8 in the split test, which is all there are" in err
    got = json.loads(summary)
    assert (got["instances"], got["instances_in_split"], got["missing"], silence) == (2, 16, [], "")
    assert got["baselines"]["optimum"]["score_mean"] == 1 and list(got["baselines"]) == ["random", "optimum", "source"]
    assert "(it learns within 2 episodes here; in the histories it had 40)" in out and got["source_episodes"] == 40
    assert "in the last 2 episodes" in out and "five" not in out  # which there are not


def test_baselines_that_there_are_not(tmp_path):
    "An environment that names no best return, and a source of which nothing is known, are told in a line each."
    small = "--stride 1 --episodes 2 --steps 1 --batch 2 -s width 16".split()
    several(
        "generate gym:CliffWalking-v1 -p max_steps 20 --source random --histories 2 --episodes 4 --out cliff".split(),
        ["train", "cliff", *small, "--out", "model"],
        cwd=tmp_path,
    )
    settings = json.loads((tmp_path / "model/settings.json").read_text())
    settings["store"]["info"]["source"] = {"name": "somebody", "params": {}}
    (tmp_path / "model/settings.json").write_text(json.dumps(settings))
    play = "evaluate model --episodes 2 --instances 1 --streams 1 --baselines --out a.csv".split()
    done = cli(*play, cwd=tmp_path)
    assert "\n  random: " in done.stdout and "\n  source: " in done.stdout and "optimum:" not in done.stdout
    told = [line for line in done.stderr.splitlines() if "is not played" in line]
    assert len(told) == 1 and told[0].startswith("optimum is not played: ") and "best return" in told[0]
    assert "source: q_learning" in done.stderr


def test_language_models_alike(work, tmp_path):
    "The same commands: settings of windows and model arrive, the serializer is checked, rewards can be withheld."
    settings = json.loads((work / "text/settings.json").read_text())
    assert (
        settings["serializer"]["name"] == "coords"
        and settings["serializer"]["settings"]["digits"] == 2
        and settings["serializer"]["settings"]["skip_zero"] is True
    )
    play = ["--episodes", 2, "--instances", 2, "--streams", 2]
    settings = "-s width 16 -s scatter true -s shuffle_rewards true -s part 0.5,1 -s slide 2 -s max_action_tokens 20"
    train = f"train words --model lm --episodes 3 --steps 1 --batch 2 {settings} -s ask 0.5".split()
    *played, _ = several(
        [
            "evaluate",
            "text",
            "--serializer",
            "coords",
            "-z",
            "digits",
            "2",
            *play,
            "--out",
            tmp_path / "a.csv",
            "--json",
        ],
        [
            "evaluate",
            "text",
            "--serializer",
            "coords skip_zero=true digits=2",
            "--feedback",
            "zeroed",
            *play,
            "--out",
            tmp_path / "b.csv",
            "--json",
        ],
        ["evaluate", "model", "--feedback", "shuffled", *play, "--out", tmp_path / "c.csv"],
        [*train, "--out", tmp_path / "m"],
        cwd=work,
    )
    a, b = map(json.loads, played[:2])
    assert (
        (a["serializer"], a["feedback"], b["feedback"]) == ("coords", "true", "zeroed")
        and a["parse_failure"] == 0
        and 0 <= a["reward_accuracy"] <= 1
    )
    assert "reward accuracy" in played[2] and (tmp_path / "b.csv").read_text().splitlines()[0].endswith(
        "parse_failure,reward_accuracy"
    )
    about = json.loads((tmp_path / "m/settings.json").read_text())
    assert {"scatter": True, "shuffle_rewards": True, "part": [0.5, 1.0]}.items() <= about["windows"].items()
    assert about["model"] == {"width": 16, "slide": 2, "max_action_tokens": 20, "ask": 0.5}


def test_text_task(tmp_path):
    "Recorded completions are read as tokens by one family and as text by the other, from one store."
    small = "--episodes 3 --stride 5 --steps 2 --batch 2 -s width 16".split()
    play = "--episodes 3 --instances 2 --streams 1 --json".split()
    several(
        "generate story_rlhf --source random --histories 2 --episodes 32 --out s".split(),
        ["train", "s", "--model", "lm", "--serializer", "plain", *small, "-s", "max_action_tokens", 20, "--out", "lm"],
        ["train", "s", "--model", "rl", *small, "--out", "rl"],
        cwd=tmp_path,
    )
    made, *found = several(
        ["show", "s", "--history", 0, "--episodes", "0:4", "--serializer", "plain"],
        ["evaluate", "lm", *play, "--out", "lm.json"],
        ["evaluate", "rl", *play, "--out", "rl.json"],
        cwd=tmp_path,
    )
    assert made.startswith("prompt: ") and made.count("completion: ") == 4
    for text, serializer in zip(found, ("plain", None)):
        d = json.loads(text)
        assert (
            d["task"] == "story_rlhf"
            and d["serializer"] == serializer
            and ("parse_failure" in d) == ("reward_accuracy" in d) == (serializer == "plain")
        )  # a real reward is foreseen as a number, never exactly
    (tmp_path / "s.txt").write_text(made)
    assert (
        json.loads(cli(*"parse s.txt --serializer plain --task story_rlhf --json".split(), cwd=tmp_path).stdout)[
            "transitions"
        ]
        == 4
    )


def test_actions_that_cannot_be_read_are_told_of(tmp_path):
    "Of text the part that could be read is scored; a number is replaced by the middle."
    small = "--model lm --serializer plain --episodes 2 --stride 1 --steps 1 --batch 2 -s width 16".split()
    play = "--episodes 1 --instances 1 --streams 2".split()
    (_, out, text), (_, _, number) = several(
        "generate story_rlhf --source random --histories 2 --episodes 2 --out s".split(),
        "generate gym:Pendulum-v1 -p max_steps 2 --source random --histories 2 --episodes 2 --out n".split(),
        ["train", "s", *small, "-s", "max_action_tokens", 5, "--out", "text"],
        ["train", "n", *small, "--out", "number"],
        ["evaluate", "text", *play, "--out", "a.csv"],
        ["evaluate", "number", *play, "--out", "b.csv"],
        cwd=tmp_path,
        codes=True,
    )[4:]
    assert "parse failures 1" in out and "100% of the actions did not end within 5 tokens" in text
    assert "the part that could be read" in text and "-s max_action_tokens N" in text
    assert "the middle of what is allowed was done instead: the score says little" in number


def test_parse(work, tmp_path):
    "What `show` writes is read back, with every serializer."
    from ad_distill.data.store import Store

    h = Store.open(work / "room")[1]
    names = ["plain", "coords digits=3", "compact", "json", "bins", "prose"]
    for i, text in enumerate(
        several(
            *[["show", "room", "--history", 1, "--episodes", ":5", "--serializer", name] for name in names], cwd=work
        )
    ):
        (tmp_path / f"{i}.txt").write_text(text)
    for text in several(
        *[
            ["parse", f"{i}.txt", "--serializer", name, "--task", "dark_room", "--episodes", -1, "--json"]
            for i, name in enumerate(names)
        ],
        cwd=tmp_path,
    ):
        d = json.loads(text)
        assert (d["episodes"], d["transitions"], d["done"], d["returns"]) == (5, 100, True, h.returns[:5].tolist())
        assert [e["episode"] for e in d["read"]] == [4] and d["read"][0]["state"] == h[4].state.tolist()
    (tmp_path / "open.txt").write_text((tmp_path / "0.txt").read_text().removesuffix("### truncated\n"))
    text = cli(*"parse open.txt --serializer plain --task dark_room --episodes 4".split(), cwd=tmp_path).stdout
    assert (
        text.startswith("open.txt: 5 episodes, 100 transitions, the last one not done\n  returns")
        and "episode 4: 20 transitions" in text
    )


# one line for every mistake

MISTAKES = [
    ("genrate dark_room", ["genrate", "did you mean generate?"]),
    ("generate dark_rom --out x", ["dark_rom", "dark_key_to_door", "did you mean dark_room?"]),
    ("generate dark_room --source q_lerning --out x", ["q_lerning", "thompson", "did you mean q_learning?"]),
    ("generate dark_room -p sise 5 --out x", ["sise", "horizon", "did you mean size?"]),
    ("generate dark_room --source q_learning -s epsilom 0.5 --out x", ["epsilom", "did you mean epsilon?"]),
    ("generate dark_room -p size big --out x", ["size", "big", "int"]),
    ("generate dark_room -p size 2.5 --out x", ["size", "2.5", "int"]),
    ("generate dark_room -p size 0 --out x", "size"),
    ("generate dark_room -p size 1 --out x", "size"),
    ("generate gym:CartPole-v1 -p best high --out x", ["best", "high", "expected float"]),
    ("generate gym:CartPole-v1 -p vary gravty=1:2 --out x", ["gravty", "did you mean gravity?", "force_mag"]),
    ("generate text_rlhf --out x", ["text_rlhf", "trl_grpo", "-s model", "ad_distill import"]),
    ("generate text_rlhf --source random --out x", ["random", "are texts"]),
    ("generate dark_room -s epsilon 2 --out x", "epsilon"),
    ("generate bandit_gaussian -p std nan --out x", "std"),
    ("generate dark_room --source thompson --out x", ["thompson", "dark_room"]),
    ("generate dark_room --histories 0 --out x", "--histories"),
    ("generate dark_room --histories -4 --out x", "--histories"),
    ("generate dark_room --episodes 0 --out x", "--episodes"),
    ("generate dark_room --episodes many --out x", "--episodes"),
    ("generate dark_room --workers 0 --out x", "--workers"),
    ("generate dark_room --seed -1 --out x", "--seed"),
    ("generate dark_room --split tests --out x", ["tests", "held_out"]),
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
    ("show room --history 0 --serializer compact -z names row", "names"),
    ("parse episodes.txt --serializer prosa --task dark_room", "prose"),
    ("parse episodes.txt --task dark_room", "--serializer"),
    ("parse episodes.txt --serializer plain", "--task"),
    ("parse episodes.txt --serializer plain --task dark_rom", "did you mean dark_room?"),
    ("parse nowhere.txt --serializer plain --task dark_room", "nowhere.txt"),
    ("parse room --serializer plain --task dark_room", "room"),
    ("parse model/model.safetensors --serializer plain --task dark_room", ["model.safetensors", "UTF-8"]),
    (
        "parse cut.txt --serializer plain --task dark_room",
        ["cut.txt: ", "action: a whole number from 0 to 4", "at offset 50, line 5", "<here>"],
    ),
    (
        "parse episodes.txt --serializer coords --task dark_room",
        ["episodes.txt: ", "at offset 0, line 1", "state: 4 4"],
    ),
    ("parse episodes.txt --serializer plain --task bandit", ["episodes.txt: ", "offset"]),
    ("parse episodes.txt --serializer plain --task dark_room --episodes 2:", "2 episodes, 0 to 1"),
    ("evaluate model --feedback zero --out x.csv", ["zero", "shuffled"]),
    ("evaluate text -z digits 2 --out x.csv", "--serializer"),
    ("import trlz room --out x", ["trlz", "trlx", "did you mean trl?"]),
    ("generate text_rlhf -p reward vadr --out x", ["vadr", "did you mean vader?"]),
    ("generate text_rlhf --source random -p prompts blank.txt --out x", ["blank.txt", "no prompt"]),
    ("generate text_rlhf --source random -p prompts nowhere.txt --out x", "nowhere.txt"),
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
    ("train room --stride 2 -s widht 3 --out x", "did you mean width?"),
    ("train room --stride 2 -s width 3 --out x", "width"),
    ("train room --stride 2 -s width wide --out x", ["width", "int"]),
    ("train room --stride 2 -s lr_scheduler_type zigzag --out x", "zigzag"),
    ("train room --stride 2 -s max_action_tokens 5 --out x", ["max_action_tokens", "--model lm"]),
    ("train room --stride 2 -s part half --out x", ["part", "0.0,1.0"]),
    ("train room --stride 2 -s scatter true -s jump 0.5 --out x", ["scatter", "jump"]),
    ("train room --stride 2 --model lm -s inputs state --out x", ["inputs", "--model rl"]),
    ("train room --stride 2 --model lm -s slid 2 --out x", ["ad_distill settings --model lm", "did you mean slide?"]),
    ("train room --stride 2 --model lm -s slide 11 --out x", ["slide", "10"]),
    ("train room --stride 2 --model lm -s ask much --out x", ["ask", "float"]),
    (
        "train room --stride 2 --model lm --serializer plain --episodes 10 -s max_tokens 300 --out x",
        ["tokens long", "300"],
    ),
    ("train room --stride 2 --model lm --base base -s max_tokens 4096 --out x", ["4096", "64 positions"]),
    ("train room --stride 2 --episodes 2 --model lm --base base --out x", ["has no token for", "compact"]),
    ("train room --stride 2 --out model", "model"),
    ("evaluate nowhere --task dark_room --out x.csv", "nowhere"),
    ("evaluate room --task dark_room --out x.csv", "room"),
    ("evaluate model --task bandit --out x.csv", ["dark_room", "bandit"]),
    ("evaluate model --task dark_room -p size 5 --out x.csv", "size"),
    ("evaluate model --instances 999 --out x.csv", "999"),
    ("evaluate model --serializer compact --out x.csv", ["model", "compact", "RL Format"]),
    ("evaluate text --serializer plain --out x.csv", ["coords", "plain"]),
    ("evaluate text --serializer cords --out x.csv", "did you mean coords?"),
    ("evaluate text --serializer coords -z digits 3 --out x.csv", "digits=2, asked for 3"),
    ("evaluate text --serializer coords=1 --out x.csv", "coords=1"),
    ("evaluate text --task bandit --out x.csv", ["dark_room", "bandit"]),
]


def tiny_base(path):
    "A pretrained model whose tokenizer knows a single word, and with 64 positions."
    python(
        f"""
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from ad_distill.models.lm import small_lm
t = Tokenizer(models.WordLevel({{"<unk>": 0, "x4": 1}}, unk_token="<unk>"))
t.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=t, unk_token="<unk>", pad_token="<unk>")
tokenizer.save_pretrained({str(path)!r})
small_lm(tokenizer, width=16, max_tokens=64).save_pretrained({str(path)!r})
""",
        cwd=path.parent,
    )


@pytest.fixture(scope="module")
def bad(work):
    "Next to the store and the model of `work`: things that are no stores."
    (work / "file").write_text("not a directory")
    (work / "file.ipynb").write_text("not a notebook")
    (work / "blank.txt").write_text("\n  \n")
    row = "state: 4 4\naction: 0\nreward: 0\n"
    (work / "episodes.txt").write_text(row + "### truncated\n" + row + row + "### open\n")
    (work / "cut.txt").write_text(row + "state: 4 4\naction: 9\nreward: 0\n")
    tiny_base(work / "base")
    whole = files(work / "room")
    for name, changes in {
        "cut": {"transitions.arrow": whole["transitions.arrow"][:-99]},
        "other": {"store.json": whole["store.json"].replace(b'"version": 1', b'"version": 7', 1)},
    }.items():
        (work / name).mkdir()
        for k, v in {**whole, **changes}.items():
            (work / name / k).write_bytes(v)
    room = Store.open(work / "room")
    with StoreWriter(work / "empty", room.spaces, room.info):
        pass
    return work


def test_mistakes(bad):
    "All in one process, as what some of them import takes seconds: one line each, and nothing is written."
    before, wrong = files(bad), []
    for (args, says), (code, out, err) in zip(
        MISTAKES, several(*[a.split() for a, _ in MISTAKES], cwd=bad, codes=True)
    ):
        lines = [line for line in err.splitlines() if not line.startswith("source: ")]
        if (
            code != 2
            or out
            or len(lines) != 1
            or not lines[0].startswith("ad_distill: ")
            or not all(word in lines[0] for word in ([says] if isinstance(says, str) else says))
        ):
            wrong.append((args, says, code, out, err))
    assert not wrong
    assert files(bad) == before, "a mistake changed something"


def test_a_mistake(bad):
    "In a process of its own."
    mistake("generate", "dark_rom", "--out", "x", cwd=bad, says="did you mean dark_room?")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    mistake("generate", "dark_room", "--histories", 1, "--out", "locked/x", cwd=tmp_path, says="locked")


def test_not_enough_memory(tmp_path):
    mistake(
        "generate", "bandit", "--histories", 1, "--episodes", 10**14, "--out", "x", cwd=tmp_path, says="memory", code=1
    )


def test_gpu_out_of_memory():
    import torch

    from ad_distill.cli.console import failure_of

    failure = failure_of(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore about it."))
    assert (
        failure.exit_code == 1
        and failure.format_message().startswith("CUDA out of memory. Tried to allocate 9 GiB. (take fewer")
        and "\n" not in failure.format_message()
    )


# stopped in the middle

N = 200
DRIVER = """
import os, sys, time, ad_distill.sources.core as s
from ad_distill.cli.main import main
s.WIDTH, put, wait_at = 4, s.StoreWriter.put, int(os.environ.get("WAIT_AT", 1 << 30))
def put_and_wait(self, i, history):
    put(self, i, history)
    while len(self) >= wait_at: time.sleep(.1)
s.StoreWriter.put = put_and_wait
if __name__ == '__main__': main(sys.argv[1:])
"""


class Many:
    "A `generate` that writes often: four histories at a time. A program of its own, which workers can import."

    def __init__(self, path, workers=1):
        self.path, self.store, self.program = path, path / "store", path / "driver.py"
        self.program.write_text(DRIVER)
        command = f"generate dark_room --source q_learning --histories {N} --episodes 20 --seed 1 --out store"
        self.args = f"{self.program} {command} --workers {workers}".split()

    def start(self, limit=None, wait_at=1 << 30):
        "`wait_at`: when so many histories are there, wait for a kill, however slow the one who kills is."

        def limited():
            hear_ctrl_c()
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return subprocess.Popen(
            [sys.executable, *self.args],
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=limited,
            env={**os.environ, "WAIT_AT": str(wait_at)},
        )

    def finish(self):
        out, err = (p := self.start()).communicate(timeout=300)
        assert p.returncode == 0, out + err
        return files(self.store)

    def wait_for(self, p, histories):
        index = self.store / "index.jsonl"
        while p.poll() is None and not (index.exists() and index.read_bytes().count(b"\n") >= histories):
            time.sleep(0.001)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return Many(tmp_path_factory.mktemp("unbroken")).finish()


@pytest.mark.parametrize("workers", [1, 2])
def test_kill(workers, unbroken, tmp_path):
    "kill -9 at random moments, then the same command again: the same bytes, and never fewer histories than before."
    from ad_distill.data.store import Store

    many, rng, had = Many(tmp_path, workers), random.Random(workers), 0
    for kill in range(7):  # while it starts, then by progress: no clock tells how fast a machine is
        p = many.start(wait_at=N - 10)
        if kill < 2:
            time.sleep(rng.uniform(0, 0.3))
        else:
            many.wait_for(p, min(had + rng.randint(1, 25), N - 50))
        time.sleep(rng.uniform(0, 0.01))
        assert p.poll() is None, "it ended before it could be killed"
        os.killpg(p.pid, signal.SIGKILL) if kill % 3 else p.kill()
        try:
            p.communicate(timeout=120)  # workers hold its pipes open: they have to end as well
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
    from ad_distill.data.store import Store

    many = Many(tmp_path, workers)
    p = many.start(limit)
    out, err = p.communicate(timeout=300)
    assert p.returncode == 1 and not out, (p.returncode, out, err)
    assert (
        len(err.splitlines()) == 1
        and err.startswith("ad_distill: ")
        and "no room left" in err
        and "same command again" in err
    )
    if limit > 30_000:
        assert (kept := len(store := Store.open(many.store)))
        store.verify()
        assert files(many.store)["index.jsonl"].count(b"\n") == kept
    assert many.finish() == unbroken


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupt(workers, unbroken, tmp_path):
    many = Many(tmp_path, workers)
    p = many.start(wait_at=N - 10)
    many.wait_for(p, 1)
    os.killpg(p.pid, signal.SIGINT)  # as Ctrl-C does
    out, err = p.communicate(timeout=300)
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
print("said", out); print("bar", file=sys.stderr); print("\\rlearning:  0%\\rlearning: 99%", file=sys.stderr)""",
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
    args = [
        "run",
        "good.ipynb",
        "-p",
        "seeds",
        3,
        "-p",
        "rate",
        2,
        "-p",
        "fast",
        "true",
        "-p",
        "scale",
        7,
        "-p",
        "other",
        2.5,
        "--out",
        "deep/{x}.ipynb",
    ]
    res, source = cli(*args, cwd=notebooks, JUPYTER_PATH=str(notebooks)), (notebooks / "good.ipynb").read_bytes()
    out = notebooks / "deep/{x}.ipynb"
    assert res.stdout.splitlines() == [f"said {out}", *(str(out.with_suffix(s)) for s in (".ipynb", ".json", ".png"))]
    assert res.stderr == "bar\n", "nothing from Jupyter, and no bars where there is no terminal"
    assert json.loads(out.with_suffix(".json").read_text()) == {
        "python": sys.executable,
        "values": [3, 2.0, True, "7", 2.5],
    }
    nbformat.validate(nbformat.read(out, 4))
    assert (notebooks / "good.ipynb").read_bytes() == source
    told = cli("run", "good.ipynb", "--json", cwd=notebooks, AD_DISTILL_PROGRESS_SECONDS=".01")
    assert "good: 100% " in told.stderr and "\r" not in told.stderr
    summary = json.loads(told.stdout)
    assert summary["out"] == str(notebooks / "runs/good.ipynb") and len(summary["files"]) == 3
    mistake("run", "good.ipynb", "--out", "good.ipynb", cwd=notebooks, says="itself")


def test_run_that_fails(notebooks):
    mistake("run", "user_error.ipynb", cwd=notebooks, says=["seeds are few; take more", "runs/user_error.ipynb"])
    res = cli("run", "broken.ipynb", "-p", "seeds", 2, "--out", "b.ipynb", cwd=notebooks, code=1)
    assert (
        "so far" in res.stdout
        and "1 / 0" in res.stderr
        and "broken, In [3] failed: ZeroDivisionError" in res.stderr.splitlines()[-1]
    )
    assert any(
        o.output_type == "error" for c in nbformat.read(notebooks / "b.ipynb", 4).cells for o in c.get("outputs", ())
    )
    mistake("run", "dead.ipynb", cwd=notebooks, says="ernel died", code=1)


def test_run_interrupted(notebooks):
    p = subprocess.Popen(
        [SCRIPT, "run", "slow.ipynb"],
        cwd=notebooks,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    assert p.stdout.readline() == "begun\n"
    os.killpg(p.pid, signal.SIGINT)
    out, err = p.communicate(timeout=300)
    assert p.returncode == 130 and err.startswith("ad_distill: interrupted") and len(err.splitlines()) == 1, err
    assert "begun" in (notebooks / "runs/slow.ipynb").read_text()


def test_list_of_experiments(tmp_path):
    text = cli("run", "--list", cwd=tmp_path).stdout
    known = json.loads(cli("run", "--list", "--json", cwd=tmp_path).stdout)
    assert {"exp_darkroom", "exp_bandit"} <= known.keys()
    for name, parameters in known.items():
        assert name in text and {"scale", "training_seeds"} <= parameters.keys() and parameters["scale"]["help"]


def assigned(path):
    "Names that the tagged cell of a notebook binds, found in another way than the command finds them: by running it."
    cells = nbformat.read(path, 4).cells
    (source,) = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    bound = {}
    exec(source, bound)
    return bound.keys() - {"__builtins__"}


def test_every_parameter_of_every_experiment_is_listed_and_no_other(tmp_path):
    from conftest import NBS

    paths = sorted(NBS.glob("exp_*.ipynb"))
    listed = json.loads(cli("run", "--list", "--json", cwd=tmp_path).stdout)
    assert listed.keys() == {p.stem for p in paths}
    ones = several(*[["run", p.stem, "--list"] for p in paths], cwd=tmp_path)
    wrong = several(*[["run", p.stem, "-p", "nonsense", "1"] for p in paths], cwd=tmp_path, codes=True)
    for path, one, (code, out, err) in zip(paths, ones, wrong):
        names = assigned(path)
        assert listed[path.stem].keys() == names and names, path.stem
        assert all(p["help"] for p in listed[path.stem].values()), path.stem
        assert [line.split("=")[0].strip() for line in one.splitlines()[1:]] == list(listed[path.stem])
        assert code == 2 and not out and len(err.splitlines()) == 1 and "nonsense" in err
        assert all(name in err for name in names)
    assert not list(tmp_path.iterdir()), "a refused run leaves nothing behind"
