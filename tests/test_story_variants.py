"Stories whose rewards follow the prompt, do not repeat, are drawn, or are products; and other splits of functions."

import hashlib
import itertools
import re
import sys

import numpy as np
import pytest
from ad_distill import UserError, generate, make_source, make_task
from ad_distill.data.store import Store, text_array
from ad_distill.evaluation.story_baselines import STORY_BASELINES, baselines_of, story_baselines
from ad_distill.rlhf.stories.choices import base_choices, best_choices, choice_ids
from ad_distill.rlhf.stories.grammar import (
    ATTRIBUTES,
    BOUND_ROLLOUTS,
    KINDS,
    PAD,
    PRESENT,
    SLOTS,
    StoryRewards,
    completion_ids,
    prompt_ids,
    prompt_values,
    slot_words,
    story_completions,
    story_prompts,
    word_ids,
)
from ad_distill.rlhf.stories.learners import ExploreThenCopy, HillClimber, ThompsonWords
from ad_distill.rlhf.stories.task import Payments
from ad_distill.tasks.core import check_same_task, stream_seeds
from conftest import run

VARIANTS = {
    "default": {},
    "prompt_map": {"prompt_map": True},
    "repeats": {"repeats": False},
    "noise": {"noise": True},
    "and": {"combine": "and"},
    "slots": {"split_by": "slots"},
    "words": {"split_by": "words"},
    "negative": {"split_by": "negative"},
    "all": {"prompt_map": True, "repeats": False, "noise": True, "combine": "and", "split_by": "slots"},
}
ALL = pytest.mark.parametrize("params", VARIANTS.values(), ids=list(VARIANTS))


def stories(n, seed=0):
    rng = np.random.default_rng(seed)
    prompts = story_prompts(n, rng)
    return prompts, story_completions(prompts, rng)


def sha(x):
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:16]


# what was there stays as it was


def test_defaults_are_as_before():
    "Rewards of 200 completions under 640 functions, bounds and splits, by hashes from before there were variants."
    _, completions = stories(200, seed=5)
    completions[::20, 3] = PAD
    task = make_task("story_rlhf")
    paid = np.stack([task.rewards(np.full(200, i), completions) for i in range(640)])
    assert np.array_equal(paid, task.rewards.table(completions))
    assert sha(np.round(paid * 100).astype(np.int16)) == "cc982dd0e0130d97"
    assert sha(np.round(task.rewards.bounds * 1e6).astype(np.int64)) == "66390aa09c3fa20c"
    splits = {"train": "8dbbd879ab329cfe", "held_out": "0877be2578701589", "validation": "bb489434781aa8f3"}
    splits["test"] = "3d78306639ab4dfe"
    assert {s: sha(task.instances(s).astype(np.int64)) for s in splits} == splits


@pytest.mark.parametrize(
    "name, digest",
    [
        ("explore_then_copy", "72aa1b13f3b4b686"),
        ("epsilon_copy", "8d87c8b76694865c"),
        ("hill_climber", "00808b644bf4c308"),
        ("recombination", "4e18b97967098fa0"),
        ("thompson_words", "b8433bea790c429c"),
        ("thompson_functions", "6acb6f916c399ea9"),
        ("noise_words", "a99e56eaf9a05ff2"),
    ],
)
def test_learners_write_what_they_wrote(name, digest):
    task = make_task("story_rlhf")
    histories = make_source(name).learn(task, task.instances("train")[:6], np.arange(6), 3, 48)
    whole = hashlib.sha256()
    for h in histories:
        whole.update(h.columns["action"].astype(np.int64).tobytes())
        whole.update(np.round(h.columns["reward"] * 100).astype(np.int16).tobytes())
    assert whole.hexdigest()[:16] == digest


def test_what_was_stored_before_is_of_the_task():
    old = {"n_functions": 640, "family_seed": 0, "split_seed": 0, "train_share": 0.8}
    check_same_task(make_task("story_rlhf"), {"name": "story_rlhf", "params": old}, "a store")
    assert make_task("story_rlhf").params == old
    mapped = make_task("story_rlhf", prompt_map=True)
    assert mapped.params == {**old, "prompt_map": True} and mapped.view("language").params == mapped.params
    check_same_task(make_task("story_rlhf"), {"name": "story_rlhf", "params": {**old, "repeats": True}}, "a store")
    with pytest.raises(UserError, match="prompt_map=True, asked for False"):
        check_same_task(make_task("story_rlhf"), {"name": "story_rlhf", "params": mapped.params}, "a store")
    with pytest.raises(UserError, match="prompt_map=False, asked for True"):
        check_same_task(make_task("story_rlhf", prompt_map=True), {"name": "story_rlhf", "params": old}, "a store")


# a map from the prompt


def brute(family, i, prompt, completions):
    "Rewards by a walk through `describe`, one completion at a time; of functions of groups or words."
    about = family.describe(i)
    group_of = {w: g for groups in SLOTS.values() for g, words in groups.items() for w in words}
    ids = {int(word_ids([w])[0]): (slot, w) for slot in SLOTS for w in slot_words(slot)}
    said = dict(zip(ATTRIBUTES, prompt))
    out = []
    for row in completions:
        words = dict(ids[int(t)] for t in row if int(t) in ids)
        paid = []
        for slot, pays in about["pays"].items():
            weights = pays[said[pays["by"]]] if "by" in pays else pays
            word = words.get(slot)
            paid.append(weights.get(word if about["kind"] == "words" else group_of.get(word), 0))
        out.append(np.prod(paid) if family.combine == "and" else np.mean(paid))
    return np.array(out)


@pytest.mark.parametrize("combine", ["mean", "and"])
@pytest.mark.parametrize("prompt_map", [False, True])
def test_rewards_against_a_walk_through_the_description(prompt_map, combine):
    family = StoryRewards(100, 3, prompt_map, combine)
    _, completions = stories(300)
    for i in (9, 11, 30, 47) if not prompt_map else (0, 9, 11, 30):
        for values in itertools.islice(itertools.product(*ATTRIBUTES.values()), 0, 80, 13):
            name = {"He": "Tom", "She": "Jane"}[values[0]]
            prompts = np.repeat(prompt_ids([f"{name} {values[1]} to the {values[2]}."]), 300, 0)
            expected = brute(family, i, values, completions)
            assert np.allclose(family(np.full(300, i), completions, prompts), expected, atol=0.0051)


def test_a_map_gives_every_value_a_choice_of_its_own():
    family = StoryRewards(prompt_map=True)
    assert (family.kinds == KINDS.index("groups")).all()
    attributes = [pays["by"] for i in range(640) for pays in family.describe(i)["pays"].values()]
    share = {a: attributes.count(a) / len(attributes) for a in ATTRIBUTES}
    assert share["motion"] > share["place"] + 0.1 < share["who"]
    for i in range(40):
        for slot, pays in family.describe(i)["pays"].items():
            assert set(pays) == {"by", *ATTRIBUTES[pays["by"]]}
            for value in ATTRIBUTES[pays["by"]]:
                assert sorted(pays[value].values()) == [0.5, 0.5, 1] and set(pays[value]) <= set(SLOTS[slot])


def test_a_copy_under_another_prompt_pays_less():
    family, functions = StoryRewards(prompt_map=True), np.arange(640)
    prompts, _ = stories(640)
    others, _ = stories(640, seed=1)
    best = choice_ids(best_choices(family, functions, prompts), prompts)
    assert (family(functions, best, prompts) == 1).all()
    moved = family(functions, best, others)
    assert moved.mean() < 0.75 and (moved < 1).mean() > 0.4
    with pytest.raises(UserError, match="give the prompts"):
        family(functions, best)


@pytest.mark.parametrize("combine", ["mean", "and"])
def test_bounds_are_those_of_any_prompt(combine):
    family = StoryRewards(60, 1, True, combine)
    _, completions = stories(6000)
    for i in (0, 7, 33):
        for text in ("Dan went to the market.", "Lily ran to the library.", "Ann drove to the farm."):
            prompts = np.repeat(prompt_ids([text]), 6000, 0)
            paid = family(np.full(6000, i), completions, prompts)
            assert abs(paid.mean() - family.bounds[i, 0]) < 0.02
            best = choice_ids(best_choices(family, np.array([i]), prompts[:1]), prompts[:1])
            assert family([i], best, prompts[:1])[0] == family.bounds[i, 1] == 1


# products


def every_choice(function_slots):
    "All choices of some slots; the others have their first word."
    sizes = [len(slot_words(slot)) for slot in SLOTS]
    options = [range(size + 1) if slot in function_slots else [1] for slot, size in zip(SLOTS, sizes)]
    options = [[o for o in of if o or slot not in ("verb", "noun")] for slot, of in zip(SLOTS, options)]
    return np.array(list(itertools.product(*options)))


def test_bounds_of_products():
    family, (prompts, completions) = StoryRewards(100, 0, combine="and"), stories(20000)
    slots = family.matters.sum(1)
    assert set(slots[4:]) == {2, 3} and not slots[:4].any()
    for i in (0, 3, 4, 9, 20, 21, 22, 23, 27):
        paid = family(np.full(20000, i), completions)
        assert abs(paid.mean() - family.bounds[i, 0]) < 0.012 and paid.max() <= family.bounds[i, 1]
    for i in (9, 11, 13):  # groups: what the other slots have does not matter
        choices = every_choice(family.describe(i)["pays"])
        paid = family(np.full(len(choices), i), choice_ids(choices, np.repeat(prompts[:1], len(choices), 0)))
        assert paid.max() == family.bounds[i, 1] == 1
    ids = np.arange(100)
    best = choice_ids(best_choices(family, ids), np.repeat(prompts[:1], 100, 0))
    assert np.allclose(family(ids, best), family.bounds[:, 1])


# nothing twice


@pytest.mark.parametrize("params", [{}, {"combine": "and"}, {"prompt_map": True}])
def test_bounds_without_repeats(params):
    task = make_task("story_rlhf", n_functions=100, repeats=False, **params)
    rng = np.random.default_rng(0)
    some = np.array([0, 2, 3, 9, 24])
    functions = np.repeat(some, 300)
    pay = task.payments(functions, np.arange(len(functions)))
    total = np.zeros(len(functions))
    for _ in range(BOUND_ROLLOUTS):
        prompts = story_prompts(len(functions), rng)
        total += pay(prompts, story_completions(prompts, rng))
    got = (total / BOUND_ROLLOUTS).reshape(len(some), -1)
    error = got.std(1) / np.sqrt(got.shape[1])
    assert (np.abs(got.mean(1) - task.random_return(some)) < 4 * error + 1e-3).all()
    assert (task.random_return(some) <= task.rewards.bounds[some, 0] + 1e-12).all()


def test_the_chance_of_a_repetition_is_counted():
    "Short stories come again; on them the exact mean is below that of the functions, by as much as simulated."
    task = make_task("story_rlhf", repeats=False)
    gap = task.rewards.bounds[[2], 0] - task.random_return([2])  # few words pay: the likeliest stories
    p = 0.5 * 0.2 * 0.4 / 400  # of one story of four words, which pays 1
    first = 400 * p * (1 - np.mean((1 - p) ** np.arange(BOUND_ROLLOUTS)))  # what those lose
    assert gap[0] > first > 0


@pytest.mark.parametrize("combine, i", [("mean", 182), ("and", 402)])
def test_bounds_against_all_stories(combine, i):
    "Two million four hundred thousand stories, one by one: their rewards, and how probable each is."
    family = StoryRewards(combine=combine)
    sizes = [len(slot_words(slot)) for slot in SLOTS]
    options = [np.arange(int(PRESENT[slot] == 1), n + 1) for slot, n in zip(SLOTS, sizes)]
    t, mean, first, best = np.arange(BOUND_ROLLOUTS), 0, 0, []
    for adverb in options[0]:
        choices = np.stack(np.meshgrid([adverb], *options[1:], indexing="ij"), -1).reshape(-1, 5)
        paid = family(np.full(len(choices), i), choice_ids(choices, np.zeros((len(choices), 6), int)))
        p = np.prod([np.where(c > 0, PRESENT[s] / n, 1 - PRESENT[s]) for c, s, n in zip(choices.T, SLOTS, sizes)], 0)
        each, of = np.unique(p, return_inverse=True)
        mean += p @ paid
        first += (p * paid) @ ((1 - each[:, None]) ** t).mean(1)[of]
        best = np.sort([*best, *np.sort(paid)[-BOUND_ROLLOUTS:]])[-BOUND_ROLLOUTS:]
    assert np.allclose(family.bounds[i], [mean, best.max()])
    assert np.allclose(family.fresh_bounds([i])[0], [first, best.mean()], atol=1e-9)
    assert first < mean and best.mean() < best.max() - 0.01


def test_no_story_pays_twice():
    said = ["He found a dog.", "She found a dog.", "He found a cat.", "He found a dog.", "He found dog."]
    pay = Payments(StoryRewards(), [2, 2], [0, 1], repeats=False)
    assert pay(None, completion_ids(said), np.array([0, 0, 0, 1, 1])).tolist() == [1, 0, 1, 1, 0]
    assert pay(None, completion_ids(said), np.array([1, 1, 1, 0, 0])).tolist() == [0, 0, 1, 0, 0]


def test_a_reset_with_a_seed_forgets():
    for format in ("rl", "language"):
        env = make_task("story_rlhf", repeats=False).view(format).make_env(np.array([2]))

        def write():
            if format == "language":
                return float(env.step(["He found a dog."])[1][0])
            return float(sum(env.step(np.array([t]))[1][0] for t in completion_ids(["He found a dog."])[0][:6]))

        env.reset(seed=1)
        assert [write(), write()] == [1, 0]
        env.reset()
        assert write() == 0
        env.reset(seed=1)
        assert write() == 1


# noise


def test_noise_is_right_on_average_and_of_its_stream():
    family, (_, completions) = StoryRewards(), stories(12)
    pay = Payments(family, [9], [5], noise=True)
    drawn = np.stack([pay(None, completions, np.zeros(12, int)) for _ in range(3000)])
    assert set(np.unique(drawn)) <= {0, 1}
    assert np.abs(drawn.mean(0) - family(np.full(12, 9), completions)).max() < 0.04
    both = Payments(family, [9, 9], [4, 5], noise=True)
    again = np.stack([both(None, completions, np.repeat([0, 1], 6)) for _ in range(2)])
    alone = Payments(family, [9], [5], noise=True)
    assert np.array_equal(again[:, 6:], [alone(None, completions[6:], np.zeros(6, int)) for _ in range(2)])
    of_seeds = [Payments(family, [9], [s], noise=True)(None, completions, np.zeros(12, int)) for s in range(9)]
    assert len(np.unique(of_seeds, axis=0)) > 3


# splits


def test_what_is_held_out():
    of = {s: make_task("story_rlhf", split_by=s) for s in ("slots", "words", "negative")}
    slots = of["slots"].rewards.matters.sum(1)
    assert (slots[of["slots"].instances("train")] <= 2).all() and (slots[of["slots"].instances("held_out")] == 3).all()
    for s in ("words", "negative"):
        kinds, kind = of[s].rewards.kinds, KINDS.index(s)
        assert (kinds[of[s].instances("train")] != kind).all() and (kinds[of[s].instances("held_out")] == kind).all()


@ALL
def test_validation_and_test_are_unlike_training(params):
    task = make_task("story_rlhf", **params)
    train, validation, test = (task.instances(s) for s in ("train", "validation", "test"))
    prompts, completions = stories(1500, seed=1)
    correlation = np.corrcoef(task.rewards.table(completions, prompts))
    for a, b in ((train, validation), (train, test), (validation, test)):
        assert correlation[np.ix_(a, b)].max() < 0.995
    assert {*validation, *test} <= {*task.instances("held_out")} and not {*validation} & {*test}


@pytest.mark.parametrize(
    "params, message",
    [
        ({"combine": "or"}, "combine"),
        ({"split_by": "kinds"}, "split_by"),
        ({"prompt_map": True, "split_by": "words"}, "all are of one kind"),
        ({"prompt_map": True, "split_by": "negative"}, "all are of one kind"),
        ({"prompt_map": 1}, "expected bool"),
        ({"repeats": "no"}, "expected bool"),
    ],
)
def test_impossible_values(params, message):
    with pytest.raises(UserError, match=message):
        make_task("story_rlhf", **params)


def test_a_family_without_functions_of_three_slots():
    for seed in range(30):
        if not (StoryRewards(10, seed).matters.sum(1) == 3).any():
            break
    with pytest.raises(UserError, match="take more functions"):
        make_task("story_rlhf", n_functions=10, family_seed=seed, split_by="slots").instances("train")


# sources


@ALL
def test_thompson_words_in_both_looks(params, tmp_path):
    task = make_task("story_rlhf", **params)
    source = make_source("thompson_words")
    tokens = generate(task, source, tmp_path / "tokens", 3, 20)
    texts = generate(task.view("language"), source, tmp_path / "texts", 3, 20)
    for a, b in zip(tokens, texts):
        assert np.array_equal(a.returns, b.returns) and a.task["params"] == task.params


@ALL
def test_rloo(params, tmp_path):
    task = make_task("story_rlhf", **params)
    store = generate(task, make_source("rloo"), tmp_path / "s", 2, 32)
    assert len(store) == 2 and all(np.isfinite(h.returns).all() for h in store)
    if task.noise:
        assert {*np.unique(np.concatenate([h.returns for h in store]))} <= {0, 1}


@pytest.mark.parametrize("params", [{}, {"noise": True}, {"combine": "and"}, {"prompt_map": True}])
def test_rloo_learns(params):
    task = make_task("story_rlhf", **params)
    returns = np.stack(
        [h.returns for h in make_source("rloo").learn(task, task.instances("train")[:8], np.arange(8), 0, 384)]
    )
    assert returns[:, -96:].mean() > returns[:, :96].mean() + 0.1


def replayed(env, histories, format):
    "The rewards of the recorded actions, after the recorded prompts, episode by episode: (streams, e)."
    out = [[] for _ in histories]
    starts = [np.cumsum([0, *h.lengths[:-1]]) for h in histories]
    for e in range(len(histories[0].lengths)):
        states = [h.columns["state"][at[e]] for h, at in zip(histories, starts)]
        if format == "language":
            env.now = text_array(states)
            reward = env.step([h.columns["action"][e] for h in histories])[1]
        else:  # the streams have stories of different lengths: one goes on alone, with the others at rest
            reward = [alone(one, s, h, at[e], h.lengths[e]) for one, s, h, at in zip(env, states, histories, starts)]
        for i, r in enumerate(reward):
            out[i].append(r)
    return np.array(out)


def alone(env, state, history, first, length):
    env.state[0] = state
    return sum(env.step(history.columns["action"][k : k + 1])[1][0] for k in range(first, first + length))


@pytest.mark.parametrize("source", ["thompson_words", "explore_then_copy", "rloo"])
@pytest.mark.parametrize("name", ["default", "prompt_map", "repeats", "noise", "and", "all"])
def test_replays_earn_what_was_recorded(name, source):
    task = make_task("story_rlhf", **VARIANTS[name])
    ids, seeds = task.instances("train")[:2], stream_seeds(3, np.arange(2), 0)
    for format in ("rl", "language") if source != "rloo" else ("rl",):
        look = task.view(format)
        histories = make_source(source).learn(look, ids, np.arange(2), 3, 48)
        if format == "language":
            env = look.make_env(ids)
            env.reset(seed=seeds.tolist())
        else:
            env = [look.make_env(ids[k : k + 1]) for k in range(2)]
            for k in range(2):
                env[k].reset(seed=seeds[k : k + 1].tolist())
        recorded = np.stack([h.returns for h in histories])
        assert np.allclose(replayed(env, histories, format), recorded, atol=1e-6)
        assert recorded.any()


def last_and_mean(learner, task, n=80):
    ids = task.instances("train")[:n]
    rewards = learner.run(task, ids, stream_seeds(0, np.arange(len(ids)), 1), 48).rewards
    return rewards[:, 36:].mean(), rewards.mean()


@pytest.mark.parametrize("name, by", [("prompt_map", 0.2), ("repeats", 0.5), ("noise", 0.2), ("and", 0.15)])
def test_thompson_words_beats_copying(name, by):
    task = make_task("story_rlhf", **VARIANTS[name])
    thompson = last_and_mean(ThompsonWords(), task)
    for copier in (ExploreThenCopy(36), ExploreThenCopy(8), STORY_BASELINES["epsilon falls"]):
        last, mean = last_and_mean(copier, task)
        assert thompson[0] > last + by and thompson[1] > mean


def test_learners_that_know_write_nothing_twice():
    task = make_task("story_rlhf", repeats=False)
    ids = task.instances("train")[:20]
    for name in ("thompson_words", "thompson_functions", "noise_words"):
        memory = make_source(name).run(task, ids, np.arange(20), 48)
        assert all(len(np.unique(c, axis=0)) == 48 for c in memory.choices)
    assert memory.rewards[:, -1].mean() > 0.98 * task.best_return(ids).mean()  # the last is without noise
    climbed = HillClimber().run(task, ids, np.arange(20), 48)
    assert any(len(np.unique(c, axis=0)) < 48 for c in climbed.choices)


@pytest.mark.parametrize("name", ["prompt_map", "all"])
def test_the_best_policy_reaches_the_bound(name):
    params = {**VARIANTS[name], "noise": False}
    task = make_task("story_rlhf", **params)
    ids = task.instances("train")[:30]
    memory = make_source("noise_words", power=50.0).run(task, ids, np.arange(30), 48)
    assert (memory.rewards[:, 20:] == task.best_return(ids)[:, None]).all()


def test_prompts_are_read_as_they_are():
    prompts = prompt_ids(["Dan went to the market.", "Sue drove to the lake."])
    from ad_distill.rlhf.stories.grammar import VALUES

    assert [[VALUES[v] for v in row] for row in prompt_values(prompts)] == [
        ["He", "went", "market"],
        ["She", "drove", "lake"],
    ]
    assert base_choices(np.full((1, 5), 0.999)).tolist() == [[0, 20, 0, 20, 0]]


@ALL
def test_baselines(params):
    task = make_task("story_rlhf", **params)
    table = story_baselines(task, n_episodes=6, n_instances=3, streams=1, split="held_out")
    assert table.groupby("agent").size().tolist() == [18] * len(baselines_of(task, 6))
    assert np.isfinite(table["score"]).all()


@pytest.mark.parametrize("name", ["prompt_map", "all"])
def test_trl_is_one_stream(name):
    pytest.importorskip("trl")
    task = make_task("story_rlhf", **{**VARIANTS[name], "noise": False, "repeats": False}).view("language")
    source, ids = make_source("trl_grpo", rollouts=8, group=4), task.instances("train")[:1]
    history = source.learn(task, ids, np.arange(1), 0, 24)[0]
    prompts, completions = (history.columns[k].tolist() for k in ("state", "action"))
    pay = task.payments(ids, [0])
    again = pay(prompt_ids(prompts), completion_ids(completions), np.zeros(len(history), int))
    assert np.allclose(again, history.returns, atol=1e-6)


def test_regret_leaves_noise_out():
    task, calm = make_task("story_rlhf", noise=True), make_task("story_rlhf")
    ids = task.instances("train")[:2]
    for look in ("rl", "language"):
        histories = make_source("explore_then_copy").learn(task.view(look), ids, np.arange(2), 0, 48)
        for h in histories:
            regret = task.regret(h)
            assert (regret >= 0).all() and np.ptp(regret[40:]) == 0 and {*np.unique(h.returns)} == {0, 1}
            assert not np.array_equal(regret, calm.regret(h))


# the command line


def test_parameters_on_the_command_line(tmp_path):
    listed = python_cli("tasks", "story_rlhf", cwd=tmp_path)
    for name in ("prompt_map", "repeats", "noise", "combine", "split_by"):
        assert re.search(rf"^ +{name}=\S+ +\S.{{20,}}$", listed, re.M), name
    given = "-p prompt_map true -p repeats false -p combine and -p split_by slots".split()
    counts = "--histories 2 --episodes 8 --source thompson_words --out s -q".split()
    python_cli("generate", "story_rlhf", *given, *counts, cwd=tmp_path)
    about = Store.open(tmp_path / "s").info["task"]["params"]
    assert (about["prompt_map"], about["repeats"], about["combine"], about["split_by"]) == (True, False, "and", "slots")
    assert "noise" not in about  # its default is left out, as in the stores from before there was noise


def python_cli(*args, cwd):
    return run(sys.executable, "-m", "ad_distill", *args, cwd=cwd).stdout
