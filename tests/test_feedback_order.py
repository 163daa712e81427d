"What an agent reads of rewards and what its context is in the order of are two switches, and each moves nothing else."

import numpy as np
import pytest
from ad_distill import UserError
from ad_distill.evaluation.play import FEEDBACK, ORDERS, Watched
from ad_distill.models.lm_agent import LMAgent
from test_8_language import writer

REWARDS = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.4], [0.1, 0.9], [0.7, 0.3]])  # of five episodes in two streams


def context(feedback="true", order="told", **settings):
    "The numbers of the episodes in each context, in its order, and all that is written there."
    agent = LMAgent(writer("grid", sort=True, episodes=9, **settings), range(2))
    watched = Watched(agent, feedback, np.random.default_rng(1), order)
    done = np.ones(2, bool)
    for t, reward in enumerate([*REWARDS, np.zeros(2)]):
        state = np.full((2, 2), t)
        action, _ = watched.act(state)
        watched.observe(state, action, reward, done, ~done, state)
    texts = [[agent.model.stream.decode(e) for e in stream[:-1]] for stream in agent.context.episodes]
    return [[int("".join(c for c in text if c.isdigit())[0]) for text in stream] for stream in texts], texts


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_the_order_does_not_depend_on_what_is_told(feedback):
    by_reward = [np.argsort(REWARDS[:, i], kind="stable").tolist() for i in range(2)]
    assert context(feedback, "true")[0] == by_reward
    assert context(feedback, "time")[0] == [[0, 1, 2, 3, 4]] * 2


def test_as_told_it_does():
    assert context("true")[0] == context("true", "true")[0]
    assert context("zeroed")[0] == context("zeroed", "time")[0]
    assert context("inverted")[0] == [order[::-1] for order in context("true")[0]]
    assert context("true", "random")[0] not in (context("true")[0], context("true", "time")[0])


@pytest.mark.parametrize("order", ORDERS)
def test_digits_follow_what_is_told_only(order):
    def rewards(feedback):
        return sorted(text.split("reward: ")[1].split()[0] for text in context(feedback, order)[1][0])

    assert rewards("true") == ["0.1", "0.2", "0.5", "0.7", "0.9"] and set(rewards("zeroed")) == {"0"}
    assert rewards("inverted") == ["0.1", "0.3", "0.5", "0.8", "0.9"]


def test_what_cannot_be_asked():
    unsorted = LMAgent(writer("grid"), range(2))
    with pytest.raises(UserError, match="whose context is sorted"):
        Watched(unsorted, order="true")
    with pytest.raises(UserError, match="unknown order 'tim'"):
        Watched(unsorted, order="tim")
    two_steps, none = Watched(unsorted, "inverted"), np.zeros(2, bool)
    with pytest.raises(UserError, match="episodes of one step"):
        two_steps.observe(None, None, np.zeros(2), none, none, None)
