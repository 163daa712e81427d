"""Review rewards: exact, between 0 and 1, never constant, apart between splits; functions of one's own by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from ad_distill.data.hub import from_dataset
from ad_distill.registry import UserError, trust
from ad_distill.rlhf.reviews import rewards as R
from ad_distill.rlhf.reviews.task import review_task
from ad_distill.rlhf.rollouts import text_store
from ad_distill.tasks.core import make_task, named_task, task_id

PUBLISHED = Path(__file__).parents[1] / "data" / "review_rlhf"
REAL = [  # as a language model goes on
    " so good that I can't stop using it! My wife loves it too.",
    " a very long and boring film, which nobody should have to watch...",
    " the the the the the the",
    "",
    " 3 stars. However, the screen is bright and the battery lasts two days?",
]


@pytest.mark.parametrize("params", [{}, {"family_seed": 1}, {"split_seed": 2, "n_functions": 200}])
def test_functions_of_different_splits_differ(params):
    task = make_task("review_rlhf", **params)
    table = task.rewards.table(*R.base_sentences())
    assert table.min() >= 0 and table.max() <= 1 and table.std(1).min() > 0.02
    correlation, splits = np.corrcoef(table), [task.instances(s) for s in ("train", "validation", "test")]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert correlation[np.ix_(splits[a], splits[b])].max() < 0.99
    share = [np.mean(task.rewards.kinds[s] == 3) for s in (splits[0], np.r_[splits[1], splits[2]])]
    assert abs(share[0] - share[1]) < 0.05  # the same share of each kind


def test_every_part_pays_and_does_not():
    prompts, completions = R.base_sentences()
    for part in R.PARTS.values():
        paid = [part.pays(R.take_apart(p), R.take_apart(c)) for p, c in zip(prompts, completions)]
        assert 0 <= min(paid) < 0.35 and 0.5 <= max(paid) <= 1, part.says
        assert all(0 <= part.pays(R.take_apart(""), R.take_apart(c)) <= 1 for c in REAL)


def test_what_is_no_sentence_pays_nothing():
    task = make_task("review_rlhf")
    paid = task.rewards.table(["The film"] * len(REAL), REAL)
    assert not paid[:, [2, 3]].any() and paid[:, [0, 1, 4]].any(0).all()
    assert np.array_equal(paid, make_task("review_rlhf").rewards.table(["The film"] * len(REAL), REAL))


def test_an_environment_of_one_stream_pays_a_batch():
    env = make_task("review_rlhf").make_env(np.array([7]))
    env.reset(seed=0)
    one = [float(env.reward(["The film"], [c])[0]) for c in REAL]
    assert env.reward(["The film"] * len(REAL), REAL).tolist() == one


def test_held_out_parts_are_never_paid_in_training():
    task = make_task("review_rlhf", split_by="parts")
    of = task.rewards.functions
    seen = {p for i in task.instances("train") for p in of[i].parts}
    assert all(set(of[i].parts) - seen for i in task.instances("held_out"))


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "short_ones.py").write_text(
        "def short(prompts, completions): return [1 / len(c) for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--trust short_ones"):
        make_task("review_rlhf", reward="short_ones:short")
    trust("short_ones")
    task = make_task("review_rlhf", reward="short_ones:short")
    assert named_task({"task": json.loads(json.dumps(task_id(task)))}, "a store").describe(1) == {
        "reward": "short_ones:short"
    }
    env = task.make_env(np.array([0, 1]))
    env.reset(seed=0)
    assert env.step(["ab", "abcd"])[1].tolist() == [0.5, 0.25]
    with pytest.raises(UserError, match="raised ZeroDivisionError"):
        env.step(["", "a"])
    several = review_task(["length", "short_ones:short", "vader"])
    assert several.n_instances == 3 and several.modules(several.params) == ["short_ones"]


@pytest.mark.parametrize(
    "params, message",
    [
        (dict(split_by="part"), "did you mean parts"),
        (dict(n_functions=3), "10 to 5000"),
        (dict(reward="vadr"), "did you mean vader"),
        (dict(reward="nowhere_at_all:f"), "--trust nowhere_at_all"),
    ],
)
def test_mistakes_are_one_line(params, message):
    with pytest.raises(UserError, match=message) as e:
        make_task("review_rlhf", **params)
    assert "\n" not in str(e.value)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="data/review_rlhf is part of the repository, not of the package")
def test_the_published_histories_are_what_their_card_says(tmp_path):
    task, card = make_task("review_rlhf").view("language"), (PUBLISHED / "README.md").read_text(encoding="utf-8")
    assert sum(f.stat().st_size for f in PUBLISHED.rglob("*.parquet")) < 10_000_000
    store = from_dataset(PUBLISHED, tmp_path / "store")
    instances = np.array([h.task["instance"] for h in store])
    assert len(store) == len(set(instances.tolist())) >= 48 and task.is_train(instances).all()
    assert {len(h) for h in store} == {24 * 16} and all(np.isfinite(h.columns["logprob"]).all() for h in store)
    text = text_store(store)
    for history in (text[0], text[20], text[len(store) - 1]):
        instance = history.task["instance"]
        assert ", ".join(task.describe(instance)["pays"]) in card
        texts = (history.columns[k].tolist() for k in ("state", "action"))
        assert np.allclose(task.rewards.table(*texts, [instance])[0], history.returns, atol=1e-6)
