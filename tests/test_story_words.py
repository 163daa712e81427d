"""Stories as words: only what is chosen is written, and what is written is paid as the sentence is."""

import itertools

import numpy as np
import pytest
import torch

from ad_distill import Windows, distill, generate, load_model, make_serializer, make_source, make_task
from ad_distill.data.dataset import Strided, collate, dataset_for
from ad_distill.experiments.stories import story_writer, tokens_of
from ad_distill.language.tokenizers import build_tokenizer
from ad_distill.language.tokens import TokenStream
from ad_distill.registry import UserError
from ad_distill.rlhf.rollouts import text_store
from ad_distill.rlhf.stories.choices import base_choices, choices_text, read_choices
from ad_distill.rlhf.stories.recorded import story_histories

VARIANTS = [{}, {"prompt_map": True}, {"repeats": False}, {"combine": "and"}]


@pytest.mark.parametrize("params", VARIANTS, ids=lambda p: next(iter(p), "default"))
@pytest.mark.parametrize("text", ["sentences", "words"])
def test_both_ways_of_generating_are_one(params, text, tmp_path):
    "Tokens of which text is made, and text at once; the environment pays what was recorded."
    task, source = make_task("story_rlhf", text=text, **params), make_source("thompson_words")
    tokens = generate(task, source, tmp_path / "tokens", 3, 12)
    look = task.view("language")
    texts = generate(look, source, tmp_path / "texts", 3, 12)
    for a, b in zip(text_store(tokens), texts, strict=True):
        assert a.spaces == b.spaces == look.spaces
        for name in ("state", "action", "reward"):
            assert a.columns[name].tolist() == b.columns[name].tolist()
    for history in texts:
        pay = task.payments(np.array([history.task["instance"]]), [0])
        for state, action, reward in zip(*(history.columns[k] for k in ("state", "action", "reward"))):
            paid = pay(look.read_prompts([state]), look.read_stories([action]))
            assert paid[0] == pytest.approx(reward, abs=1e-6)


def test_a_story_that_cannot_be_read_pays_nothing():
    env = make_task("story_rlhf", text="words").view("language").make_env(np.array([2] * 4))
    assert env.reset(seed=[0, 1, 2, 3])[0].tolist() == [""] * 4
    said = ["- bought - kite -", "- - - kite -", "He bought a kite.", "- bought kite - -"]
    assert env.step(said)[1].tolist() == [1, 0, 0, 0]


def test_words_and_choices_determine_each_other():
    choices = base_choices(np.random.default_rng(0).random((300, 5)))
    texts = choices_text(choices)
    again, read = read_choices(texts)
    assert read.all() and (again == choices).all() and len(set(itertools.chain(*(t.split() for t in texts)))) > 60


def test_recorded_runs_as_words(tmp_path):
    "What is no sentence has no verb, and pays nothing; all others pay the same as before."
    words, whole = (story_histories(tmp_path / text, "held_out", text=text) for text in ("words", "sentences"))
    look = make_task("story_rlhf", text="words").view("language")
    written, sentences = text_store(words), text_store(whole)
    assert written.spaces.state.max_length == 0
    for i in (0, 20, 59):
        history = written[i]
        assert history.returns.tolist() == sentences[i].returns.tolist()
        paid = look.rewards(
            np.full(768, history.task["instance"]), look.read_stories(history.columns["action"].tolist())
        )
        assert paid == pytest.approx(history.returns, abs=1e-6)


def test_every_rollout_has_as_many_tokens(tmp_path):
    "A word is a token, with its grade too, and so is a reward: logits are needed at the same places of all windows."
    task = make_task("story_rlhf", text="words").view("language")
    store = generate(task, make_source("thompson_words"), tmp_path / "store", 150, 48)
    writer = story_writer(task)
    assert tokens_of(writer)["words"] and writer.bind == "grade"
    episodes = [store[h][e] for h in range(150) for e in range(0, 48, 2)]
    stream = TokenStream(writer, build_tokenizer(writer, episodes, vocab_size=2048, words=True))
    lengths = stream.encode([store[3][e] for e in range(48)])[2]
    assert set(lengths.tolist()) == {14}
    text = writer.serialize(list(store[3]))
    assert writer.serialize(writer.parse(text)) == text


def test_forms_write_them_and_read_them():
    task = make_task("story_rlhf", text="words", prompt_map=True).view("language")
    assert task.write_prompts(task.prompts[:1])[0].split()[0] in ("He", "She")
    for form in ("plain", "json", "prose", "bins", "coords"):
        assert make_serializer(form, task.spaces).spaces == task.spaces
    with pytest.raises(UserError, match="text of stories"):
        make_task("story_rlhf", text="letters")


def test_logits_are_computed_only_where_something_is_learnt(tmp_path):
    "The loss and its gradient are those of all logits; what is not learnt is not looked at while training."
    task = make_task("story_rlhf", text="words").view("language")
    store = generate(task, make_source("thompson_words"), tmp_path / "store", 6, 8)
    writer = make_serializer("compact skip_zero=false decimals=1 bind=grade", task.spaces)
    shape = dict(width=16, layers=2, heads=2, words=True, vocab_size=2048)
    shape["field_weights"] = dict(state=0.0, markup=0.0, logprob=0.0)
    distill(task, store, tmp_path / "model", Windows(8, Strided(1)), shape, dict(max_steps=1), serializer=writer,
            probe=False, progress=False)  # fmt: skip
    model = load_model(tmp_path / "model").train()
    batch = collate(dataset_for(model, store, Windows(8, Strided(1)), 4).__getitems__(range(4)))
    assert model._chooses
    asked, gradients, losses = [], [], []
    model.lm.register_forward_hook(lambda lm, args, kwargs, out: asked.append(out.logits.shape[1]), with_kwargs=True)
    for chooses in (True, False):
        model._chooses = chooses
        model.zero_grad()
        out = model(**batch)
        out["loss"].backward()
        losses.append(out)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert asked[0] < 0.6 * asked[1] and asked[1] == batch["input_ids"].shape[1]
    assert torch.allclose(losses[0]["loss"], losses[1]["loss"], atol=1e-6)
    assert torch.allclose(*gradients, atol=1e-6) and gradients[0].abs().max() > 1e-3
    assert torch.isnan(losses[0]["loss_markup"]) and losses[1]["loss_markup"] > 0


def test_a_completion_that_nothing_ends_is_not_learnt(tmp_path):
    "Where the end of a text is a token of its own, it is markup."
    story = make_task("story_rlhf", text="sentences").view("language")
    store = generate(story, make_source("thompson_words"), tmp_path / "runs", 2, 12, seed=0)
    writer = make_serializer("prose", story.spaces)
    asked = dict(windows=Windows(2), serializer=writer, training={"max_steps": 1}, probe=False)
    with pytest.raises(UserError, match="where an action ends"):
        distill(story, store, tmp_path / "model", model={"width": 16, "field_weights": {"markup": 0.0}}, **asked)
