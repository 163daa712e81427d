"""RLHF as data: rollouts in both forms, text tasks, reward functions, RLOO, and the histories that are recorded."""

import re, time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings, strategies as st

from ad_distill.data.store import Store, StoreWriter
from ad_distill.registry import TASKS, UserError
from ad_distill.rlhf.rewards import checked_reward, make_reward
from ad_distill.rlhf.rollouts import (
    episode_tokens,
    is_token_form,
    save_tokenizer,
    text_history,
    text_store,
    token_episode,
    token_spaces,
    token_store,
)
from ad_distill.rlhf.stories.grammar import (
    EOS,
    KINDS,
    MAX_TOKENS,
    PAD,
    SLOTS,
    VALENCE,
    VOCABULARY,
    completion_ids,
    compound,
    is_story,
    prompt_ids,
    story_completions,
    story_prompts,
    story_text,
)
from ad_distill.rlhf.stories.model import (
    StoryAgent,
    sample_stacked,
    stack,
    story_model,
    story_model_path,
    token_logprobs,
    train_story_model,
)
from ad_distill.rlhf.stories.recorded import EMBEDDED, story_histories
from ad_distill.rlhf.stories.rloo import LANES, RLOO
from ad_distill.rlhf.stories.task import story_tokenizer
from ad_distill.rlhf.tasks import STORY_PROMPTS, read_prompts
from ad_distill.sources.core import generate, make_source
from ad_distill.tasks.core import make_task, rollout, stream_seeds
from ad_distill.trajectory import History

TASK = make_task("story_rlhf")
ABOUT = dict(task={"name": "toy", "params": {}, "instance": 0}, source={"name": "toy", "params": {}}, seed=0)


@pytest.fixture(scope="module")
def stories():
    rng = np.random.default_rng(0)
    prompts = story_prompts(2000, rng)
    return prompts, story_completions(prompts, rng)


@pytest.fixture(scope="module")
def runs():
    "Eight whole runs, one on each training function."
    return RLOO().learn(TASK, TASK.instances("train")[:LANES], np.arange(LANES), 0, 768)


# rollouts in both forms


@st.composite
def rollouts(draw):
    vocab, room = draw(st.integers(1, 400)), draw(st.integers(1, 6))
    ids = lambda least, most: st.lists(st.integers(0, vocab - 1), min_size=least, max_size=most)
    n = len(completion := draw(ids(1, 9)))
    score = draw(st.one_of(st.just(np.nan), st.floats(-100, 100, width=32)))
    logprobs = draw(st.one_of(st.none(), st.lists(st.floats(-50, 0, width=32), min_size=n, max_size=n)))
    return token_spaces(vocab, room), draw(ids(0, room)), completion, score, logprobs, draw(st.booleans())


@settings(max_examples=300, deadline=None)
@given(rollouts())
def test_tokens_come_back(rollout):
    spaces, prompt, completion, score, logprobs, truncated = rollout
    assert is_token_form(spaces)
    e = token_episode(prompt, completion, score, spaces, logprobs, truncated=truncated)
    p, c, s, lp = episode_tokens(e)
    assert p.tolist() == prompt and c.tolist() == completion
    assert np.array_equal([s], [np.float32(score)], equal_nan=True)
    expected = np.full(len(completion), np.nan) if logprobs is None else np.float32(logprobs)
    assert np.array_equal(lp, expected, equal_nan=True)
    assert e.terminated[-1] == (not truncated) and e.truncated[-1] == truncated and not e.done[:-1].any()
    assert e.state[0, -1] == spaces.action.n and e.state[1:, -1].tolist() == completion[:-1]


def test_rewards_of_tokens_add_up():
    e = token_episode([1], [2, 3], 5.0, token_spaces(9, 2), rewards=[-0.5, 1.5])
    assert e.reward.tolist() == [-0.5, 1.5] and episode_tokens(e)[2] == 1.0


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda s: token_episode([0] * 5, [1], 0, s), "room for 3"),
        (lambda s: token_episode([0], [], 0, s), "without any token"),
        (lambda s: token_episode([0], [1, 2], 0, s, logprobs=[-1]), "logprobs: 1 came for a completion of 2 tokens"),
        (lambda s: token_episode([0], [7], 0, s), "outside"),
        (lambda s: token_spaces(0, 1), "vocab_size must be at least 1"),
        (lambda s: text_history(TEXTS, story_tokenizer()), "not in token form"),
    ],
)
def test_bad_rollouts_are_refused(wrong, message):
    with pytest.raises(UserError, match=re.escape(message)):
        wrong(token_spaces(5, 3))


TEXTS = History(
    dict(
        state=["Dan ran to the park.", "Ann ran to the park."],
        action=["He lost a dog.", "She"],
        reward=[1.0, 0.5],
        logprob=[-1.0, -2.0],
        terminated=[True, False],
        truncated=[False, True],
    ),
    [1, 1],
    TASK.view("language").spaces,
    **ABOUT,
    versions={},
)


def test_text_of_runs_is_what_the_tokenizer_says(runs):
    tokenizer, h = story_tokenizer(), runs[0]
    text = text_history(h, tokenizer)
    for i in (0, 5, 100, 500, 767):
        p, c, score, lp = episode_tokens(h[i])
        assert text.columns["state"][i] == tokenizer.decode(p) == story_text(p)
        assert text.columns["action"][i] == tokenizer.decode(c, skip_special_tokens=True) == story_text(c)
        assert text.columns["reward"][i] == np.float32(score)
        assert text.columns["logprob"][i] == pytest.approx(lp.astype(float).sum(), abs=1e-4)
    assert (text.lengths == 1).all() and text.spaces == TASK.view("language").spaces
    assert (text.task, text.source, text.seed, text.versions) == (h.task, h.source, h.seed, h.versions)


def test_text_store_follows_the_token_store_and_back(tmp_path, runs):
    info = {"task": {"name": "story_rlhf", "params": TASK.params}}
    with StoreWriter(tmp_path / "s", TASK.spaces, info) as w:
        w.put(0, runs[0])
    first = text_store(Store.open(tmp_path / "s"))
    file = tmp_path / "s/text/transitions.arrow"
    made = file.stat().st_mtime_ns
    assert len(text_store(Store.open(tmp_path / "s"))) == 1 and file.stat().st_mtime_ns == made
    with StoreWriter(tmp_path / "s", TASK.spaces, info) as w:
        w.put(1, runs[1])
    both = text_store(Store.open(tmp_path / "s"))
    assert len(both) == 2 and both[0] == first[0] and both.info["task"] == info["task"]
    assert not list((tmp_path / "s").glob("*.tmp"))
    assert text_store(both) is both
    back = token_store(both, story_tokenizer(), tmp_path / "back")
    for a, b in zip(runs[:2], back, strict=True):
        whole = a.columns["action"].tolist() == b.columns["action"].tolist()  # <unk> and the like are not written
        assert whole or not is_story(_words(a)).all()
        if not whole:
            continue
        for k in ("state", "reward", "terminated", "truncated"):
            assert np.array_equal(a.columns[k], b.columns[k])


def test_text_without_end_token_and_truncation(tmp_path):
    with StoreWriter(tmp_path / "t", TEXTS.spaces, {}) as w:
        w.put(0, TEXTS)
    h = token_store(Store.open(tmp_path / "t"), story_tokenizer(), tmp_path / "k")[0]
    assert h.lengths.tolist() == [6, 1] and h.columns["action"][5] == EOS
    assert h.columns["truncated"].tolist() == [False] * 6 + [True]
    assert np.isnan(h.columns["logprob"][:6]).all() and h.columns["logprob"][6] == -2
    with pytest.raises(UserError, match="holds no text"):
        token_store(Store.open(tmp_path / "k"), story_tokenizer(), tmp_path / "x")


def test_text_of_a_large_store_takes_seconds(tmp_path, runs):
    with StoreWriter(tmp_path / "s", TASK.spaces, {}) as w:
        for i in range(50):
            w.put(i, runs[i % LANES])
    save_tokenizer(story_tokenizer(), tmp_path / "s")
    t = time.process_time()
    text_store(Store.open(tmp_path / "s"))
    assert time.process_time() - t < 10, "38,400 rollouts"


# the grammar and its reward functions


def _words(h):
    words = np.full((len(h), MAX_TOKENS), PAD)
    words[np.arange(MAX_TOKENS) < h.lengths[:, None]] = h.columns["action"]
    return words


def test_gate_is_the_grammar(stories):
    slot = {s: "|".join(w for g in groups.values() for w in g) for s, groups in SLOTS.items()}

    def endings(*groups):
        return "|".join(w for g in groups for w in SLOTS["ending"][g])

    ending = f" and ({endings('joy', 'grief')})| ({endings('time', 'place')})"
    what = f"({slot['verb']}) a( ({slot['adjective']}))? ({slot['noun']})"
    sentence = re.compile(rf"(He|She)( ({slot['adverb']}))? {what}({ending})?\.")
    rng, (_, words) = np.random.default_rng(1), stories
    assert is_story(words).all()
    mutated = words.copy()
    change = rng.random(mutated.shape) < 0.08
    mutated[change] = rng.integers(3, len(VOCABULARY), change.sum())
    texts = [story_text(w) for w in mutated]

    def matches(words):
        end = list(words).index(EOS) if EOS in words else -1
        return end > 0 and (words[:end] > 2).all() and sentence.fullmatch(story_text(words[:end])) is not None

    whole = [matches(w) for w in mutated]
    assert is_story(mutated).tolist() == whole and 100 < sum(whole) < 1900, texts[:3]


def test_valences_are_vaders(stories):
    vader = pytest.importorskip("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer()
    assert VALENCE == {w: vader.lexicon[w.lower()] for w in VOCABULARY if w.lower() in vader.lexicon}
    texts = [story_text(c) for c in stories[1]]
    ours = [float(compound(np.array(sum(VALENCE.get(w, 0.0) for w in re.findall(r"\w+", t))))) for t in texts]
    assert ours == [vader.polarity_scores(t)["compound"] for t in texts]
    assert make_reward("vader")([""] * 9, texts[:9]).tolist() == ours[:9]


def test_rewards_lie_within_what_the_bounds_say(stories):
    rewards, (_, words) = TASK.rewards, stories
    for i in range(0, 640, 7):
        r = rewards(np.full(len(words), i), words)
        mean, best = rewards.bounds[i]
        assert 0 <= r.min() and r.max() <= best <= 1 and np.array_equal(np.round(r, 2), r) and r.std() > 0.02
        rounding = 0.006  # hundredths are rounded once, and half a hundredth may go either way
        assert abs(r.mean() - mean) < 5 * r.std() / len(r) ** 0.5 + rounding
    mean, best = rewards.bounds.T
    assert 0.15 < mean.min() and mean.max() < 0.45 and 0.25 < mean.mean() < 0.4
    assert best[np.isin(rewards.kinds, (4, 5))].min() == 1
    best_of_pure = [
        "He happily loved a lovely dog and smiled.",
        "She sadly hated a nasty dog and wept.",
        "He made a hat.",
        "He softly made a red hat and wept.",
    ]
    assert rewards(np.arange(4), completion_ids(best_of_pure)).tolist() == [1] * 4
    assert (rewards(np.arange(640), np.repeat(completion_ids(["He made hat."]), 640, 0)) == 0).all()


def test_split_holds_out_a_fifth_of_every_kind():
    for seed in range(5):
        task = make_task("story_rlhf", split_seed=seed)
        train, held = task.instances("train"), task.instances("held_out")
        assert len(held) == 128 and not set(train) & set(held) and (0 in held or seed)
        kinds = task.rewards.kinds
        for k in range(len(KINDS)):
            assert abs((kinds[held] == k).sum() - (kinds == k).sum() / 5) <= 1.5
    told = [str(TASK.describe(i)) for i in range(640)]
    assert len(set(told)) > 600, "functions are combinations; hardly any comes twice"


# environments


def test_both_looks_pay_the_same():
    ids, seeds = TASK.instances("train")[:6], range(6)
    tokens, texts = TASK.make_env(ids), TASK.view("language").make_env(ids)
    seen, told = tokens.reset(seed=list(seeds))[0], texts.reset(seed=list(seeds))[0]
    assert told.tolist() == [story_text(p) for p in seen[:, :-1]]
    words = story_completions(seen[:, :-1], np.random.default_rng(0))
    paid = np.zeros(6)
    for t in range(MAX_TOKENS):
        live = (words[:, :t] != EOS).all(1)
        _, reward, terminated, truncated, _ = tokens.step(words[:, t])
        paid[live] += reward[live]
        if t + 1 == MAX_TOKENS or (words[:, : t + 1] == EOS).any(1).all():
            break
    assert paid.tolist() == texts.step([story_text(w) for w in words])[1].tolist()


def test_held_out_functions_come_with_other_prompts():
    look = TASK.view("language")

    def prompts(split, seed):
        return look.make_env(TASK.instances(split)[:20]).reset(seed=seed)[0].tolist()

    seen = {s: {p for k in range(40) for p in prompts(s, k * 20)} for s in ("train", "held_out")}
    assert len(seen["train"]) > 300 and len(seen["held_out"]) > 100 and not seen["train"] & seen["held_out"]
    assert seen["train"] | seen["held_out"] <= set(STORY_PROMPTS)


@pytest.mark.parametrize("format", ["rl", "language"])
def test_streams_do_not_depend_on_the_batch(format):
    look, ids = TASK.view(format), TASK.instances("held_out")[:3]

    def play(at):
        return rollout(look.make_env(ids[at]), StoryAgent(stream_seeds(0, at, 1)), 12, stream_seeds(0, at, 0))

    all_, one = play(np.arange(3)), play(np.array([2]))
    n = one.done.shape[0]
    for k in ("state", "action"):
        assert (all_.columns[k][:n, 2] == one.columns[k][:, 0]).all()
    assert all_.returns[2].tolist() == one.returns[0].tolist()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("id", ["TextRLHF-v0", "Story-v0", "StoryTokens-v0"])
def test_gymnasium_accepts(id):
    check_env(gym.make(f"ad_distill/{id}").unwrapped, skip_render_check=True)


@pytest.mark.parametrize("name", ["story_rlhf", "text_rlhf"])
def test_views_keep_the_task(name):
    task = make_task(name, split_seed=3)
    for format in ("rl", "language"):
        look = task.view(format)
        assert (look.name, look.params, look.view("rl").params) == (name, task.params, task.params)
    with pytest.raises(UserError, match="unknown format"):
        task.view("txt")
    assert TASKS[name] is type(task)


def test_data_set_switches_by_one_argument(tmp_path, runs):
    from ad_distill.data.dataset import Strided, Windows
    from ad_distill.data.tokens import sample
    from ad_distill.language.tokenizers import build_tokenizer
    from ad_distill.language.serializer import make_serializer

    info = {"task": {"name": "story_rlhf", "params": TASK.params}}
    with StoreWriter(tmp_path / "s", TASK.spaces, info) as w:
        w.put(0, runs[0])
    store, windows = Store.open(tmp_path / "s"), Windows(4, Strided(10))
    numbers = TASK.dataset(store, windows=windows, n=3)[0]
    assert numbers["state"].shape[1] == 7
    text = text_store(store)
    plain = make_serializer("plain", text.spaces)
    tokenizer = build_tokenizer(plain, sample(text))
    tokens = TASK.dataset(store, "language", windows=windows, n=3, serializer=plain, tokenizer=tokenizer)
    assert tokens.text(0).count("prompt:") == 4 and len(tokens[0]["input_ids"]) > 20


# any prompts, any reward


def test_prompts_and_rewards_of_ones_own(tmp_path):
    (tmp_path / "p.txt").write_text("One.\n\nTwo.\nThree.\n")
    task = make_task("text_rlhf", prompts=str(tmp_path / "p.txt"))
    assert sorted(task._texts) == ["One.", "Three.", "Two."]
    env = task.make_env(np.array([0, 1, 0]))
    assert len(env.reset(seed=[0, 1, 2])[0]) == 3 and env.step(["a b"] * 3)[1].tolist() == [0.1] * 3
    (tmp_path / "d").mkdir()
    (tmp_path / "d/data.jsonl").write_text('{"text": "Good morning."}\n{"text": "Good night."}\n')
    assert read_prompts(f"{tmp_path}/d:text") == ["Good morning.", "Good night."]
    with pytest.raises(UserError, match="unknown column 'txt'.*did you mean text"):
        read_prompts(f"{tmp_path}/d:txt")
    assert TASKS["text_rlhf"](prompts=["a", "b"]).params == make_task("text_rlhf", prompts='["a", "b"]').params


@pytest.mark.parametrize(
    "params, message",
    [
        (dict(prompts="nowhere.txt"), "no file 'nowhere.txt'"),
        (dict(prompts="[]"), "holds no prompt"),
        (dict(prompts="[1]"), "1 is no text"),
        (dict(reward="vadr"), "did you mean vader?"),
        (dict(reward="classifier:/nowhere"), "no text classifier at '/nowhere'"),
    ],
)
def test_mistakes_are_one_line(params, message):
    with pytest.raises(UserError, match=re.escape(message)) as e:
        task = make_task("text_rlhf", **params)
        task.make_env(task.instances("train"))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "f, message",
    [
        (
            lambda p, c: [1 / (len(x) - 3) for x in c],
            "raised ZeroDivisionError: division by zero (prompt 'B.', completion 'two')",
        ),
        (lambda p, c: [1.0], "gave values of shape (1,) for 2 completions"),
        (lambda p, c: None, "for 2 completions"),
        (lambda p, c: ["x", "y"], "expected 2 numbers"),
        (lambda p, c: [0.0, float("nan")], "gave nan for prompt 'B.', completion 'two'"),
    ],
)
def test_reward_functions_that_fail_name_the_prompt(f, message):
    with pytest.raises(UserError, match=re.escape(message)):
        checked_reward(f, "mine")(["A.", "B."], ["four", "two"])


def test_classifier_is_a_reward(tmp_path):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_embd=8,
        n_layer=1,
        n_head=1,
        n_positions=32,
        num_labels=2,
        pad_token_id=PAD,
        bos_token_id=EOS,
        eos_token_id=EOS,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
    )
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    story_tokenizer().save_pretrained(tmp_path)
    reward = make_reward(f"classifier:{tmp_path}")
    r = reward(["", ""], ["He lost a dog.", "She found a happy cat."])
    assert ((0 < r) & (r < 1)).all()


def test_a_classifier_without_its_head_is_none(tmp_path):
    "transformers would draw a random one, with a warning."
    story_model().save_pretrained(tmp_path)
    story_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no text classifier at .* lack score.weight"):
        make_reward(f"classifier:{tmp_path}")


# the story model and RLOO


def test_story_model_is_the_same_every_time():
    a, b = (train_story_model(5, progress=False).state_dict() for _ in range(2))
    assert all((a[k] == b[k]).all() for k in a)
    assert (story_model_path() / "tokenizer.json").exists()
    from transformers import AutoModelForCausalLM

    kept, ours = AutoModelForCausalLM.from_pretrained(story_model_path()).state_dict(), story_model().state_dict()
    assert all((kept[k] == ours[k]).all() for k in kept)
    assert sum(v.numel() for v in story_model().parameters()) <= 200_000


def test_logprobs_are_those_of_the_acting_policy(runs):
    "Of the first update, before which nothing was learnt: by Hugging Face, without cache."
    import torch

    for i in range(16):
        p, c, _, lp = episode_tokens(runs[3][i])
        with torch.no_grad():
            logits = story_model()(torch.from_numpy(np.r_[p, c])[None]).logits[0, len(p) - 1 : -1]
        assert lp == pytest.approx(logits.log_softmax(-1)[range(len(c)), c].numpy(), abs=1e-4)


def test_samples_follow_the_probabilities():
    import torch

    p, n = stack(story_model()), 4000
    prompts = torch.from_numpy(prompt_ids(["Dan went to the park."] * n))[None]
    uniform = np.random.default_rng(0).random((1, n, MAX_TOKENS), np.float32)
    words = sample_stacked(p, prompts, torch.from_numpy(uniform))
    with torch.no_grad():
        lp = token_logprobs(p, prompts, words)[0]
    second = words[0, :, 1]
    for token in second.unique():
        assert abs((second == token).float().mean() - lp[second == token][0, 1].exp()) < 0.02


def test_runs_improve_and_settle(runs):
    first, last = (np.mean([h.returns[s].mean() for h in runs]) for s in (slice(0, 192), slice(-192, None)))
    assert last > 0.85 and last - first > 0.3
    assert np.mean([is_story(_words(h[-192:])).mean() for h in runs]) > 0.95
    logprobs = np.stack([np.add.reduceat(h.columns["logprob"], h.starts) for h in runs])  # of completions, in nats
    assert logprobs[:, :64].mean() < -12 and logprobs[:, -64:].mean() > -8
    for h in runs:
        assert h.columns["logprob"].max() <= 0 and (h.columns["terminated"] | h.columns["truncated"]).sum() == 768
        assert h.returns == pytest.approx(TASK.rewards(np.full(768, h.task["instance"]), _words(h)), abs=1e-6)


def test_a_run_is_the_same_alone_after_a_break_and_in_workers(tmp_path):
    short = lambda path, n, **kw: generate(TASK, make_source("rloo"), tmp_path / path, n, 16, **kw)
    whole, _ = short("a", 11), short("b", 4)
    parts, spread = short("b", 11), short("c", 11, workers=2)
    for other in (parts, spread):
        for file in ("transitions.arrow", "index.jsonl"):
            assert (Path(other.path) / file).read_bytes() == (Path(whole.path) / file).read_bytes()


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: make_source("rloo").check(make_task("text_rlhf")), "task 'text_rlhf' came"),
        (lambda: make_source("rloo").check(TASK.view("language")), "view('rl')"),
        (lambda: make_source("rloo", rollouts=1), "at least 2"),
        (lambda: make_source("rloo", lr=0.0), "lr must be positive"),
        (lambda: make_task("story_rlhf", n_functions=3), "at least 10"),
    ],
)
def test_rloo_says_what_it_cannot_do(wrong, message):
    with pytest.raises(UserError, match=re.escape(message)):
        wrong()


# the histories that come with the library


@pytest.mark.skipif(not EMBEDDED.exists(), reason="not recorded yet")
def test_recorded_histories(tmp_path):
    assert EMBEDDED.stat().st_size < 4.3e6
    t = time.process_time()
    store, held = (story_histories(tmp_path / s, s) for s in ("train", "held_out"))
    assert time.process_time() - t < 30
    assert len(store) >= 500 and len(held) >= 60
    TASK.check_store(store)
    for split, s in (("train", store), ("held_out", held)):
        assert {h.task["instance"] for h in s} <= set(TASK.instances(split).tolist())
    for i in (0, 77, 499):
        h = store[i]
        assert h.returns == pytest.approx(TASK.rewards(np.full(len(h), h.task["instance"]), _words(h)), abs=1e-6)
    last = np.mean([h.returns[-192:].mean() for h in store])
    assert last > 0.9
