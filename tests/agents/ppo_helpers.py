"""What several tests of PPO use: environments without a task, a fleet's state, made-up minibatches."""

import math

import torch
from gymnasium import spaces

from recall_traces.agents.ppo import Minibatch
from recall_traces.envs.interface import Step

BOX, BOX_ACTION = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
TWO_NUMBERS = spaces.Box(-1, 1, (2,))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


class Spaces:
    """Has spaces and is never stepped."""

    device, success_return = torch.device("cpu"), None

    def __init__(self, observation_space=BOX, action_space=BOX_ACTION, num_envs=1):
        self.observation_space, self.action_space, self.num_envs = observation_space, action_space, num_envs


class Drift:
    """Observation and reward are functions of row, time and action alone; episodes of 7 steps end in turn by truncation.

    From `breaks_at` steps on the rewards (or observations) of the rows in `broken` are `value`.
    """

    device, success_return = torch.device("cpu"), None

    def __init__(self, rows, box_actions=False, broken=(), breaks_at=10**9, what="rewards", value=math.nan):
        self.rows, self.num_envs = torch.tensor(rows, dtype=torch.float32), len(rows)
        self.observation_space, self.action_space = TWO_NUMBERS, BOX_ACTION if box_actions else spaces.Discrete(3)
        self.broken = torch.tensor([row in broken for row in rows])
        self.breaks_at, self.what, self.value = breaks_at, what, value
        self.time = 0

    def reset(self):
        return self.observe()

    def observe(self):
        return torch.stack([torch.sin(self.rows + 0.7 * self.time), torch.cos(0.3 * self.rows * self.time)], -1)

    def step(self, actions):
        assert bool(actions.isfinite().all())
        self.time += 1
        obs, score = self.observe(), actions.float() if actions.dim() == 1 else actions.sum(-1)
        rewards = torch.sin(self.rows + self.time) + score
        if self.time >= self.breaks_at:
            if self.what == "rewards":
                rewards = torch.where(self.broken, self.value, rewards)
            else:
                obs = torch.where(self.broken[:, None], self.value, obs)
        ended = torch.full_like(self.broken, self.time % 7 == 0)
        return Step(obs, rewards, ended & (self.rows % 2 == 0), ended & (self.rows % 2 == 1), obs)


class Probe:
    """Small tasks, each of which a learner fails for one reason; copies differ only by their row.

    Observations are one number. `first` gives first observations, `transition` (obs, actions, age) what comes of a step:
    rewards, true successors, terminated, truncated.
    """

    device, success_return = torch.device("cpu"), None
    observation_space = spaces.Box(-10, 10, (1,))

    def __init__(self, num_envs, first, transition, action_space=None):
        self.num_envs, self.first, self.transition = num_envs, first, transition
        self.action_space = action_space or spaces.Discrete(2)
        self.generator = torch.Generator().manual_seed(0)

    def reset(self):
        self.age = torch.zeros(self.num_envs, dtype=torch.int64)
        self.obs = self.first(self.num_envs, self.generator)
        return self.obs[:, None]

    def step(self, actions):
        self.age = self.age + 1
        rewards, final_obs, terminated, truncated = self.transition(self.obs, actions, self.age)
        done = terminated | truncated
        self.obs = torch.where(done, self.first(self.num_envs, self.generator), final_obs)
        self.age = torch.where(done, 0, self.age)
        return Step(self.obs[:, None], rewards, terminated, truncated, final_obs[:, None])


def zeros(count, generator):
    return torch.zeros(count)


def signs(count, generator):
    return torch.randint(2, (count,), generator=generator) * 2.0 - 1.0


def always(obs):
    return torch.ones_like(obs, dtype=torch.bool)


def never(obs):
    return torch.zeros_like(obs, dtype=torch.bool)


def tensors(ppo):
    """All state of a fleet, by name; the first axis is the seed."""
    return {f"{part}.{name}": value for part, holder in ppo.parts().items() for name, value in holder.state_dict().items()}


def state(ppo, seed):
    """Weights, moments and step counts of a seed, in one row."""
    return torch.cat([x[seed].flatten() for name, x in tensors(ppo).items() if "normalizer" not in name])


def steps_taken(ppo):
    return ppo.policy_optimizer.steps.tolist()


def copy_seed(fleet, single, seed):
    """Give a fleet of one everything of one seed of a larger fleet."""
    theirs = fleet.parts()
    for part, holder in single.parts().items():
        holder.load_state_dict({name: value[seed : seed + 1] for name, value in theirs[part].state_dict().items()})


def assert_same_seed(fleet, single, seed, **tolerance):
    theirs = tensors(fleet)
    for name, value in tensors(single).items():
        torch.testing.assert_close(
            value[0], theirs[name][seed], **(tolerance or CLOSE), msg=lambda text, name=name: f"{name}: {text}"
        )


def random_batch(ppo, rows, seed=0):
    """`(S, rows, ...)`, different for each seed of the fleet, of about the scale of the real."""
    generator = torch.Generator().manual_seed(seed)
    shape = (ppo.num_seeds, rows)
    obs = torch.randn(*shape, 3, generator=generator)
    actions = torch.randn(*shape, 2, generator=generator)
    advantages, returns = torch.randn(2, *shape, generator=generator)
    with torch.no_grad():
        log_probs = ppo.log_prob(obs, actions) + 0.1 * torch.randn(shape, generator=generator)
    return Minibatch(obs, actions, log_probs, advantages, returns)
