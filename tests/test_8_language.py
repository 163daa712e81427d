"Both formats in one experiment: the same histories, one option."
import json

from conftest import NBS, run


def test_darkroom_in_both_formats(tmp_path):
    run("papermill", NBS / "exp_darkroom.ipynb", "both.ipynb", "--no-progress-bar", "-p", "scale", "smoke", "-p", "model", "both", "-p", "serializer", "coords", cwd=tmp_path)
    results = json.loads((tmp_path / "both.json").read_text())["results"]
    assert {"score_iqm", "expert_distillation_score", "lm"} <= results.keys() and "perplexity_action" in results["lm"]
    assert (tmp_path / "both.png").stat().st_size > 10_000
