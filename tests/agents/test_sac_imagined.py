"""Recalled steps in the critics' batches, where a seed has some."""

import pytest
import torch
from ppo_helpers import Drift

from recall_traces.agents.replay import PrioritizedConfig, PrioritizedSampling
from recall_traces.agents.sac import SAC, SACConfig, with_imagined
from recall_traces.agents.seams import NoImitation
from recall_traces.data import Transitions
from recall_traces.envs import make
from recall_traces.model import BacktrackingConfig
from recall_traces.recall import RecallConfig, RecallTraces


def steps(number, rows):
    """Two seeds' steps with every number the same."""
    values = torch.full((2, rows), float(number))
    flags = torch.full((2, rows), number > 0)
    return Transitions(
        values[..., None].expand(-1, -1, 2),
        values[..., None].expand(-1, -1, 2),
        values,
        values[..., None].expand(-1, -1, 2),
        flags,
        flags,
    )


def test_imagined_steps_take_the_last_places_where_they_are_known():
    columns = torch.arange(10).expand(2, -1)
    known = torch.tensor([[True] * 4, [True, False, False, True]])
    mixed, weights, rest = with_imagined(steps(0, 10), torch.full((2, 10), 0.5), columns, steps(7, 4), known)
    expected = torch.zeros(2, 10)
    expected[:, 6:] = 7.0 * known
    assert torch.equal(mixed.rewards, expected)
    assert torch.equal(mixed.obs[..., 1], expected)
    assert torch.equal(mixed.terminated, expected > 0)
    assert torch.equal(weights, torch.where(expected > 0, 1.0, 0.5))
    assert torch.equal(rest, columns[:, :6])


class Imagines(NoImitation):
    """Has nothing to imitate, and made-up steps that pay 5 and end, for a share of the batch."""

    imitation_ratio, imitation_batch_size = 1.0, 1

    def __init__(self, share):
        self.share = share

    def sample(self, batch_size, value=None):
        return None

    def imagine(self, batch_size):
        count = round(self.share * batch_size)
        made = Transitions(
            torch.zeros(2, count, 2),
            torch.zeros(2, count, 2),
            torch.full((2, count), 5.0),
            torch.zeros(2, count, 2),
            *torch.ones(2, 2, count, dtype=torch.bool),
        )
        return made, torch.ones(2, count, dtype=torch.bool)


@pytest.mark.parametrize("without", [{"imitation_coefficient": 0.0}, {"imitation_ratio": 0.0}])
def test_without_imitation_steps_are_imagined_all_the_same(without):
    """And the temperature, which imitation keeps from rising, is free."""
    env = make("PointMaze-U", num_envs=4)
    config = SACConfig(net_arch=(8,), buffer_size=400, learning_starts=20, n_steps=20, batch_size=16, target_entropy=50.0)
    model = BacktrackingConfig(kind="network", hidden=(8,))
    options = RecallConfig(imagined_share=0.25, source="novelty", model_updates=2, memory_size=400, model=model, **without)
    recall = RecallTraces(env.observation_space, env.action_space, options, num_envs=4)
    sac, imagined, imagine = SAC(env, config, recall=recall), [], recall.imagine
    recall.imagine = lambda batch_size: imagined.append(imagine(batch_size)) or imagined[-1]
    sac.learn(400)
    assert len(imagined) == 80  # each gradient step from the first rollout's end on
    assert all(steps.rewards.shape == known.shape == (1, 4) for steps, known in imagined)
    assert float(sac.log_ent_coef.detach()) == pytest.approx(sac.updates * config.learning_rate, rel=0.01)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_critics_learn_from_imagined_steps(share):
    config = SACConfig(
        net_arch=(16,), batch_size=16, buffer_size=200, learning_starts=8, n_steps=20, learning_rate=1e-2, gradient_steps=2
    )
    plain, imagining = (
        SAC(
            Drift([0, 1], True),
            config,
            recall=recall,
            sampling=PrioritizedSampling(PrioritizedConfig(), 2, 200, torch.device("cpu")),
            num_seeds=2,
        ).learn(200)
        for recall in (None, Imagines(share))
    )
    zero = torch.zeros(2, 1, 2)
    found = [learner.q(learner.critics, zero, zero).detach().mean() for learner in (plain, imagining)]
    assert abs(found[1] - 5.0) < 1.5
    assert abs(found[0] - 5.0) > 3.0
