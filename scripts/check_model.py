"""How exact the backtracking model is where the truth is known.

    python scripts/check_model.py            # about two minutes on one core

Finite MDPs: total variation between the model and the true backward posterior b(a, s | s') ∝ d(s) π(a | s) P(s' | s, a),
weighted by p(s'), on five random MDPs with 8 states and 3 actions from 60,000 independent transitions, for both kinds of
model. Four rooms: the share of recalled steps that are real moves. Prints a table, writes `runs/check_model.json`.
"""

import json
import pathlib

import gymnasium
import torch

from recall_traces.data import Transitions
from recall_traces.envs.four_rooms import FourRooms
from recall_traces.model import BacktrackingConfig, BacktrackingModel

STATES, ACTIONS, COUNT = 8, 3, 60_000


def random_mdp(seed: int) -> tuple[torch.Tensor, Transitions]:
    """The joint distribution over (s', a, s) and independent transitions drawn from it, `(1, COUNT)`."""
    generator = torch.Generator().manual_seed(seed)

    def simplex(*shape: int) -> torch.Tensor:
        weights = torch.empty(*shape).exponential_(generator=generator)
        return weights / weights.sum(-1, keepdim=True)

    visits, policy, dynamics = simplex(STATES), simplex(STATES, ACTIONS), simplex(STATES, ACTIONS, STATES)
    joint = (visits[:, None, None] * policy[:, :, None] * dynamics).permute(2, 1, 0)
    draws = torch.multinomial(joint.flatten(), COUNT, replacement=True, generator=generator)[None]
    next_obs, rest = draws // (ACTIONS * STATES), draws % (ACTIONS * STATES)
    flags = torch.zeros(1, COUNT, dtype=torch.bool)
    return joint, Transitions(rest % STATES, rest // STATES, torch.zeros(1, COUNT), next_obs, flags, flags)


def total_variation(model: BacktrackingModel, joint: torch.Tensor) -> float:
    """Mean over p(s') of the total variation between model and truth."""
    grid = torch.cartesian_prod(torch.arange(STATES), torch.arange(ACTIONS), torch.arange(STATES))  # s', a, s
    log_probs = model.log_prob(grid[None, :, 2], grid[None, :, 1], grid[None, :, 0])
    marginal = joint.sum((1, 2))
    posterior = joint / marginal[:, None, None]
    distance = 0.5 * (log_probs.exp().view_as(joint) - posterior).abs().sum((1, 2))
    return float((marginal * distance).sum())


def validity(kind: str) -> float:
    """Share of recalled steps that are real moves, after a random walk of 50,000 steps in FourRooms-13."""
    env = FourRooms(13, num_envs=10, seed=1)
    generator, obs, steps = torch.Generator().manual_seed(1), env.reset(), []
    for _ in range(5000):
        actions = torch.randint(4, (10,), generator=generator)
        step = env.step(actions)
        steps.append((obs, actions, step.rewards, step.final_obs, step.terminated, step.truncated))
        obs = step.obs
    data = Transitions(*(torch.stack(column).flatten()[None] for column in zip(*steps, strict=True)))
    model = BacktrackingModel(env.observation_space, env.action_space, seed=1, config=BacktrackingConfig(kind=kind))
    model.fit(data, updates=3000)
    states = data.next_obs[:, torch.randint(data.next_obs.shape[1], (500,), generator=generator)]
    traces = model.sample_traces(states, 60)
    successors = torch.cat([traces.obs[:, :, 1:], states[:, :, None]], 2)
    real = env.next_cell[traces.obs, traces.actions] == successors
    return float(real[traces.mask].float().mean())


if __name__ == "__main__":
    torch.set_num_threads(1)
    result: dict[str, object] = {}
    for kind in ("table", "network"):
        distances = []
        for seed in range(5):
            joint, transitions = random_mdp(seed)
            model = BacktrackingModel(
                gymnasium.spaces.Discrete(STATES),
                gymnasium.spaces.Discrete(ACTIONS),
                seed=seed,
                config=BacktrackingConfig(kind=kind),
            )
            model.fit(transitions, updates=3000)
            distances.append(round(total_variation(model, joint), 4))
        result[kind] = {"total_variation": distances, "four_rooms_validity": round(validity(kind), 4)}
        print(f"{kind:8s} total variation, five MDPs: {distances}   four rooms: {result[kind]}", flush=True)
    pathlib.Path("runs").mkdir(exist_ok=True)
    pathlib.Path("runs/check_model.json").write_text(json.dumps(result, indent=1))
