"""Conversations through a store: what a log says comes back, as rollouts, as windows and as text."""

import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent / "campaigns"))
from conversations import Held  # noqa: E402

from ad_distill import UserError, import_log
from ad_distill.cli.main import main
from ad_distill.data.hub import export_dataset, from_dataset
from ad_distill.data.store import Store
from ad_distill.language.serializer import make_serializer
from ad_distill.registry import SERIALIZERS
from ad_distill.data.kept import kept_file
from ad_distill.rlhf.conversations import stored_rollouts, turn_rewards, turn_texts
from ad_distill.rlhf.rollouts import Message, Rollout, conversation_text

EXAMPLES = int(os.environ.get("AD_DISTILL_EXAMPLES", "2000")) // 100
laws = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
SAID = ["", " ", "\n", "é", "🙂", "\u2028", "\x00", "user: hi", "\nassistant: no", "<|im_end|>", '"}', "It rains. " * 9]
ROLES = ["system", "user", "assistant", "tool", "développeur", ""]

texts = st.one_of(st.sampled_from(SAID), st.text(max_size=40))
extras = st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), texts, st.lists(texts, max_size=2)))
halves = st.floats(-8, 8).map(lambda x: round(2 * x) / 2)  # sums of these are exact
messages = st.builds(
    Message,
    role=st.sampled_from(ROLES),
    content=texts,
    name=st.sampled_from(["", "", "Ada", "sky"]),
    reasoning=st.sampled_from(["", "", "Hm.\n"]),
    tool_calls=st.sampled_from([[], [], [{"name": "add", "arguments": {"a": 2}}]]),
    by_model=st.booleans(),
    reward=st.one_of(st.just(math.nan), halves),
    more=st.one_of(st.just({}), extras),
)


@st.composite
def rollouts(draw, tokens=False):
    said = draw(st.one_of(st.none(), st.lists(messages, min_size=1, max_size=6)))
    n = next((i for i, m in enumerate(said or ()) if m.by_model), None)
    told = n is not None and draw(st.booleans())
    r = Rollout(conversation_text(said[:n]), conversation_text(said[n:])) if told else Rollout(draw(texts), draw(texts))
    r.messages, r.more = said, draw(st.one_of(st.none(), extras))
    r.score, r.ended = draw(st.one_of(st.just(math.nan), halves)), draw(st.sampled_from([True, False, None]))
    r.iteration, r.optimizer_step = draw(st.integers(-1, 3)), draw(st.integers(-1, 3))
    if said and draw(st.booleans()):
        r.score = float(np.sum([m.reward for m in said if m.by_model]))
    if tokens:
        n = draw(st.integers(1, 5))
        r.prompt_ids = [draw(st.integers(0, 9))]
        r.completion_ids = draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
        r.mask = draw(st.one_of(st.none(), st.lists(st.booleans(), min_size=n, max_size=n)))
        if draw(st.booleans()):
            r.logprobs = [-0.5 if wrote else math.nan for wrote in r.mask or [True] * n]
            r.logprobs = r.logprobs if any(r.mask or [True]) else None
        if draw(st.booleans()):
            r.prompt = r.completion = None
    return r


def imported(held, folder, **how):
    "A store of these rollouts."
    where = Path(tempfile.mkdtemp(dir=folder))
    (where / "log").write_text("")
    return import_log(Held(tuple(held)), where / "log", where / "store", **how)[0]


def same(a, b):
    "NaN equals NaN, in lists and messages too."
    return all(repr(getattr(a, f.name)) == repr(getattr(b, f.name)) for f in fields(a))


@pytest.mark.parametrize("form", ["text", "turns", "tokens"])
@laws
@given(st.data())
def test_a_rollout_survives_the_store(form, tmp_path_factory, data):
    held = data.draw(st.lists(rollouts(form == "tokens"), min_size=1, max_size=4))
    store = imported(held, tmp_path_factory.getbasetemp(), turns=form == "turns")
    back = list(stored_rollouts(store, 0))
    for a, b in zip(held, back, strict=True):
        assert same(a, b), (a, b)
    first = data.draw(st.integers(0, len(held)))
    assert all(map(same, held[first:], stored_rollouts(store, 0, first)))
    expected = [1 if form == "text" or not turn_texts(r) else len(turn_texts(r)) for r in held]
    if form != "tokens":
        assert store[0].lengths.tolist() == expected
    returns = np.array([r.score for r in held], np.float32)
    assert np.array_equal(store[0].returns, returns, equal_nan=True)


@laws
@given(st.lists(rollouts(), min_size=1, max_size=4))
def test_turns_are_the_transitions(tmp_path_factory, held):
    store = imported(held, tmp_path_factory.getbasetemp(), turns=True)
    for r, episode in zip(held, store[0], strict=True):
        turns = turn_texts(r) or [(r.prompt, r.completion)]
        assert [*zip(episode.state, episode.action)] == turns
        assert np.array_equal(episode.reward, turn_rewards(r) if len(turns) > 1 else [r.score], equal_nan=True)


@pytest.mark.parametrize("name", SERIALIZERS)
@pytest.mark.parametrize("turns", [False, True], ids=["rollout", "turn"])
@settings(laws, max_examples=max(1, EXAMPLES // 5))
@given(st.lists(rollouts(), min_size=2, max_size=5))
def test_windows_and_text_give_the_conversation_back(name, turns, tmp_path_factory, held):
    "Rollout -> store -> window -> text -> the same transitions, and with what is kept beside, the same rollout."
    store = imported(held, tmp_path_factory.getbasetemp(), turns=turns)
    order = "state action reward"
    try:
        serializer = make_serializer(name, store.spaces, order=order, digits=None)
    except UserError:
        serializer = make_serializer(name, store.spaces, order=order, rewards=(-64, 64), bins=257)  # halves are bins
    window = store[0][1:]
    text = serializer.serialize(window)
    for a, b in zip(window, serializer.parse(text), strict=True):
        assert [*a.state] == [*b.state] and [*a.action] == [*b.action]
        assert np.array_equal(a.reward, b.reward, equal_nan=True)
    assert all(map(same, held[1:], stored_rollouts(store, 0, 1)))


def talk(i, words=6, rng=random.Random(0)):
    "A conversation with two turns; its words are not worth compressing."

    def said():
        return "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(words))

    asked, answer = Message("user", "Will it rain?"), Message("tool", said(), name="sky")
    turns = [Message("assistant", said(), by_model=True, reward=x) for x in (0.25, 0.5)]
    held = [asked, turns[0], answer, turns[1]]
    prompt, completion = conversation_text(held[:1]), conversation_text(held[1:])
    return Rollout(prompt, completion, score=0.75, messages=held, more={"id": i})


@pytest.mark.parametrize("turns", [False, True], ids=["rollout", "turn"])
def test_a_store_is_at_most_twice_what_is_said(turns, tmp_path):
    held = [talk(i, 200) for i in range(300)]
    store = imported(held, tmp_path, turns=turns)
    said = sum(len(x.encode()) for r in held for x in (r.prompt, r.completion, json.dumps(r.more)))
    size = sum(p.stat().st_size for p in store.path.rglob("*") if p.is_file() and p.name != "prompts.txt")
    assert said < size < 1.2 * said
    assert kept_file(store.path, 0).stat().st_size < 0.1 * said  # no content is stored twice


def test_a_store_without_it_opens(tmp_path):
    "As stores were before: messages are not known, the rest is."
    store = imported([talk(0), talk(1)], tmp_path)
    kept_file(store.path, 0).unlink()
    (r, _) = stored_rollouts(Store.open(store.path), 0)
    episode = store[0][0]
    assert (r.prompt, r.completion, r.score) == (episode.state[0], episode.action[0], 0.75)
    assert (r.messages, r.more) == (None, None)


def test_it_travels_with_the_store(tmp_path):
    held = [talk(i) for i in range(5)]
    store = imported(held, tmp_path, turns=True)
    export_dataset(store, tmp_path / "table")
    back = from_dataset(tmp_path / "table", tmp_path / "back")
    assert back[0] == store[0] and all(map(same, held, stored_rollouts(back, 0)))


def test_damage_is_one_line(tmp_path):
    store = imported([talk(i) for i in range(50)], tmp_path)
    file = kept_file(store.path, 0)
    good = file.read_bytes()
    usual = [repr(r) for r in stored_rollouts(store, 0)]
    rng = random.Random(0)
    refused = 0
    for _ in range(200):
        at = rng.randrange(len(good))
        file.write_bytes(
            rng.choice((good[:at], good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :]))
        )
        try:
            assert [repr(r) for r in stored_rollouts(store, 0)] == usual
        except UserError as e:
            refused += 1
            assert "\n" not in str(e) and str(file) in str(e)
    assert refused > 100
    other = imported([talk(0)], tmp_path)
    file.write_bytes(kept_file(other.path, 0).read_bytes())
    with pytest.raises(UserError, match="holds 1 rollouts, and its history 50"):
        next(stored_rollouts(store, 0))


def test_on_the_command_line(tmp_path):
    log = Path(__file__).parent / "data/logs/roll_agentic"
    run = CliRunner().invoke(main, ["import", "roll", str(log), "--turns", "--out", str(tmp_path / "a"), "-q"])
    assert run.exit_code == 0, run.output
    store = Store.open(tmp_path / "a")
    assert store.info["turns"] and store[0][0].state.tolist()[1:] == ["user: It rains."]
    shown = CliRunner().invoke(main, ["show", str(tmp_path / "a")]).output
    assert "roles         user, assistant (learns) (of the first rollout)" in shown
    shown = CliRunner().invoke(main, ["show", str(tmp_path / "a"), "--history", "-1"]).output
    assert re.search(r"assistant \(learns\) +\"It slept.\" +0.6\n", shown), shown
    shown = CliRunner().invoke(main, ["show", str(tmp_path / "a"), "--history", "0", "--json"]).output
    told = json.loads(shown)["episodes"][0]["messages"]
    assert [(m["role"], m["by_model"], m["reward"]) for m in told][1:3] == [
        ("assistant", True, 0),
        ("user", False, None),
    ]
    for how in (["--tokenizer", "x"], ["--reward", "length"]):
        run = CliRunner().invoke(main, ["import", "roll", str(log), "--turns", *how, "--out", str(tmp_path / "b")])
        assert run.exit_code and "turns: " in run.output and "Traceback" not in run.output


LOGS = Path(__file__).parent / "data/trlx_logs"
MARKED = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|endoftext|>\n{% endfor %}"


def test_tokens_are_those_of_the_chat_template(tmp_path):
    "Where a log has messages only; what a template leaves out is written as role: content."
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(LOGS / "tokenizer")
    tokenizer.chat_template = MARKED + "{% if add_generation_prompt %}[assistant]{% endif %}"
    thought = Message("assistant", "Yes.", by_model=True, reasoning="Hm.")
    held = []
    for ended, last in ((True, talk(0).messages[1]), (False, talk(1).messages[1]), (True, thought)):
        said = [Message("user", "Will it rain?"), last]
        held.append(Rollout("Will it rain?", conversation_text([last]), score=1.0, ended=ended, messages=said))
    store = imported(held, tmp_path, tokenizer=tokenizer)
    first, second, third = stored_rollouts(store, 0)
    for r in (first, second):
        assert tokenizer.decode(r.prompt_ids) == r.prompt == "[user]Will it rain?<|endoftext|>\n[assistant]"
        assert r.completion == r.messages[-1].content
    assert first.completion_ids[-1] == tokenizer.eos_token_id != second.completion_ids[-1]
    assert third.prompt == "Will it rain?" and "Hm." in third.completion


def test_a_mask_says_which_tokens_are_the_models(tmp_path):
    "Where the chat template tells, or the messages as they stand in the completion."
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(LOGS / "tokenizer")
    log = Path(__file__).parent / "data/logs/roll_agentic"
    store, summary = import_log("roll", log, tmp_path / "plain", tokenizer=tokenizer)
    (r,) = stored_rollouts(store, 0)
    told, rest = ([x for x, y in zip(r.completion_ids, r.mask, strict=True) if y == wrote] for wrote in (True, False))
    assert tokenizer.decode(told) == "assistant: A fox ran home.It slept.<|endoftext|>"
    assert tokenizer.decode(rest) == "\nuser: It rains.\nassistant: "
    tokenizer.chat_template = MARKED + "{% if add_generation_prompt %}[assistant]{% endif %}"
    store, summary = import_log("roll", log, tmp_path / "marked", tokenizer=tokenizer)
    (r,) = stored_rollouts(store, 0)
    told = [x for x, wrote in zip(r.completion_ids, r.mask, strict=True) if wrote]
    rest = [x for x, wrote in zip(r.completion_ids, r.mask, strict=True) if not wrote]
    assert tokenizer.decode(told) == "A fox ran home.<|endoftext|>It slept.<|endoftext|>"
    assert tokenizer.decode(rest) == "\n[user]It rains.<|endoftext|>\n[assistant]"
    assert not any("is not known" in line for line in summary["notes"] if "which tokens" in line)
    assert any("as the chat template" in line for line in store.info["caveats"])


def test_where_nothing_tells_the_store_says_so(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(LOGS / "tokenizer")
    r = talk(0)
    r.completion = "laid out in a way that leaves out what was said"
    store = imported([r], tmp_path, tokenizer=tokenizer)
    assert any("which tokens of a conversation are the model's is not known" in x for x in store.info["caveats"])
    shown = CliRunner().invoke(main, ["show", str(store.path)]).output
    assert "which tokens of a conversation are the model's" in " ".join(shown.split())


def test_half_a_character_in_a_turn_is_one_line(tmp_path):
    "It stands in a message, and not in the texts beside."
    said = [
        Message("user", "Hi"),
        Message("assistant", "\ud800", by_model=True),
        Message("assistant", "a", by_model=True),
    ]
    held = [Rollout("p", "c", score=1.0, messages=said)]
    with pytest.raises(UserError, match="rollout 0: a message of it has half a character") as e:
        imported(held, tmp_path, turns=True)
    assert "\n" not in str(e.value)
    (r,) = stored_rollouts(imported(held, tmp_path), 0)
    assert same(r, held[0])


def test_campaign():
    "A small part of the campaign that is run by hand."
    command = [sys.executable, Path(__file__).parent / "campaigns/conversations.py", "--seed", "1", "--count", "60"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
