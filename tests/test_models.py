"""Folders of models: changed ones are refused in a line, old ones open, and nothing of them runs or names another."""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent / "campaigns"))
import models as campaign  # noqa: E402

from ad_distill import UserError  # noqa: E402
from ad_distill.models.lm import pretrained_lm  # noqa: E402
from ad_distill.models.loading import load_model  # noqa: E402


@pytest.fixture(params=["rl", "lm"])
def family(request):
    return request.param


@pytest.fixture
def folder(family, tmp_path):
    return Path(shutil.copytree(campaign.folders() / family, tmp_path / "m"))


def forget_checksums(folder, family):
    own = folder / campaign.OWN[family]
    own.write_text(json.dumps({k: v for k, v in json.loads(own.read_text()).items() if k not in ("files", "checksum")}))


def refused(f, *args):
    with pytest.raises(UserError) as e:
        f(*args)
    assert len(str(e.value).splitlines()) == 1
    return str(e.value)


@pytest.mark.parametrize("what", ["new", "old, as it was"])
def test_a_whole_folder_is_right(family, what, folder):
    if "old" in what:
        forget_checksums(folder, family)
    assert campaign.use(folder, family, what)


def test_changed_folders(tmp_path):
    got = [campaign.one(seed, tmp_path / "work") for seed in range(70)]
    wrong = [x for x in got if x[0] in ("silent", "traceback")]
    counts = Counter(outcome for outcome, _ in got)
    assert not wrong and counts["refused"] > 30 and counts["right"] > 2


def test_one_bit_of_the_weights(family, folder):
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    assert "model.safetensors is damaged" in refused(load_model, folder, "cpu")
    forget_checksums(folder, family)
    load_model(folder, "cpu")  # before there were checksums nobody could tell


@pytest.mark.parametrize("kind", ["less", "more", "renamed", "reshaped", "a row less"])
def test_weights_of_another_model(family, kind, folder):
    forget_checksums(folder, family)
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    x = weights.pop(name)
    shapes = {"more": x, "reshaped": x[None], "a row less": x[1:]}
    weights |= {name: shapes[kind].contiguous()} if kind in shapes else {}
    weights |= {"other": x.clone()} if kind in ("more", "renamed") else {}
    save_file(weights, file, metadata={"format": "pt"})
    refused(load_model, folder, "cpu")


@pytest.mark.parametrize("family", ["lm"])
@pytest.mark.parametrize("layers", [0, 2, 10**9, "one"])
def test_layers_that_the_weights_do_not_have(family, layers, folder):
    "A billion of them would take all memory."
    forget_checksums(folder, family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    refused(load_model, folder, "cpu")
    refused(pretrained_lm, folder) if layers else pretrained_lm(folder)


@pytest.mark.parametrize("family", ["lm"])
def test_an_adapter_names_no_other_model(family, folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/else"}))
    assert "adapter" in refused(load_model, folder, "cpu") and "adapter" in refused(pretrained_lm, folder)


@pytest.mark.parametrize("family", ["lm"])
def test_code_of_a_model_is_not_run(family, folder, tmp_path):
    forget_checksums(folder, family)
    (folder / "code.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\n")
    kinds = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    (folder / "config.json").write_text(json.dumps({"model_type": "theirs", "auto_map": kinds}))
    assert "never run" in refused(load_model, folder, "cpu") and "never run" in refused(pretrained_lm, folder)
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("family", ["lm"])
def test_three_words_with_one_id(family, folder):
    forget_checksums(folder, family)
    file = folder / "tokenizer.json"
    d = json.loads(file.read_text())
    vocab = d["model"]["vocab"]
    a, b, c = sorted(vocab)[-3:]
    vocab[b] = vocab[c] = vocab[a]
    file.write_text(json.dumps(d))
    assert "damaged" in refused(load_model, folder, "cpu")


def test_lora_is_saved_as_a_plain_model(tmp_path):
    pytest.importorskip("peft")
    from ad_distill.models.lm import LMModel

    whole = load_model(campaign.folders() / "lm", "cpu")
    model = LMModel(pretrained_lm(campaign.folders() / "lm", 2), whole.serializer, whole.tokenizer, whole.settings)
    model.save(tmp_path / "lora")
    again = load_model(tmp_path / "lora", "cpu")
    ids = torch.arange(8)[None]
    with torch.inference_mode():
        torch.testing.assert_close(again.lm(ids).logits, whole.lm(ids).logits)
