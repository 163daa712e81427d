"Validation and test are parts of what is held out, in every task; no two splits have a function in common."

import numpy as np
import pytest
from ad_distill import UserError, make_task
from ad_distill.rlhf.stories.grammar import story_completions, story_prompts

NAMES = ("bandit", "dark_room", "dark_key_to_door", "story_rlhf", "review_rlhf")


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_held_out(name):
    task = make_task(name)
    held_out, validation, test = (set(task.instances(s).tolist()) for s in ("held_out", "validation", "test"))
    assert validation and test and not validation & test and validation | test <= held_out
    assert np.array_equal(make_task(name).instances("test"), task.instances("test"))
    if name != "story_rlhf":
        assert validation | test == held_out


@pytest.mark.parametrize("params", [{}, {"split_seed": 1}, {"family_seed": 3, "n_functions": 200}])
def test_stories_of_different_splits_differ(params):
    task, rng = make_task("story_rlhf", **params), np.random.default_rng(1)
    paid = task.rewards.table(story_completions(story_prompts(1500, rng), rng))  # other stories than the split's own
    correlation = np.corrcoef(paid)
    splits = [task.instances(s) for s in ("train", "validation", "test")]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert correlation[np.ix_(splits[a], splits[b])].max() < 0.995
    if not params:
        assert [len(s) for s in splits] == [512, 52, 58]
        assert not set(splits[2]) & set(task.instances("held_out")[:60])


def test_too_few_for_a_test_split():
    with pytest.raises(UserError, match="none is left for split 'test'"):
        make_task("text_rlhf").instances("test")
