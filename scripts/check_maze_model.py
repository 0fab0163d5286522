"""How good the backtracking model is in point mazes: network and neighbours, on steps of a random policy.

    python scripts/check_maze_model.py            # about ten minutes on one core
    python scripts/check_maze_model.py --no-cuts --models neighbours "neighbours, narrow"     # a minute
    python scripts/check_maze_model.py --models             # only the cuts

For PointMaze-U and -Medium: fitted to 16,000 steps of a uniformly random policy from uniform starts, by as many updates as
`RecallTraces` makes by the end of such a run; a support is drawn uniformly here, not evenly over cells. Held out are 4,000
steps of another run. Reports the held-out log-likelihood in nats per step; of 256 traces of 60 steps from held-out states the
one-step error (how far the true successor of each recalled state and action lies from the recalled successor, in mean step
lengths) and the share of steps that cross a wall; a step is judged by its two legs, x then y, as the point moves. `neighbours,
narrow` have a quarter of the support, and kernels half as wide.
Then what is left of a network's traces if they are cut before the last step that one of five networks finds less likely than a
share of the held-out steps, or that a learned forward model does not lead to within so many step lengths.
Last the shortest ways from 8 starts of episodes into 64 of those states, found by neighbours, with everything believed and
without what was tried in vain: how many there are, how many of them have a step that goes elsewhere (by more than half a step,
if its action is taken where the way stands), and how long they are. Five seeds; prints mean and range, writes
`runs/check_maze_model.json`.
"""

import argparse
import json
import pathlib
from dataclasses import replace

import torch
from gymnasium import spaces

from recall_traces import envs
from recall_traces.data import Traces, Transitions
from recall_traces.envs.point_maze import MAX_MOVE, PointMaze
from recall_traces.fleet import FleetAdam, FleetMLP, backward
from recall_traces.model import BacktrackingConfig, BacktrackingModel

MODELS = {
    "network": BacktrackingConfig(kind="network"),
    "network, one Gaussian": BacktrackingConfig(kind="network", components=1),
    "neighbours": BacktrackingConfig(kind="neighbours"),
    "neighbours, narrow": BacktrackingConfig(kind="neighbours", support=2048, bandwidth=0.25),
}
UPDATES = {"network": 2000, "neighbours": 1}
SEEDS = 5
MEMBERS = 5
"""Networks of an ensemble."""
SHARES = (0.01, 0.1)
"""Traces are cut where any member finds a recalled step less likely than any member finds this share of the steps held out."""
LIMITS = (0.5, 0.25)
"""Or where a forward model is off by this many mean step lengths."""


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
    traces = model.sample_traces(held_out.next_obs[:, :256], 60)
    return {
        "log-likelihood": float(likelihood[likelihood.isfinite()].mean()),
        "unlikely": float((~likelihood.isfinite()).float().mean()),
        **judge(env, held_out, traces),
    }


def cuts(env_id: str, seed: int) -> dict[str, dict[str, float]]:
    """What is left of a network's traces, cut before the last step that an ensemble or a forward model does not believe."""
    env, steps = random_steps(env_id, 16_000, seed)
    _, held_out = random_steps(env_id, 4000, seed + 1000)
    steps, known = (x.map(lambda value: value.expand(MEMBERS, *value.shape[1:])) for x in (steps, held_out))
    model = BacktrackingModel(env.observation_space, env.action_space, MEMBERS, seed, config=MODELS["network"])
    model.fit(steps, UPDATES["network"])
    states = known.next_obs[:, :256]
    drawn = model.sample_traces(states, 60)
    traces = Traces(*(value[:1] for value in vars(drawn).values()))  # the first member's
    recalled = tuple(x.flatten(1, 2) for x in (traces.obs, traces.actions, successors_of(traces, states[:1])))
    believed = model.log_prob(*(x.expand(MEMBERS, -1, -1) for x in recalled)).amin(0)
    least = model.log_prob(known.obs, known.actions, known.next_obs).amin(0)
    off = forward_errors(steps, recalled, seed)
    refuted = {f"{MEMBERS} networks, {share:.0%}": believed < least.quantile(share) for share in SHARES}
    refuted |= {f"forward, {limit} steps": off > limit for limit in LIMITS}
    found = {"nowhere": judge(env, held_out, traces)}
    for name, fails in refuted.items():
        # In forward time: what comes before a step that fails goes with it.
        later = (fails.view(traces.mask.shape) & traces.mask).flip(2).cummax(2).values.flip(2)
        found[name] = judge(env, held_out, replace(traces, mask=traces.mask & ~later))
    return found


def forward_errors(steps: Transitions, recalled: tuple[torch.Tensor, ...], seed: int) -> torch.Tensor:
    """How far off a learned forward model finds recalled steps (obs, actions, next_obs), `(B,)`, in mean step lengths.

    A network of the backward one's size, fitted to as many minibatches by least squares.
    """
    generator = torch.Generator().manual_seed(seed)
    obs, actions, change = steps.obs[:1], steps.actions[:1], (steps.next_obs - steps.obs)[:1]
    box = spaces.Box(-1, 1, (2,))
    network = FleetMLP(1, [box, box], (64, 64), 2, "relu", 0.1, generator)
    optimizer, updates = FleetAdam(network.parameters()), UPDATES["network"]
    scale, center, spread = change.square().mean().sqrt(), obs.mean((0, 1)), obs.std((0, 1))
    for update in range(updates):
        chosen = torch.randint(obs.shape[1], (256,), generator=generator)
        errors = network((obs[:, chosen] - center) / spread, actions[:, chosen]) - change[:, chosen] / scale
        backward(errors.square().mean((1, 2)), optimizer)
        optimizer.step(2e-3 * (1 - update / updates))
    with torch.no_grad():
        predicted = network((recalled[0] - center) / spread, recalled[1]) * scale
    return (recalled[0] + predicted - recalled[2]).norm(dim=2)[0] / change.norm(dim=2).mean()


def successors_of(traces: Traces, states: torch.Tensor) -> torch.Tensor:
    """Where the steps of traces into `states` `(1, B, 2)` lead, `(1, B, L, 2)`."""
    return torch.cat([traces.obs[:, :, 1:], states[:, :, None]], 2)


def judge(env: PointMaze, held_out: Transitions, traces: Traces) -> dict[str, float]:
    """One-step error and crossings of traces into the first states held out, and their length."""
    successors = successors_of(traces, held_out.next_obs[:, : traces.mask.shape[1]])
    obs, actions, next_obs = (x[traces.mask] for x in (traces.obs, traces.actions, successors))
    corner = torch.stack([next_obs[:, 0], obs[:, 1]], 1)
    crosses = env.crosses_wall(obs, corner) | env.crosses_wall(corner, next_obs)
    step_length = (held_out.obs - held_out.next_obs).norm(dim=2).mean()
    return {
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


def row(columns: dict[str, list[float]]) -> str:
    """Mean and range of each column, as cells of a table."""
    return " | ".join(f"{sum(x) / SEEDS:.4g} ({min(x):.4g} to {max(x):.4g})" for x in columns.values())


def over_seeds(found: list[dict[str, float]]) -> dict[str, list[float]]:
    """What every seed found, by name."""
    return {key: [one[key] for one in found] for key in found[0]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS), help="none: only the cuts")
    parser.add_argument("--no-cuts", action="store_true", help="without the cuts of a network's traces")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, dict[str, list[float]]] = {}
    mazes = ("PointMaze-U", "PointMaze-Medium")
    columns_of_table = ("maze", "model", "log-likelihood", "impossible", "one-step error", "crosses a wall", "steps of a trace")
    print(f"| {' | '.join(columns_of_table)} |\n|{'---|' * len(columns_of_table)}")
    for env_id in mazes:
        for name in arguments.models:
            columns = over_seeds([measure(env_id, MODELS[name], seed) for seed in range(SEEDS)])
            result[f"{env_id}, {name}"] = columns
            print(f"| {env_id} | {name} | {row(columns)} |", flush=True)
    print("\n| maze | cut | one-step error | crosses a wall | steps of a trace |\n|---|---|---|---|---|")
    for env_id in mazes if not arguments.no_cuts else ():
        found = [cuts(env_id, seed) for seed in range(SEEDS)]
        for name in found[0]:
            columns = over_seeds([one[name] for one in found])
            result[f"{env_id}, cut, {name}"] = columns
            print(f"| {env_id} | {name} | {row(columns)} |", flush=True)
    print("\n| maze | model | tried in vain | ways found | false | steps |\n|---|---|---|---|---|---|")
    for env_id in mazes:
        for name in (name for name in arguments.models if MODELS[name].kind == "neighbours"):
            for believe in (True, False):
                columns = over_seeds([search(env_id, MODELS[name], seed, believe) for seed in range(SEEDS)])
                tried = "believed" if believe else "left out"
                result[f"{env_id}, {name}, ways, {tried}"] = columns
                print(f"| {env_id} | {name} | {tried} | {row(columns)} |", flush=True)
    pathlib.Path("runs").mkdir(exist_ok=True)
    pathlib.Path("runs/check_maze_model.json").write_text(json.dumps(result, indent=1))
