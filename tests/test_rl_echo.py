"""RL Format's echo (bind=grade): a finished episode is read once more, its actions with the grade of what it earned."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ad_distill import Windows, distill, evaluate, generate, load_model, make_source, make_task
from ad_distill.cli.main import main
from ad_distill.data.dataset import Strided, collate, dataset_for
from ad_distill.evaluation.play import Watched
from ad_distill.models.rl import RLConfig, RLModel
from ad_distill.models.rl_agent import RLAgent
from ad_distill.registry import UserError
from ad_distill.tasks.core import rollout

FEW = dict(max_steps=6, per_device_train_batch_size=4, logging_steps=2)
SMALL = dict(width=32, layers=2, heads=2)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    "The story task word by word, with a few histories and a model that was trained for a moment."
    path, task = tmp_path_factory.mktemp("echo"), make_task("story_rlhf")
    store = generate(task, make_source("thompson_words"), path / "store", 6, 12)
    windows = Windows(6, Strided(1))
    run = distill(task, store, path / "model", windows, {**SMALL, "bind": "grade"}, FEW, progress=False)
    model = load_model(path / "model")
    for layer in (model.action_head.layer, model.grade_in):
        torch.nn.init.normal_(layer.weight, std=1.0, generator=torch.Generator().manual_seed(1))
    return task, store, windows, model, run


def test_it_learns_and_is_kept(story):
    _, store, windows, model, run = story
    assert model.settings.bind == "grade" and model.settings.grades == (0.2, 0.4, 0.6, 0.8)
    assert model.settings.context == 2 * 6 * store.episode_lengths.max()
    batch = collate(dataset_for(model, store, windows, 4).__getitems__(range(4)))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer, losses = torch.optim.AdamW(model.parameters(), 3e-3), []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(model(**batch)["loss_action"].item())
        model(**batch)["loss"].backward()
        optimizer.step()
    assert model.grade_in.weight.grad.abs().sum() > 0 and losses[-1] < losses[0] - 0.1
    model.load_state_dict(before)


def test_echoes_have_no_loss(story):
    "The loss is the mean over the transitions, and over nothing else."
    _, store, windows, model, _ = story
    batch = collate(dataset_for(model, store, windows, 4).__getitems__(range(4)))
    mask = batch.pop("mask")
    with torch.no_grad():
        h = model.hidden(**batch)
        assert h.shape[:2] == mask.shape and not mask.all()  # windows of unequal length
        found = model.action_head.log_prob(model.action_head(h), batch["action"])
        loss = model(**batch, mask=mask)["loss_action"]
    torch.testing.assert_close(loss, -found[mask].mean())


@pytest.mark.parametrize("context", [500, 37])
def test_acting_is_reading_the_window(story, context):
    "Streams whose episodes end at different times, and a context that slides."
    task, _, _, model, _ = story
    changed = RLModel(RLConfig.from_json({**json.loads(json.dumps(model.settings.to_json())), "context": context}))
    changed.load_state_dict(model.state_dict())
    agent = RLAgent(changed.eval(), range(5))
    played = rollout(task.make_env(task.instances("held_out")[:5]), agent, 5, seeds=range(5))
    assert played.done.sum(0).min() >= 5 and len({*map(tuple, played.done.T.tolist())}) > 1
    names = ("state", "action", "reward", "logprob")
    columns = {k: torch.as_tensor(played.columns[k]).transpose(0, 1) for k in names}
    columns |= {k: columns[k].float() for k in ("reward", "logprob")}
    with torch.no_grad():
        h = changed.hidden(**columns, done=torch.as_tensor(played.done).T)
        found = changed.action_head.log_prob(changed.action_head(h), columns["action"])
    torch.testing.assert_close(found, columns["logprob"], atol=1e-3, rtol=1e-3)


def echoed(model, task, feedback):
    "Rewards of a one-step task, and the grades of the echoes that a model read of them: (t, b) each."
    seen, echo = [], model.embed_echo
    model.embed_echo = lambda state, action, grade: (seen.append(grade[:, 0]), echo(state, action, grade))[1]
    agent = Watched(RLAgent(model, range(4)), feedback, np.random.default_rng(0))
    played = rollout(task.make_env(task.instances("held_out")[:4]), agent, 9, seeds=range(4))
    return played.columns["reward"], torch.stack(seen).numpy()


def test_grades_are_of_the_rewards_that_are_told(story):
    task = make_task("bandit")
    torch.manual_seed(0)
    model = RLModel(RLConfig(task.spaces, **SMALL, context=30, bind="grade")).eval()
    reward, grade = echoed(model, task, "true")
    assert 0 < reward.mean() < 1 and (grade == 4 * reward).all()
    assert not echoed(model, task, "zeroed")[1].any()
    reward, grade = echoed(model, task, "inverted")
    assert (grade == 4 * (1 - reward)).all()
    task, _, _, model, _ = story
    assert len(evaluate(model, task, 3, instances=task.instances("held_out")[:4], seed=0)) == 12


def test_without_it_a_model_is_what_it_was(story):
    "The same settings on disk as before there was `bind`, the same weights; a file of before is read."
    _, store, *_ = story
    torch.manual_seed(0)
    model = RLModel(RLConfig(store.spaces, **SMALL))
    written = model.settings.to_json()
    assert {"bind", "grades"}.isdisjoint(written) and not any("grade" in k for k in model.state_dict())
    assert RLConfig.from_json(json.loads(json.dumps(written))) == model.settings
    torch.manual_seed(0)
    bound = RLModel(RLConfig(store.spaces, **SMALL, bind="grade")).state_dict()
    for k, v in model.state_dict().items():
        assert torch.equal(v, bound[k])


def test_the_command_and_fitted_grades(tmp_path):
    "Returns that leave [0, 1] part into grades of their own."
    run = CliRunner()
    made = "generate bandit_gaussian --source thompson --histories 4 --episodes 20 -q --out".split()
    assert run.invoke(main, [*made, str(tmp_path / "store")]).exit_code == 0
    train = f"train {tmp_path}/store --model rl -s bind grade --stride 1 -s episodes 8 -s max_steps 2 -q --out".split()
    result = run.invoke(main, [*train, str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    settings = load_model(tmp_path / "model").settings
    assert settings.bind == "grade" and len(settings.grades) == 4 and settings.grades != (0.2, 0.4, 0.6, 0.8)


def test_what_does_not_go_together(story):
    spaces = story[1].spaces
    for wrong in (dict(bind="tag"), dict(bind="grade", inputs=("state", "action")), dict(grades=(0.5,))):
        with pytest.raises(UserError, match="bind|inputs"):
            RLConfig(spaces, **wrong)
