"Both formats in one experiment: the same histories, one option."

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import NBS, run
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Text
from test_serialize_laws import draw_episode

from ad_distill.models.lm import LMModel, LMSettings, small_lm
from ad_distill.models.lm_agent import LMAgent
from ad_distill.models.lm_context import Context
from ad_distill.language.serializer import FIELDS, make_serializer
from ad_distill.language.tokenizers import build_tokenizer
from ad_distill.language.tokens import CUTS, TokenStream
from ad_distill.trajectory import Spaces, Trajectory

SPACES = {
    "text": Spaces(Text(60, min_length=0), Text(60, min_length=0)),
    "box": Spaces(Box(-1, 1, (2,), np.float32), Box(-1, 1, (2,), np.float32)),
    "grid": Spaces(MultiDiscrete([9, 9]), Discrete(12)),
    "many": Spaces(Discrete(3), MultiDiscrete([3, 4])),
}


def writer(kind, name="plain", **settings):
    "An untrained model: its text is nonsense."
    torch.manual_seed(0)
    serializer, rng = make_serializer(name, SPACES[kind]), np.random.default_rng(0)
    tokenizer = build_tokenizer(serializer, [draw_episode(rng, SPACES[kind]) for _ in range(50)])
    return LMModel(
        small_lm(tokenizer, width=32, max_tokens=4096),
        serializer,
        tokenizer,
        LMSettings(**{"episodes": 4, "max_action_tokens": 12, "max_tokens": 4096, **settings}),
    ).eval()


def talk(agent, kind, streams, n=10):
    "What some streams do in `n` steps of an environment whose prompts and ends depend on a stream's number only."
    out, rngs = [], [np.random.default_rng([7, i]) for i in streams]
    for _ in range(n):
        one = [draw_episode(r, SPACES[kind], 1) for r in rngs]
        while any(not len(e) for e in one):
            one = [e if len(e) else draw_episode(r, SPACES[kind], 1) for e, r in zip(one, rngs)]
        state = (
            np.array([*(e.state[0] for e in one), None], object)[:-1]
            if kind == "text"
            else np.stack([e.state[0] for e in one])
        )
        reward, done = np.array([float(r.random() < 0.3) for r in rngs]), np.array([r.random() < 0.5 for r in rngs])
        action, logprob = agent.act(state)
        agent.observe(state, action, reward, done, ~done & False, state)
        out.append((state, action, logprob, reward, done, agent.failed, agent.reward_right))
    return [np.stack(x) for x in zip(*out)]


@pytest.mark.parametrize("sort", [False, True])
def test_a_model_that_was_not_taught_rewards_is_not_asked_for_them(sort):
    streams = [3, 5]
    without, taught = (
        talk(LMAgent(writer("grid", field_weights={"reward": w}, sort=sort), streams), "grid", streams)
        for w in (0.0, 1.0)
    )
    assert np.isnan(without[-1]).all() and not np.isnan(taught[-1]).all()
    assert np.array_equal(without[1], taught[1])
    assert np.allclose(without[2], taught[2], rtol=0, atol=1e-4)  # read in other pieces: the last digits may differ


@pytest.mark.parametrize(
    "kind, name",
    [
        ("text", "plain"),
        ("text", "coords words=the"),
        ("box", "plain"),
        ("box", "bins bins=15"),
        ("grid", "compact"),
        ("grid", "plain"),
        ("many", "json"),
    ],
)
@pytest.mark.parametrize("cut", CUTS)
def test_a_stream_writes_the_same_alone_in_company_and_however_the_cache_lies(kind, name, cut, monkeypatch):
    streams = [3, 5, 8]
    model = writer(kind, name, slide=2, cut=cut)
    together = talk(LMAgent(model, streams), kind, streams)
    for i, s in enumerate(streams):
        alone = talk(LMAgent(model, [s]), kind, [s])
        for a, b in zip(alone, together):
            if a.dtype.kind == "f":
                assert np.allclose(a[:, 0], b[:, i], atol=1e-3, equal_nan=True)
            else:
                assert (a[:, 0] == b[:, i]).all()
    monkeypatch.setattr(Context, "loose", -(10**6))  # squeezed before every reading
    for a, b in zip(talk(LMAgent(model, streams), kind, streams), together):
        assert np.allclose(a, b, atol=1e-3, equal_nan=True) if a.dtype.kind == "f" else (a == b).all()
    assert np.isnan(together[-1][0]).all() and not np.isnan(together[-1][1:]).all()


@pytest.mark.parametrize("name", ["plain", "compact", "json", "bins", "prose", "coords"])
@pytest.mark.parametrize("kind", ["text", "box", "grid"])
@pytest.mark.parametrize("cut", CUTS)
def test_the_context_is_what_training_would_read(kind, name, cut):
    model, n = writer(kind, name, episodes=50, cut=cut), 8
    agent = LMAgent(model, range(3))
    state, action, logprob, reward, done, failed, _ = talk(agent, kind, range(3), n)
    for i in range(3):
        episodes, begin = [], 0
        for t in range(n):
            if not (done[t, i] or t == n - 1):
                continue
            rows = slice(begin, t + 1)
            end = done[rows, i]
            episodes.append(
                Trajectory(
                    state[rows, i], action[rows, i], reward[rows, i], logprob[rows, i], end, ~end & False, SPACES[kind]
                )
            )
            begin = t + 1
        wanted = model.serializer.serialize(episodes, open=True)
        found = model.stream.decode(sum(agent.context.episodes[i], []))
        assert wanted.startswith(found) and len(found) > len(
            model.serializer.serialize(episodes[:-1])
        )  # up to the last action
        ids = sum(agent.context.episodes[i], [])
        assert model.stream.encode(episodes)[0][: len(ids)].tolist() == ids
        assert cut == "lines" or model.tokenizer(found)["input_ids"] == ids
    assert (logprob <= 0).all() and failed.dtype == bool


def test_darkroom_in_both_formats(tmp_path):
    run(
        "papermill",
        NBS / "exp_darkroom.ipynb",
        "both.ipynb",
        "--no-progress-bar",
        "-p",
        "scale",
        "smoke",
        "-p",
        "model",
        "both",
        "-p",
        "serializer",
        "coords",
        cwd=tmp_path,
    )
    results = json.loads((tmp_path / "both.json").read_text())["results"]
    assert {"score_iqm", "expert_distillation_score", "lm"} <= results.keys() and "perplexity_action" in results["lm"]
    assert (tmp_path / "both.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "kind, name",
    [
        ("text", "prose bind=echo"),
        ("text", "plain bind=grade"),
        ("grid", "compact bind=grade"),
        ("box", "json bind=tag"),
    ],
)
def test_an_echo_is_written_while_acting_and_has_no_loss(kind, name):
    model, streams = writer(kind, name), range(3)
    agent = LMAgent(model, streams)
    talk(agent, kind, streams)
    texts = [[model.stream.decode(ids) for ids in episodes] for episodes in agent.context.episodes]
    assert "again" in "".join(map("".join, texts)).lower()
    for episodes in texts:
        for text in episodes[:-1]:
            assert model.serializer.serialize(model.serializer.parse(text)) == text
    assert model.field_weight.tolist() == [float(f != "echo") for f in FIELDS]
    context = agent.context
    with torch.inference_mode():
        context.write([[1]] * 3)
        cached = context.read()[:, -1]
        context.forget()
        assert torch.allclose(cached, context.read()[:, -1], atol=1e-4)


@pytest.mark.parametrize("kind, name", [("grid", "compact"), ("many", "compact"), ("text", "compact")])
def test_a_word_and_its_grade_are_one_token(kind, name):
    serializer, rng = make_serializer(f"{name} bind=grade", SPACES[kind]), np.random.default_rng(0)
    words = np.array(["She missed a bird", "He saw a dog", ""], object)

    def episode():
        e = draw_episode(rng, SPACES[kind])
        return replace(e, action=rng.choice(words, len(e))) if kind == "text" else e

    tokenizer = build_tokenizer(serializer, [episode() for _ in range(50)], words=True)
    stream = TokenStream(serializer, tokenizer)
    e = next(e for e in iter(episode, None) if len(e) > 2)
    e = replace(e, reward=np.linspace(0.1, 1, len(e), dtype="f4"))
    ids, field = stream.encode(e)[:2]
    echoed = [i for i, f in zip(ids, field) if f == FIELDS.index("echo")]
    expected = [w for a in serializer.action_texts(e.action) for w in a.split()]
    written = [stream.decode([i]).strip() for i in echoed]
    assert [w[:-2] for w in written if w] == expected and expected
