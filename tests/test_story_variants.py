"""Tasks of stories in which copying does not pay: prompts that matter, unpaid repeats, noise, products, splits."""

import hashlib
import itertools

import numpy as np
import pytest

from ad_distill import generate, make_source, make_task
from ad_distill.evaluation.story_baselines import story_baselines
from ad_distill.registry import UserError
from ad_distill.rlhf.rollouts import text_store
from ad_distill.rlhf.stories.choices import base_choices, choice_ids, choices_text, read_choices
from ad_distill.rlhf.stories.grammar import StoryRewards, distinct_bounds, story_completions, story_prompts
from ad_distill.rlhf.stories.learners import EpsilonCopy, ExploreThenCopy, ThompsonWords
from ad_distill.tasks.core import rollout, stream_seeds

VARIANTS = {
    "default": {},
    "prompt_map": {"prompt_map": True},
    "repeats": {"repeats": False},
    "noise": {"noise": True},
    "and": {"combine": "and"},
    "all": {"prompt_map": True, "repeats": False, "noise": True, "combine": "and"},
}
variants = pytest.mark.parametrize("params", VARIANTS.values(), ids=VARIANTS)


def some_stories(n, seed=5):
    rng = np.random.default_rng(seed)
    prompts = story_prompts(n, rng)
    return prompts, story_completions(prompts, rng)


def test_rewards_are_those_of_before():
    "A hash of 128,000 rewards, made before there were variants."
    _, stories = some_stories(200)
    stories[::20, 1] = 3  # no sentences
    paid = (StoryRewards().table(stories) * 100).round().astype(np.uint8)
    assert hashlib.sha256(paid.tobytes()).hexdigest()[:16] == "0808f992956b5907"


@pytest.mark.parametrize(
    "params", [{}, {"prompt_map": True}, {"combine": "and"}, {"prompt_map": True, "combine": "and"}]
)
def test_bounds_are_those_of_a_simulation(params):
    rewards, (prompts, stories) = StoryRewards(40, **params), some_stories(20000)
    paid = rewards.table(stories, prompts)
    assert np.abs(paid.mean(1) - rewards.bounds[:, 0]).max() < 0.012
    assert (paid.max(1) <= rewards.bounds[:, 1] + 1e-9).all() and (
        paid.max(1) > 0.8 * rewards.bounds[:, 1]
    ).mean() > 0.9


def test_bounds_without_repeats_are_those_of_a_simulation():
    task = make_task("story_rlhf", repeats=False)
    rng, functions = np.random.default_rng(0), np.array([3, 8, 9, 24])
    total = np.zeros(4)
    for _ in range(400):
        payments = task.payments(functions)
        for _ in range(48):
            prompts = story_prompts(4, rng)
            total += payments(prompts, story_completions(prompts, rng))
    assert np.abs(total / 400 / 48 - task.random_return(functions)).max() < 0.02
    assert (task.random_return(functions) <= task.rewards.bounds[functions, 0]).all()
    learnt = ExploreThenCopy(48).run(task, functions, [1, 2, 3, 4], 48)
    assert (np.sort(learnt.rewards).mean(1) <= task.best_return(functions)).all()
    assert distinct_bounds(task.rewards, 8)[1] <= task.rewards.bounds[8, 1]


def test_what_pays_under_one_prompt_need_not_pay_under_the_next():
    rewards, (prompts, stories) = StoryRewards(60, prompt_map=True), some_stories(3000)
    own, other = rewards.table(stories, prompts), rewards.table(stories, np.roll(prompts, 1, 0))
    good = own >= 0.99
    assert own[good].mean() > 0.99 and other[good].mean() < 0.75
    looked_at = rewards.parts.maps[9]
    assert set(looked_at) and all(set(m) - {"by"} for m in looked_at.values())


def test_a_story_with_another_pronoun_is_the_same_story():
    task = make_task("story_rlhf", repeats=False, text="words").view("language")
    env = task.make_env(np.array([2, 2]))
    env.reset(seed=[0, 1])
    short = "- bought - kite -"
    paid = [env.step([short, text])[1].tolist() for text in (short, "- lost - kite -", short, "- - - kite -")]
    assert paid == [[1, 1], [0, 1], [0, 0], [0, 0]]
    env.reset(seed=[0, 1])
    assert env.step([short, short])[1].tolist() == [1, 1]


def test_noise_is_fair_and_seeded():
    task = make_task("story_rlhf", noise=True)
    prompts, stories = some_stories(1)
    functions = np.full(6000, 8)
    draw = lambda seed: task.payments(functions, stream_seeds(seed, np.arange(6000), 0))(
        prompts.repeat(6000, 0), stories.repeat(6000, 0)
    )
    mean = task.rewards(functions[:1], stories)[0]
    assert set(draw(0)) <= {0, 1} and abs(draw(0).mean() - mean) < 0.03
    assert (draw(0) == draw(0)).all() and (draw(0) != draw(1)).any()


def test_a_product_pays_nothing_for_one_slot_alone():
    rewards, (_, stories) = StoryRewards(60, combine="and"), some_stories(2000)
    parts = rewards.parts
    of_groups = [i for i in range(4, 60) if not parts.shares[i].any()]
    assert {int(parts.slots[i].sum()) for i in of_groups} == {2, 3}
    by_mean = rewards.by_mean().table(stories)[of_groups]
    paid = rewards.table(stories)[of_groups]
    assert (paid <= by_mean + 0.011).all() and (paid[by_mean < 0.3] <= 0.25).all() and (by_mean[paid == 0] > 0.3).any()


@pytest.mark.parametrize("split_by", ["slots", "words", "negative"])
def test_splits_by_structure(split_by):
    task = make_task("story_rlhf", split_by=split_by)
    train, held_out = task.instances("train"), task.instances("held_out")
    kinds, slots = task.rewards.kinds, task.rewards.parts.slots.sum(1)
    assert len(train) + len(held_out) == 640 and not set(train) & set(held_out)
    if split_by == "slots":
        assert (slots[train] < 3).all() and (slots[held_out] == 3).all()
    else:
        kind = {"words": 4, "negative": 1}[split_by]
        assert (kinds[train] != kind).all() and (kinds[held_out] == kind).all()
    for part in ("validation", "test"):
        assert len(task.instances(part)) > 5


@pytest.mark.parametrize(
    "params",
    [{"combine": "or"}, {"split_by": "colour"}, {"text": "letters"}, {"prompt_map": True, "split_by": "words"}],
)
def test_what_cannot_be_is_refused(params):
    with pytest.raises(UserError):
        make_task("story_rlhf", **params)


@variants
@pytest.mark.parametrize("text", ["sentences", "words"])
def test_what_is_recorded_is_what_the_environment_pays(params, text, tmp_path):
    task = make_task("story_rlhf", text=text, **params)
    source = make_source("thompson_words")
    tokens = generate(task, source, tmp_path / "tokens", 3, 12)
    texts = generate(task.view("language"), source, tmp_path / "texts", 3, 12)
    for a, b in zip(text_store(tokens), texts, strict=True):
        for name in ("state", "action", "reward"):
            assert a.columns[name].tolist() == b.columns[name].tolist()
    if task.noise:
        return
    for history in texts:
        payments = task.payments([history.task["instance"]])
        for state, action, reward in zip(*(history.columns[k] for k in ("state", "action", "reward"))):
            prompt = _ids_of(task, state)
            paid = payments(prompt, task.view("language").read_stories([action]))
            assert paid[0] == pytest.approx(reward, abs=1e-6)


def _ids_of(task, state):
    shown = task.view("language").write_prompts(task.prompts)
    return task.prompts[[shown.index(state)]]


@variants
def test_rloo_learns_in_all_of_them(params, tmp_path):
    task = make_task("story_rlhf", text="words", **params)
    store = generate(task, make_source("rloo"), tmp_path, 2, 32)
    assert len(store) == 2 and all(0 <= h.returns.min() and h.returns.max() <= 1 for h in store)
    state = text_store(store)[0].columns["state"][0]
    assert (state == "") == (not task.prompt_map)


@variants
def test_thompson_sampling_beats_copying(params):
    "On functions of training, in the last quarter and in the mean of all."
    task = make_task("story_rlhf", **params)
    ids = task.instances("train")[:80]
    seeds = stream_seeds(0, np.arange(80), 1)
    thompson, *copying = (
        learner.run(task, ids, seeds, 48).rewards
        for learner in (ThompsonWords(), ExploreThenCopy(8), ExploreThenCopy(36), EpsilonCopy(1.0, 40))
    )
    for other in copying:
        assert thompson.mean() > other.mean() and thompson[:, -12:].mean() > other[:, -12:].mean()


def test_thompson_sampling_repeats_nothing_where_repeats_pay_nothing():
    task = make_task("story_rlhf", repeats=False)
    memory = ThompsonWords().run(task, task.instances("train")[:6], range(6), 48)
    for stories in memory.choices:
        assert len({row.tobytes() for row in stories}) == 48


@variants
def test_baselines_play_them(params):
    task = make_task("story_rlhf", **params)
    table = story_baselines(task, 6, 3, 1, split="validation")
    assert table["return"].between(0, 1).all() and table["agent"].nunique() >= 7


def test_words_and_choices_determine_each_other():
    choices = base_choices(np.random.default_rng(0).random((300, 5)))
    again, read = read_choices(choices_text(choices))
    assert read.all() and (again == choices).all()
    assert len(set(itertools.chain(*(t.split() for t in choices_text(choices))))) > 60


def test_environment_of_tokens_pays_the_same(tmp_path):
    task = make_task("story_rlhf", prompt_map=True, repeats=False)
    ids = task.instances("train")[:3]

    class Copies:
        "Writes one story again and again."

        def act(self, state):
            words = choice_ids(np.array([[0, 3, 0, 2, 0]] * 3), state[:, :-1])
            new = state[:, -1] == task.spaces.action.n
            self.at = np.where(new, 0, getattr(self, "at", np.zeros(3, int)) + 1)
            return words[np.arange(3), self.at], np.full(3, np.nan)

        def observe(self, *_):
            pass

    returns = rollout(task.make_env(ids), Copies(), 5, [0, 1, 2]).returns
    assert (returns[:, 1:] == 0).all()
