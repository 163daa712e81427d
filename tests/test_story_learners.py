"Learners that choose the words of stories: each history depends on its own number only, and they rank as they should."

import numpy as np
import pytest
from ad_distill import UserError, make_source, make_task
from ad_distill.rlhf.rollouts import text_history
from ad_distill.rlhf.stories.choices import best_choices, choice_ids
from ad_distill.rlhf.stories.grammar import StoryRewards, is_story

TASK = make_task("story_rlhf")
NAMES = (
    "explore_then_copy",
    "epsilon_copy",
    "hill_climber",
    "recombination",
    "thompson_words",
    "thompson_functions",
    "noise_words",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_history_depends_on_its_own_number_only(name):
    source, ids = make_source(name), TASK.instances("train")[:4]
    together = source.learn(TASK, ids, np.arange(4), 7, 45)
    alone = source.learn(TASK, ids[2:3], np.array([2]), 7, 45)[0]
    texts = source.learn(TASK.view("language"), ids, np.arange(4), 7, 45)
    assert np.array_equal(together[2].columns["action"], alone.columns["action"])
    for tokens, text in zip(together, texts):
        same = text_history(tokens, TASK.tokenizer())
        assert list(same.columns["action"]) == list(text.columns["action"])
        assert list(same.columns["state"]) == list(text.columns["state"])
        assert np.allclose(same.returns, text.returns) and np.isnan(text.columns["logprob"]).all()


@pytest.mark.parametrize("name", NAMES)
def test_rewards_are_those_of_the_environment(name):
    task, ids = TASK.view("language"), TASK.instances("held_out")[:5]
    histories = make_source(name).learn(task, ids, np.arange(5), 0, 6)
    env = task.make_env(ids)
    env.reset(seed=0)
    for t in range(6):
        _, reward, *_ = env.step([h.columns["action"][t] for h in histories])
        assert np.allclose(reward, [h.columns["reward"][t] for h in histories])


@pytest.mark.parametrize("name", NAMES)
def test_one_rollout(name):
    assert make_source(name).learn(TASK, TASK.instances("train")[:2], np.arange(2), 0, 1)[0].returns.shape == (1,)


def test_best_choices_reach_the_exact_bound():
    for rewards in (StoryRewards(), StoryRewards(100, 5)):
        ids = np.arange(rewards.n)
        stories = choice_ids(best_choices(rewards, ids), np.zeros((rewards.n, 6), int))
        assert is_story(stories).all() and np.allclose(rewards(ids, stories), rewards.bounds[:, 1])


def test_fast_learners_beat_copying():
    ids = TASK.instances("validation")
    last = {n: make_source(n).run(TASK, ids, np.arange(len(ids)), 48).rewards[:, 36:].mean() for n in NAMES}
    assert last["thompson_words"] > 0.92 > last["explore_then_copy"] > TASK.random_return(ids).mean() + 0.3


def test_other_tasks_and_settings_are_refused():
    with pytest.raises(UserError, match="chooses words of stories"):
        make_source("hill_climber").check(make_task("bandit"))
    with pytest.raises(UserError, match="noise must be positive"):
        make_source("thompson_words", noise=0.0)


@pytest.mark.parametrize(
    "name, bad",
    [
        ("explore_then_copy", {"explore": 0}),
        ("epsilon_copy", {"start": 1.5}),
        ("epsilon_copy", {"over": -1}),
        ("hill_climber", {"explore": 0}),
        ("recombination", {"top": 0}),
        ("recombination", {"mutate": float("nan")}),
        ("noise_words", {"power": -1.0}),
        ("thompson_functions", {"noise": -1.0}),
    ],
)
def test_impossible_settings(name, bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        make_source(name, **bad)
