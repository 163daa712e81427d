"""Windows with a question at their end (DPT), and histories that are met more often: from a command to the loss."""

import json

import numpy as np
import pytest
import torch

from ad_distill import Store, Windows, generate, load_model, make_source, make_task
from ad_distill.cli.main import main
from ad_distill.data.dataset import Queried, Strided, collate, dataset_for, windows_of
from ad_distill.registry import UserError


def typed(*args):
    main([str(a) for a in args], standalone_mode=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("queried") / "bandit"
    return generate(make_task("bandit"), make_source("ucb"), path, 12, 30)


@pytest.mark.parametrize("family", ["rl", "lm"])
def test_only_one_episode_is_learnt(family, store, tmp_path):
    few = ["--episodes", 5, "--steps", 2, "--batch", 2, "--quiet", "--no-probe"]
    typed("train", store.path, "--model", family, *few, "-s", "query", "true", "-s", "weigh", "true", "--out", tmp_path)
    saved = json.loads((tmp_path / "settings.json").read_text())["windows"]
    windows = windows_of(**saved)
    assert windows == Windows(5, Queried(0.1), weigh=True) and saved["query"] and saved["weigh"]
    model = load_model(tmp_path, "cpu").train()
    batch = collate(dataset_for(model, store, windows, 4).__getitems__([0, 1, 2, 3]))
    loss = model(**batch)["loss_action"]
    if family == "rl":
        at = batch["learnt"].int().argmax(1)
        assert (batch["learnt"].sum(1) == 1).all(), "an episode of a bandit is one action"
        h = model.hidden(**{k: v for k, v in batch.items() if k not in ("mask", "learnt")})
        expected = -model.action_head.log_prob(model.action_head(h), batch["action"])[torch.arange(4), at].mean()
    else:
        learnt = batch["labels"] != -100
        assert 0 < learnt.sum() < batch["attention_mask"].sum() / 2
        whole = dict(batch, labels=torch.where(batch["attention_mask"] > 0, batch["input_ids"], -100))
        assert abs(model(**whole)["loss_action"] - loss) > 1e-6, "what is read only has no loss"
        logits = model.lm(input_ids=batch["input_ids"]).logits[:, :-1]
        of_action = (batch["field"][:, 1:] == model.fields.index("action")) & learnt[:, 1:]
        expected = torch.nn.functional.cross_entropy(logits[of_action], batch["input_ids"][:, 1:][of_action])
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-5)


def test_histories_that_improve_are_met_more_often():
    windows = Windows(4, Strided(2), weigh=True)
    returns = [np.linspace(0, 1, 30) if h < 3 else np.zeros(30) for h in range(12)]
    history, _ = windows.lay(np.full(12, 30), 4000, 0, lambda h: returns[h])
    assert np.bincount(history, minlength=12)[:3].sum() > 0.75 * 4000  # three of twelve
    assert len(set(history.tolist())) == 12, "none is left out"


@pytest.mark.parametrize("flat", [{"scatter": True}, {"sort": True}, {"jump": 0.5}])
def test_two_answers_to_one_question(flat):
    with pytest.raises(UserError, match="query and .* both say where the episodes of a window come from"):
        windows_of(query=True, **flat)


def test_a_store_of_short_histories_is_refused(store):
    with pytest.raises(UserError, match="31 episodes"):
        dataset_for(None, Store.open(store.path), Windows(31, Queried()), 1)
