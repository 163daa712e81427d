"""Damaged and hostile folders of models: each is read rightly, or refused in one line.

By hand: `python tests/campaigns/models.py --seed 0 --count 300`. Half of the folders have no checksums, as those of
old versions have none; what somebody changed by hand and means what it says (another horizon, say) is right there."""

import functools, json, random, shutil, struct, tempfile, traceback, warnings
from pathlib import Path

import numpy as np
import torch
from harness import main
from safetensors.torch import load_file, save_file
from stores import edit_json
from transformers.utils.logging import disable_progress_bar

from ad_distill.language.serializer import make_serializer
from ad_distill.language.tokenizers import build_tokenizer
from ad_distill.models.lm import LMModel, LMSettings, small_lm
from ad_distill.models.loading import load_model, make_agent
from ad_distill.models.rl import RLConfig, RLModel
from ad_distill.registry import UserError
from ad_distill.tasks.core import RandomAgent, make_task, rollout

torch.set_num_threads(1)
disable_progress_bar()
OWN = {"rl": "config.json", "lm": "ad_distill.json"}  # the file with the checksums


@functools.cache
def room():
    return make_task("dark_room", size=3, horizon=3)


@functools.cache
def folders():
    "A tiny model of each family, saved; they stay until this process ends."
    tmp = Path(tempfile.mkdtemp(prefix="models-"))
    torch.manual_seed(0)
    about = dict(task=dict(name="dark_room", params=dict(size=3, horizon=3)))
    rl = RLModel(RLConfig(room().spaces, layers=1, width=8, heads=2, context=12, about=about))
    for p in rl.parameters():
        torch.nn.init.normal_(p)
    rl.save(tmp / "rl")
    played = rollout(room().make_env(np.array([0])), RandomAgent(room().spaces, [0]), 6, seeds=[0])
    history = played.history(0, task={**about["task"], "instance": 0}, source=dict(name="random", params={}), seed=0)
    serializer = make_serializer("compact", room().spaces)
    tokenizer = build_tokenizer(serializer, history)
    lm = small_lm(tokenizer, width=8, layers=1, heads=2, max_tokens=256)
    LMModel(lm, serializer, tokenizer, LMSettings(episodes=2, max_tokens=256, about=about)).save(tmp / "lm")
    return tmp


def change_header(rng, data):
    "Another head of a safetensors file, over the same numbers."
    n = struct.unpack("<Q", data[:8])[0]
    head = edit_json(rng, data[8 : 8 + n]).encode()
    return struct.pack("<Q", len(head)) + head + data[8 + n :]


def change_weights(rng, file):
    "Another set of tensors; a word for it."
    weights = load_file(file)
    k = rng.choice(sorted(weights))
    kind = rng.choice(("less", "more", "renamed", "reshaped", "a row less", "whole numbers"))
    x = weights.pop(k)
    if kind == "more":
        weights |= {k: x, "more": x.clone()}
    if kind == "renamed":
        weights["other." + k] = x
    if kind == "reshaped":
        weights[k] = x[None].contiguous()
    if kind == "a row less":
        weights[k] = x[1:].contiguous()
    if kind == "whole numbers":
        weights[k] = x.to(torch.int32)
    save_file(weights, file, metadata={"format": "pt"})
    return kind


def change_vocabulary(rng, file):
    "Another vocabulary; a word for it."
    d = json.loads(file.read_text())
    vocab = d["model"]["vocab"]
    a, b, c = rng.sample(sorted(vocab), 3)
    kind = rng.choice(("far", "same", "less", "swapped"))
    if kind == "far":
        vocab[a] = rng.choice((10**9, 2**32 - 1))
    elif kind == "same":
        vocab[b] = vocab[c] = vocab[a]
    elif kind == "less":
        del vocab[a]
    else:
        vocab[a], vocab[b] = vocab[b], vocab[a]
    file.write_text(json.dumps(d))
    return f"vocabulary {kind}"


def mutate(rng, path):
    "Change one thing in a folder; a word for it."
    file = rng.choice(sorted(path.iterdir()))
    data, kind = bytearray(file.read_bytes()), rng.randrange(10)
    if kind == 0:
        file.unlink()
        return f"no {file.name}"
    if kind == 1:
        file.write_bytes(data[: rng.randrange(len(data))])
        return f"cut {file.name}"
    if kind == 2:
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        return f"bits of {file.name}"
    if kind == 3:
        whole = rng.choice((b"[]", b"null", b"\xff\xfe{}", b"", b"[" * 100_000, b"7", b"{}"))
        file.write_bytes(whole)
        return f"{whole[:5]} in {file.name}"
    if kind == 4:
        return change_weights(rng, path / "model.safetensors")
    if kind == 5:
        file = path / "model.safetensors"
        file.write_bytes(change_header(rng, file.read_bytes()))
        return "head of weights"
    if kind == 6 and (path / "tokenizer.json").exists():
        return change_vocabulary(rng, path / "tokenizer.json")
    file = rng.choice(sorted(path.glob("*.json")))
    before, text = file.read_text(), ""
    while not text or json.loads(text) == json.loads(before):
        text = edit_json(rng, before)
    file.write_text(text)
    return f"values of {file.name}"


def facts(model):
    "All that a model says it is: its weights, its settings, its words."
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    if isinstance(model, RLModel):
        return weights, model.settings.to_json()
    settings = {k: getattr(model.settings, k) for k in model.settings.__dataclass_fields__}
    return weights, dict(serializer=model.serializer.to_json(), settings=settings)


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def says(d, got):
    "Whether what was read is what the file says, where it says anything."
    if isinstance(d, dict) and isinstance(got, dict):
        return all(k in got and says(d[k], got[k]) for k in d)
    if isinstance(d, list) and isinstance(got, (list, tuple)):
        return len(d) == len(got) and all(map(says, d, got))
    return d == got


def behavior(model):
    "What a model of the room does in two streams, and how it cuts text."
    env, agent = room().make_env(np.array([0, 1])), make_agent(model, [0, 1])
    played = rollout(env, agent, 2, seeds=[0, 1]).columns
    text = {} if isinstance(model, RLModel) else model.tokenizer.get_vocab()
    return {k: np.asarray(played[k]).tolist() for k in ("action", "logprob")}, text


@functools.cache
def expected(family):
    model = load_model(folders() / family, "cpu")
    return *facts(model), behavior(model)


def use(path, family, what):
    "Load and act; whether what came is what was saved or, of an old folder, what its files say."
    weights, told, done = expected(family)
    model = load_model(path, "cpu")
    found, got = facts(model)
    if ", old" not in what:
        return same_weights(weights, found) and got == told and behavior(model) == done
    if "bits" in what or "head" in what:
        return True  # there is no telling
    text = json.loads((path / OWN[family]).read_text())
    return same_weights(weights, found) and says({k: v for k, v in text.items() if k in got}, got)


def one(seed, work):
    "Outcome of one variant, and what was changed."
    rng = random.Random(seed)
    family, checked = rng.choice(sorted(OWN)), rng.random() < 0.5
    shutil.rmtree(work, ignore_errors=True)
    path = work / "m"
    shutil.copytree(folders() / family, path)
    if not checked:
        own = path / OWN[family]
        d = json.loads(own.read_text())
        own.write_text(json.dumps({k: v for k, v in d.items() if k not in ("files", "checksum")}))
    what = f"{family}{'' if checked else ', old'}: {mutate(rng, path)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "right" if use(path, family, what) else "silent", what
    except UserError as e:
        return "refused" if len(str(e).splitlines()) == 1 else "traceback", what
    except Exception as e:
        traceback.print_exc(limit=-4)
        return "traceback", f"{what} ({e!r:.200})"


if __name__ == "__main__":
    main(one, __doc__)
