"""How true recalled steps are in MuJoCo: put the simulator into s_t, apply a_t, and compare with s_{t+1}.

    python scripts/trace_error.py [ENV ...] [--steps 20000] [--policy ppo] [--model network] [--seeds 3]

The backtracking model is fitted to steps of a random policy, or of PPO after it has trained for as many steps; held out are
2,000 steps of the same policy. Into 64 held-out states traces of at most 20 steps are recalled, where the model knows a way, and
each recalled step is checked by the true dynamics. The error of a step is the distance between the true and the recalled
successor, over positions and velocities, each divided by its deviation. Quoted is its mean over that of predicting no change (the
successor is the state itself): 0 is the truth, and 1 says no more than standing still. Recorded steps go through the same check;
what they show is lost between observation and state (float32, clipped velocities). Steps from or into states that the simulator
cannot hold (broken) are counted and left out. Prints mean and range over those seeds that recalled anything, writes
`runs/trace_error_<policy>_<model>.json`. About ten seconds for each environment and seed, twice as many with PPO.
"""

import argparse
import json
import pathlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recall_traces import envs
from recall_traces.agents.ppo import PPO
from recall_traces.agents.presets import preset
from recall_traces.data import Transitions
from recall_traces.envs.mujoco.env import MujocoEnv
from recall_traces.model import BacktrackingConfig, BacktrackingModel

ENVIRONMENTS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5")
NUM_ENVS, HELD_OUT, STATES, LENGTH = 8, 2000, 64, 20
TOO_LARGE = 1e10
"""MuJoCo takes a number beyond for broken."""
Policy = Callable[[Tensor], Tensor]


def make(env_id: str, num_envs: int, seed: int) -> MujocoEnv:
    env = envs.make(env_id, num_envs, seed=seed)
    if not isinstance(env, MujocoEnv):
        raise SystemExit(f"{env_id} is not a MuJoCo task of ours; such are {', '.join(ENVIRONMENTS)}")
    return env


def make_policy(kind: str, env: MujocoEnv, steps: int, seed: int) -> Policy:
    """Draws actions for observations, `(num_envs, observation)`."""
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        low, high = (torch.from_numpy(bound) for bound in (env.action_space.low, env.action_space.high))
        return lambda obs: torch.rand(len(obs), len(low), generator=generator) * (high - low) + low
    ppo = PPO(env, preset(env.name).ppo, seed=seed)
    ppo.learn(steps)
    return lambda obs: ppo.predict(obs)[0]


def collect(env: MujocoEnv, policy: Policy, steps: int) -> Transitions:
    """Steps of a policy, `(1, steps)`."""
    obs, rows = env.reset(), []
    for _ in range(steps // env.num_envs):
        actions = policy(obs).clamp(torch.from_numpy(env.action_space.low), torch.from_numpy(env.action_space.high))
        step = env.step(actions)
        rows.append((obs, actions, step.rewards, step.final_obs, step.terminated, step.truncated))
        obs = step.obs
    return Transitions(*(torch.stack(column).flatten(0, 1)[None] for column in zip(*rows, strict=True)))


def check(simulator: MujocoEnv, obs: Tensor, actions: Tensor, next_obs: Tensor, scale: Tensor) -> dict[str, float]:
    """Error of steps `(B, ...)` over that of no change, and the share of states that the simulator cannot hold."""
    if not len(obs):
        return dict.fromkeys(("error", "median", "broken"), float("nan"))
    found: list[tuple[Tensor, ...]] = []
    for rows in torch.arange(len(obs)).split(simulator.num_envs):
        whole = rows[torch.arange(simulator.num_envs) % len(rows)]  # the last ones again where less than a batch is left
        simulator.set_obs(obs[whole])
        step = simulator.step(actions[whole])
        found.append((obs[rows], next_obs[rows], step.final_obs[: len(rows)], step.info["broken"][: len(rows)]))
    before, recalled, true, broken = (torch.cat(column) for column in zip(*found, strict=True))
    columns = simulator.state_columns
    broken |= ~(recalled[:, columns].abs() < TOO_LARGE).all(1)
    error, still = (((true - guess)[:, columns].double() / scale)[~broken].norm(dim=1) for guess in (recalled, before))
    share = (error / still)[still > 0]
    return {"error": float(error.mean() / still.mean()), "median": float(share.median()), "broken": float(broken.float().mean())}


def measure(env_id: str, kind: str, model_kind: str, steps: int, seed: int) -> dict[str, float]:
    """Errors of recalled and of recorded steps of one fit."""
    env, simulator = make(env_id, NUM_ENVS, seed), make(env_id, STATES, seed)
    policy = make_policy(kind, env, steps, seed)
    data, held_out = collect(env, policy, steps), collect(env, policy, HELD_OUT)
    config = BacktrackingConfig(kind=model_kind)
    model = BacktrackingModel(env.observation_space, env.action_space, seed=seed, config=config)
    model.fit(data)
    scale = data.obs[0, :, env.state_columns].std(0).clamp(min=1e-6)
    chosen = torch.randperm(HELD_OUT, generator=torch.Generator().manual_seed(seed))[:STATES]
    states = held_out.next_obs[:, chosen]
    traces = model.sample_traces(states, LENGTH)
    successors = torch.cat([traces.obs[:, :, 1:], states[:, :, None]], 2)
    obs, actions, next_obs = (values[traces.mask] for values in (traces.obs, traces.actions, successors))
    recalled = check(simulator, obs, actions, next_obs, scale)
    known = traces.mask[0, :, -1]
    last = check(simulator, traces.obs[0, known, -1], traces.actions[0, known, -1], states[0, known], scale)
    recorded = check(simulator, held_out.obs[0], held_out.actions[0], held_out.next_obs[0], scale)
    env.close()
    simulator.close()
    return {
        "states with a way": float(known.float().mean()),
        "its steps": float(traces.mask.sum() / known.sum()),
        "recalled": recalled["error"],
        "recalled, median": recalled["median"],
        "recalled, last step": last["error"],
        "recorded": recorded["error"],
        "broken": recalled["broken"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environments", nargs="*", default=ENVIRONMENTS, metavar="ENV", help="by default the five that walk")
    parser.add_argument("--policy", choices=("random", "ppo"), default="random", help="whose steps")
    parser.add_argument("--model", choices=("neighbours", "network"), default="neighbours", help="of which kind")
    parser.add_argument("--steps", type=int, default=20_000, help="that PPO trains for, and that the model is fitted to")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    result: dict[str, Any] = {"policy": arguments.policy, "model": arguments.model, "steps": arguments.steps}
    for env_id in arguments.environments:
        found = [measure(env_id, arguments.policy, arguments.model, arguments.steps, seed) for seed in range(arguments.seeds)]
        result[env_id] = {name: [one[name] for one in found] for name in found[0]}
        if env_id == arguments.environments[0]:
            print(f"| environment | {' | '.join(found[0])} |\n|{'---|' * (1 + len(found[0]))}")
        numbers = [[number for number in column if number == number] for column in result[env_id].values()]  # where there is any
        cells = [f"{sum(x) / len(x):.3g} ({min(x):.3g} to {max(x):.3g})" if x else "" for x in numbers]
        print(f"| {env_id} | {' | '.join(cells)} |", flush=True)
    path = pathlib.Path(f"runs/trace_error_{arguments.policy}_{arguments.model}.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1))
