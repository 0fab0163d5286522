"""What tests of SAC use beside the helpers of PPO: a seed's state, critics included, and made-up minibatches."""

import numpy as np
import torch
from gymnasium import spaces
from ppo_helpers import CLOSE, tensors

from recall_traces.agents.replay import Drawn
from recall_traces.agents.sac import Batch
from recall_traces.agents.seams import NoImitation
from recall_traces.data import Traces

UNEQUAL = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 5], np.float32))


def of_seed(value, num_seeds, seed):
    """What belongs to one seed, whose row is `k * S + s` where it has several."""
    return value.unflatten(0, (-1, num_seeds))[:, seed]


def state(sac, seed):
    """Weights, targets, moments and step counts of a seed, in one row."""
    return torch.cat([of_seed(x, sac.num_seeds, seed).flatten() for name, x in tensors(sac).items() if "normalizer" not in name])


def copy_seed(fleet, single, seed):
    """Give a fleet of one everything of one seed of a larger fleet."""
    theirs = fleet.parts()
    for part, holder in single.parts().items():
        stored = theirs[part].state_dict()
        holder.load_state_dict({name: of_seed(value, fleet.num_seeds, seed) for name, value in stored.items()})


def assert_same_seed(fleet, single, seed, **tolerance):
    theirs = tensors(fleet)
    for name, value in tensors(single).items():
        torch.testing.assert_close(
            value,
            of_seed(theirs[name], fleet.num_seeds, seed),
            **(tolerance or CLOSE),
            msg=lambda text, name=name: f"{name}: {text}",
        )


def random_batch(num_seeds, rows, seed=0):
    """A minibatch `(S, rows, ...)` of three numbers seen and two done, different for each seed, and noise for it."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(num_seeds, rows, *shape, generator=generator)

    weights = torch.rand(num_seeds, rows, generator=generator)
    batch = Batch(randn(3), randn(2).tanh(), randn(), randn(3), randn() > 0.5, weights)
    return batch, torch.randn(num_seeds, 2 * rows, 2, generator=generator)


class Given(NoImitation):
    """Imitation of steps that are given, `(S, K, ...)`, for some seeds; the last two are padding and weights grow."""

    imitation_ratio, imitation_coefficient = 1.0, 2.0

    def __init__(self, obs, actions, seeds):
        self.imitation_batch_size = obs.shape[1]
        mask = torch.tensor([s in seeds for s in range(len(obs))])[:, None].repeat(1, obs.shape[1])
        mask[:, -2:] = False
        self.traces = Traces(obs, actions, mask, mask * torch.arange(1.0, obs.shape[1] + 1))

    def sample(self, batch_size, value=None):
        assert batch_size == self.imitation_batch_size
        return self.traces


class Columns:
    """Draws what it is told to draw."""

    def __init__(self, columns):
        self.columns = columns

    def added(self, first, end):
        pass

    def draw(self, held, batch_size, generator):
        assert self.columns.shape[1] == batch_size
        return Drawn(self.columns % held, torch.ones(self.columns.shape))

    def learned(self, columns, errors):
        assert errors.shape == columns.shape
