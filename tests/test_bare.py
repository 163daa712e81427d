"""The recorder for trlX in an environment like trlX's own: a Python that has none of the packages of this project."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from conftest import ROOT

STUB = {  # as much of trlX as the recorder imports, with its order of calls
    "__init__.py": "",
    "trainer/__init__.py": "REGISTERED = []\ndef register_trainer(cls): REGISTERED.append(cls.__name__); return cls\n",
    "trainer/accelerate_ppo_trainer.py": """
from types import SimpleNamespace as N

class Row(list):
    def tolist(self): return list(self)

class AcceleratePPOTrainer:
    def __init__(self, config, reward_fn):
        self.config, self.reward_fn, self.stored = config, reward_fn, []
        self.accelerator, self.kl_ctl = N(is_main_process=True), N(value=.05)
        self.tokenizer = N(pad_token_id=1, eos_token_id=0)
        self.setup_rollout_logging(config)
    def make_experience(self, num_rollouts=1024, iter_count=0):
        scores = self.reward_fn(samples=["Dan ran."], prompts=["Dan"], outputs=[" ran."])
        rows = {k: Row([0., 1.]) for k in ("logprobs", "values", "rewards")}
        self.push_to_store([N(query_tensor=Row([5]), response_tensor=Row([7, 0]), **rows) for _ in scores])
    def push_to_store(self, data): self.stored += data
""",
    "utils/__init__.py": "",
    "utils/modeling.py": "def gather_dict(d): return d\n",
}

RECORD = """
import json, sys
from pathlib import Path
before = set(sys.modules)
from ad_distill.recorders import trlx as recorder
loaded = sorted(set(sys.modules) - before)

from types import SimpleNamespace as N
from trlx.trainer import REGISTERED
train, method = N(rollout_logging_dir=sys.argv[1]), N(scale_reward="ignored")
config = N(train=train, method=method, to_dict=lambda: {"train": vars(train)})
trainer = recorder.HistoryPPOTrainer(config, run="run", reward_fn=lambda prompts, **kwargs: [.5] * len(prompts))
trainer.make_experience()
print(json.dumps({"loaded": loaded, "registered": REGISTERED, "stored": len(trainer.stored)}))
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    "The interpreter of an empty virtual environment that sees this checkout and a stand-in for trlX."
    folder = tmp_path_factory.mktemp("bare")
    venv.EnvBuilder(with_pip=False, symlinks=os.name == "posix").create(folder)
    interpreter = folder / ("bin/python" if os.name == "posix" else "Scripts/python.exe")
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    said = subprocess.run([interpreter, "-I", "-c", where], check=True, capture_output=True, text=True)
    site = Path(said.stdout.strip())
    assert folder in site.parents
    for name, content in STUB.items():
        (site / "trlx" / name).parent.mkdir(parents=True, exist_ok=True)
        (site / "trlx" / name).write_text(content, encoding="utf-8")
    (site / "checkout.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    return interpreter


def test_the_trlx_recorder_works_where_nothing_else_is_installed(bare_python, tmp_path):
    command = [bare_python, "-I", "-c", RECORD, tmp_path / "rollouts"]
    res = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert not res.returncode, res.stderr
    said = json.loads(res.stdout)
    ours = {m for m in said["loaded"] if m.split(".")[0] == "ad_distill"}
    assert ours == {"ad_distill", "ad_distill.recorders", "ad_distill.recorders.trlx"}
    others = {m.split(".")[0] for m in said["loaded"]} - set(sys.stdlib_module_names)
    assert others == {"ad_distill", "trlx"}
    assert said["registered"] == ["HistoryPPOTrainer"] and said["stored"] == 1
    written = json.loads((tmp_path / "rollouts/run/rollouts-00000.json").read_text())
    assert written["rollouts"][0]["score"] == 0.5 and written["rollouts"][0]["output"] == " ran."
