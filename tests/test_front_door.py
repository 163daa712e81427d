"""What `from ad_distill import ...` gives: everything by name, lazily, in an interpreter that imported nothing else."""

import json
import sys

import pytest
from conftest import ROOT, python, run

import ad_distill

NAMES = (
    "make_task make_source make_serializer generate import_log Store Windows distill load_model evaluate play summarize"
).split()
FLOW = """
from ad_distill import *
task = make_task("dark_room", size=5)
store = generate(task, make_source("q_learning"), "room", n_histories=4, n_episodes=40)
print(make_serializer("coords", task.spaces).serialize(store[0][0]))
training = {"max_steps": 2, "per_device_train_batch_size": 2}
distill(task, store, "model", Windows(4, Strided(5)), training=training, progress=False)
table = evaluate(load_model("model"), task, n_episodes=3, n_instances=2, streams=1)
print(summarize(table)["model"]["score_mean"])
"""


def test_the_front_door_has_what_it_promises():
    assert set(NAMES) <= set(ad_distill.__all__) <= set(dir(ad_distill))
    for name in ad_distill.__all__:
        assert getattr(ad_distill, name) is not None
    with pytest.raises(AttributeError, match="make_tusk"):
        ad_distill.make_tusk
    with pytest.raises(ImportError):
        exec("from ad_distill import make_tusk")


def test_what_an_editor_sees_is_what_is_there():
    "The imports under TYPE_CHECKING name the same modules as the table that is used."
    import ast

    tree = ast.parse((ROOT / "ad_distill/__init__.py").read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {a.name: n.module for n in ast.walk(block) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen == ad_distill._MODULE_OF


def loaded(code):
    return set(
        json.loads(
            python(f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))", cwd=ROOT).stdout.splitlines()[
                -1
            ]
        )
    )


def test_importing_it_is_cheap():
    "Measured as what is loaded, since a clock would depend on the machine: nothing but the standard library."
    modules = loaded("import ad_distill")
    assert not modules & {"numpy", "torch", "gymnasium", "fastcore", "click", "pandas"}
    assert {m for m in modules if m.startswith("ad_distill")} == {"ad_distill"}
    modules = loaded("import ad_distill.cli.main")
    assert not modules & {"torch", "transformers", "gymnasium", "datasets", "pandas", "matplotlib", "scipy", "pyarrow"}


@pytest.mark.parametrize(
    "code",
    [
        'import ad_distill; ad_distill.make_task("gym:CartPole-v1")',
        'from ad_distill import make_source; make_source("ppo")',
        'from ad_distill import make_source; make_source("rloo")',
        'from ad_distill import make_task; make_task("story_rlhf")',
        'from ad_distill import make_serializer, make_task; make_serializer("coords", make_task("dark_room").spaces)',
    ],
)
def test_names_are_known_without_a_registering_import(code, tmp_path):
    python(code, cwd=tmp_path)


def test_the_whole_way_from_the_front_door(tmp_path):
    done = python(FLOW, cwd=tmp_path).stdout
    assert "x0=2 x1=2" in done


PLUGIN = """
from dataclasses import dataclass
from ad_distill.language.serializer import Serializer, register_serializer

@register_serializer("arrows")
@dataclass(frozen=True)
class Arrows(Serializer):
    "A line a transition."
    def _frame(self, field, codecs, last):
        head = {"action": "-> ", "reward": "=> ", "logprob": "@ "}.get(field, "")
        return [head] + [" "] * (len(codecs) - 1), "\\n" if last else " "
"""


def test_an_installed_plug_in_is_found(tmp_path):
    "A package that announces an entry point of the group `ad_distill` is asked when a name is missed, and listed."
    (tmp_path / "arrows_plugin.py").write_text(PLUGIN)
    about = tmp_path / "arrows_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: arrows_plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[ad_distill]\narrows = arrows_plugin\n")
    code = "from ad_distill import make_serializer, make_task"
    code += '; print(make_serializer("arrows", make_task("bandit").spaces).name)'
    assert python(code, cwd=tmp_path).stdout.split() == ["arrows"]
    assert "arrows" in run(sys.executable, "-m", "ad_distill", "serializers", cwd=tmp_path).stdout


def test_a_broken_plug_in_is_named_and_does_no_harm(tmp_path):
    (tmp_path / "broken_plugin.py").write_text("import nothing_of_that_name")
    about = tmp_path / "broken_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken_plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[ad_distill]\nbroken = broken_plugin\n")
    done = run(sys.executable, "-m", "ad_distill", "serializers", cwd=tmp_path)
    assert "coords" in done.stdout and "broken_plugin" in done.stderr and "Traceback" not in done.stderr


def test_import_of_a_module_in_the_current_folder(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    done = run("ad_distill", "serializers", "--import", "mine", cwd=tmp_path)
    assert "arrows" in done.stdout
    done = run("ad_distill", "serializers", "--import", "mime", cwd=tmp_path, check=False)
    assert done.returncode == 2 and "mime" in done.stderr and "\n" not in done.stderr.strip()


ROOM = """
from dataclasses import dataclass
from ad_distill.tasks.rooms import DarkRoom
from ad_distill.tasks.core import register_task

@register_task("tiny_room")
@dataclass(frozen=True)
class TinyRoom(DarkRoom):
    "A dark room of 3x3 cells."
    size: int = 3
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_imported_reaches_every_process(workers, tmp_path):
    (tmp_path / "tiny.py").write_text(ROOM)
    small = ["--histories", "2", "--episodes", "3", "--workers", str(workers)]
    run("ad_distill", "generate", "tiny_room", "--import", "tiny", *small, "--out", "room", cwd=tmp_path)
    known = run("ad_distill", "show", "room", "--history", "0", "--import", "tiny", cwd=tmp_path).stdout
    assert "tiny_room" in known and "instance goals [[" in known
    shown = run("ad_distill", "show", "room", "--history", "0", cwd=tmp_path).stdout
    assert "tiny_room" in shown and "instance not known: " in shown and "episode 2: " in shown


@pytest.mark.parametrize(
    "text, says",
    [
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("1 +", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(text, says, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    done = run("ad_distill", "tasks", "--import", "json", "--import", "mine", cwd=tmp_path, check=False)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and "mine" in lines[0] and says in lines[0] and not done.stdout


def test_files_around_the_project_are_whole():
    "What GitHub and others read of it parses, and says the version that settings.ini says."
    from configparser import ConfigParser

    import yaml

    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == ini["DEFAULT"]["version"] and cited["repository-code"] == ini["DEFAULT"]["git_url"]
    assert "CITATION.cff" in (ROOT / "README.md").read_text(encoding="utf-8")
    files = [*(ROOT / ".github").rglob("*.y*ml"), ROOT / ".pre-commit-config.yaml"]
    assert len(files) >= 8 and all(yaml.safe_load(f.read_text(encoding="utf-8")) for f in files)
    json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
