"""How good the backtracking model is in point mazes: network and neighbours, on steps of a random policy.

    python scripts/check_maze_model.py            # about ten minutes on one core
    python scripts/check_maze_model.py --models neighbours "neighbours, narrow"     # a minute

For PointMaze-U and -Medium: fitted to 16,000 steps of a uniformly random policy from uniform starts, by as many updates as
`RecallTraces` makes by the end of such a run; a support is drawn uniformly here, not evenly over cells. Held out are 4,000
steps of another run. Reports the held-out log-likelihood in nats per step; of 256 traces of 60 steps from held-out states the
one-step error (how far the true successor of each recalled state and action lies from the recalled successor, in mean step
lengths) and the share of steps that cross a wall; a step is judged by its two legs, x then y, as the point moves. `neighbours,
narrow` have a quarter of the support, and kernels half as wide.
Then the shortest ways from 8 starts of episodes into 64 of those states, found by neighbours, with everything believed and
without what was tried in vain: how many there are, how many of them have a step that goes elsewhere (by more than half a step,
if its action is taken where the way stands), and how long they are. Five seeds; prints mean and range, writes
`runs/check_maze_model.json`.
"""

import argparse
import json
import pathlib

import torch

from recall_traces import envs
from recall_traces.data import Traces, Transitions
from recall_traces.envs.point_maze import MAX_MOVE, PointMaze
from recall_traces.model import BacktrackingConfig, BacktrackingModel

MODELS = {
    "network": BacktrackingConfig(kind="network"),
    "network, one Gaussian": BacktrackingConfig(kind="network", components=1),
    "neighbours": BacktrackingConfig(kind="neighbours"),
    "neighbours, narrow": BacktrackingConfig(kind="neighbours", support=2048, bandwidth=0.25),
}
UPDATES = {"network": 2000, "neighbours": 1}
SEEDS = 5


def random_steps(env_id: str, steps: int, seed: int) -> tuple[PointMaze, Transitions]:
    """A uniformly random policy's steps, `(1, steps)`, in random order."""
    env = envs.make(env_id, num_envs=8, seed=seed, start="uniform")
    assert isinstance(env, PointMaze)
    generator, obs, rows = torch.Generator().manual_seed(seed), env.reset(), []
    for _ in range(steps // 8):
        actions = torch.rand(8, 2, generator=generator) * 2 - 1
        step = env.step(actions)
        rows.append((obs, actions, step.rewards, step.final_obs, step.terminated, step.truncated))
        obs = step.obs
    order = torch.randperm(steps, generator=generator)
    return env, Transitions(*(torch.stack(column).flatten(0, 1)[None, order] for column in zip(*rows, strict=True)))


def measure(env_id: str, config: BacktrackingConfig, seed: int) -> dict[str, float]:
    """Log-likelihood, one-step error and crossings of one fit."""
    env, steps = random_steps(env_id, 16_000, seed)
    _, held_out = random_steps(env_id, 4000, seed + 1000)
    model = BacktrackingModel(env.observation_space, env.action_space, seed=seed, config=config)
    model.fit(steps, UPDATES[config.kind])
    likelihood = model.log_prob(held_out.obs, held_out.actions, held_out.next_obs)
    states = held_out.next_obs[:, :256]
    traces = model.sample_traces(states, 60)
    successors = torch.cat([traces.obs[:, :, 1:], states[:, :, None]], 2)
    obs, actions, next_obs = (x[traces.mask] for x in (traces.obs, traces.actions, successors))
    corner = torch.stack([next_obs[:, 0], obs[:, 1]], 1)
    crosses = env.crosses_wall(obs, corner) | env.crosses_wall(corner, next_obs)
    step_length = (held_out.obs - held_out.next_obs).norm(dim=2).mean()
    return {
        "log-likelihood": float(likelihood[likelihood.isfinite()].mean()),
        "unlikely": float((~likelihood.isfinite()).float().mean()),
        "one-step error": float((env.move(obs, actions * MAX_MOVE) - next_obs).norm(dim=1).mean() / step_length),
        "crossings": float(crosses.float().mean()),
        "length": float(traces.mask.sum(2).float().mean()),
    }


def search(env_id: str, config: BacktrackingConfig, seed: int, believe: bool) -> dict[str, float]:
    """How many shortest ways there are, how many of those are false, and their length."""
    env, steps = random_steps(env_id, 16_000, seed)
    env_held_out, held_out = random_steps(env_id, 4000, seed + 1000)
    model = BacktrackingModel(env.observation_space, env.action_space, seed=seed, config=config)
    model.fit(steps)
    starts, states = env_held_out.reset()[None], held_out.next_obs[:, :64]
    found = model.shortest_traces(starts, states, 150, None if believe else steps)
    # Where a way stands before each step: where the step before it led, at first at the start.
    arrivals = arrivals_of(steps, found)
    first = starts[:, torch.arange(64) % 8][:, :, None]
    begins = found.mask & ~torch.nn.functional.pad(found.mask, (1, 0))[..., :-1]
    places = torch.where(begins[..., None], first, torch.cat([first, arrivals], 2)[:, :, :-1])
    true = env.move(places[found.mask], found.actions[found.mask] * MAX_MOVE)
    step_length = (held_out.obs - held_out.next_obs).norm(dim=2).mean()
    change = (true - places[found.mask]) - (arrivals - found.obs)[found.mask]
    false = torch.zeros_like(found.mask)
    false[found.mask] = change.norm(dim=1) > 0.5 * step_length
    ways = found.mask.any(2)
    return {
        "found": float(ways.float().mean()),
        "false": float(false.any(2)[ways].float().mean()),
        "length": float(found.mask.sum(2)[ways].float().mean()),
    }


def arrivals_of(steps: Transitions, traces: Traces) -> torch.Tensor:
    """Where recorded steps of traces led, `(1, B, L, 2)`."""
    rows = torch.cdist(traces.obs.flatten(1, 2), steps.obs, compute_mode="donot_use_mm_for_euclid_dist").argmin(2)
    return steps.next_obs[0, rows[0]].view_as(traces.obs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, dict[str, list[float]]] = {}
    columns_of_table = ("maze", "model", "log-likelihood", "impossible", "one-step error", "crosses a wall", "steps of a trace")
    print(f"| {' | '.join(columns_of_table)} |\n|{'---|' * len(columns_of_table)}")
    for env_id in ("PointMaze-U", "PointMaze-Medium"):
        for name in arguments.models:
            found = [measure(env_id, MODELS[name], seed) for seed in range(SEEDS)]
            columns = {key: [one[key] for one in found] for key in found[0]}
            result[f"{env_id}, {name}"] = columns
            cells = [f"{sum(x) / SEEDS:.4g} ({min(x):.4g} to {max(x):.4g})" for x in columns.values()]
            print(f"| {env_id} | {name} | {' | '.join(cells)} |", flush=True)
    print("\n| maze | model | tried in vain | ways found | false | steps |\n|---|---|---|---|---|---|")
    for env_id in ("PointMaze-U", "PointMaze-Medium"):
        for name in (name for name in arguments.models if MODELS[name].kind == "neighbours"):
            for believe in (True, False):
                found = [search(env_id, MODELS[name], seed, believe) for seed in range(SEEDS)]
                columns = {key: [one[key] for one in found] for key in found[0]}
                result[f"{env_id}, {name}, ways, {'believed' if believe else 'left out'}"] = columns
                cells = [f"{sum(x) / SEEDS:.4g} ({min(x):.4g} to {max(x):.4g})" for x in columns.values()]
                print(f"| {env_id} | {name} | {'believed' if believe else 'left out'} | {' | '.join(cells)} |", flush=True)
    pathlib.Path("runs").mkdir(exist_ok=True)
    pathlib.Path("runs/check_maze_model.json").write_text(json.dumps(result, indent=1))
