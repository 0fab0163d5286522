"""Check the learners and the search on a GPU, in one call; prints JSON.

    python scripts/check_cuda.py [--device cuda] [--quick] [--parts environments learners ...]

* `environments`: one step from the same states with the same actions, against the CPU: largest differences.
* `learners`: every arm of both learners trains for a little; then weights and observations go to the CPU: largest differences
  of values and greedy actions.
* `replays`: gradient steps that replay a CUDA graph, against the same without: largest difference of weights, and seconds.
* `ways`: the neighbours of the support's states and the shortest ways between some of them, against the CPU.
* `waiting`: where torch waits for the device, counted per gradient step of SAC and per step of PPO's environments.
* `memory`: bytes that SAC's replay takes, against what it says before.
* `speed`: gradient steps per second of SAC in PointMaze-U, minibatches of 256, and environment steps per second of PPO in
  CartPole-v1, fleets of several sizes, all seeds counted together.

A part that fails is reported and the others go on. With `--device cpu --quick` it runs anywhere, to see that it runs.
"""

import argparse
import collections
import json
import pathlib
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from recall_traces import envs
from recall_traces.agents.arms import ARMS, LEARNERS, ArmConfigs, make_learner
from recall_traces.agents.learner import Learner
from recall_traces.agents.presets import preset
from recall_traces.agents.replay import replay_bytes
from recall_traces.neighbours import NeighbourModel
from recall_traces.recall import RecallTraces
from recall_traces.shortest import shortest_traces

ENVIRONMENTS = ("FourRooms-13", "CartPole-v1", "PointMaze-Medium", "PointMass-3", "Hopper-v5")
TASKS = {"ppo": "FourRooms-13", "sac": "PointMaze-U"}
Report = dict[str, Any]


def make(agent: str, arm: str, task: str, num_seeds: int, device: str, num_envs: int = 2, **changes: Any) -> Learner:
    """A fleet with the task's preset."""
    known = preset(task)
    config = replace(getattr(known, agent), **changes)
    configs = ArmConfigs(known.recall, known.sil, known.bonus, known.per)
    env = envs.make(task, num_envs=num_seeds * num_envs, device=device)
    return make_learner(agent, arm, env, config, configs, num_seeds)


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.cpu().double() - expected.cpu().double()).abs().nan_to_num(0.0, 0.0).max())


def moved(value: Any, device: str) -> Any:
    """All tensors within dictionaries and lists, on another device."""
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    if isinstance(value, list):
        return [moved(part, device) for part in value]
    return value.to(device) if isinstance(value, torch.Tensor) and value.dtype != torch.uint8 else value


def environments(device: str, quick: bool) -> Report:
    report = {}
    for task in ENVIRONMENTS:
        engine = {"engine": "cpu"} if task == "Hopper-v5" else {}
        here, there = (envs.make(task, num_envs=64, device=name, **engine) for name in ("cpu", device))
        here.reset(), there.reset()
        space, worst = here.action_space, 0.0
        space.seed(0)
        for _ in range(3 if quick else 20):
            if hasattr(here, "state_dict"):
                there.load_state_dict(moved(here.state_dict(), device))
            else:
                there.set_state(moved(here.get_state(), device))
            actions = torch.as_tensor([space.sample() for _ in range(64)])
            ours, theirs = here.step(actions), there.step(actions.to(device))
            fields = ("rewards", "terminated", "truncated", "final_obs")
            worst = max(worst, *(largest_difference(getattr(theirs, name), getattr(ours, name)) for name in fields))
        report[task] = worst
    return report


def learners(device: str, quick: bool) -> Report:
    report = {}
    for agent, task in TASKS.items():
        for arm in ARMS:
            if "goal-gan" in arm or (agent == "ppo" and "per" in arm) or (agent == "sac" and arm == "recall-oracle"):
                continue
            began = time.perf_counter()
            try:
                report[f"{agent}, {arm}"] = train_and_compare(agent, arm, task, device, quick) | {
                    "seconds": time.perf_counter() - began
                }
            except Exception as error:  # the other arms are worth knowing
                report[f"{agent}, {arm}"] = {"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc()[-800:]}
    return report


def train_and_compare(agent: str, arm: str, task: str, device: str, quick: bool) -> Report:
    changes = {"ppo": {}, "sac": {"n_steps": 128, "gradient_steps": 1, "buffer_size": 4000, "learning_starts": 500}}[agent]
    learner = make(agent, arm, task, 3, device, **changes)
    learner.learn(800)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "learner"
        learner.save(path)
        [written] = pathlib.Path(folder).iterdir()
        same = LEARNERS[agent].load(written, envs.make(task, num_envs=6))
    obs = learner.last_obs.unflatten(0, (3, -1))
    found = {"actions": largest_difference(learner.act(obs, greedy=True), same.act(obs.cpu(), greedy=True))}
    if agent == "ppo":  # SAC's are of actions that each device draws for itself
        found["values"] = largest_difference(learner.value(obs), same.value(obs.cpu()))
    if isinstance(learner.recall, RecallTraces):
        found["imitates"] = learner.recall.imitation_ratio > 0
    return found


def replays(device: str, quick: bool) -> Report:
    report: Report = {}
    cases: dict[str, tuple[str, str, str, dict[str, Any]]] = {
        "sac": ("sac", "none", "PointMaze-U", {"gradient_steps": 1, "learning_starts": 100, "buffer_size": 4000}),
        "sac, recall": ("sac", "recall", "PointMaze-U", {"gradient_steps": 1, "learning_starts": 100, "buffer_size": 4000}),
        "ppo, numbers": ("ppo", "none", "CartPole-v1", {}),
        "ppo, embeddings": ("ppo", "recall", "FourRooms-13", {}),
    }
    for name, (agent, arm, task, changes) in cases.items():
        weights, seconds = [], []
        for plainly in (True, False):
            learner: Any = make(agent, arm, task, 8, device, num_envs=1 if agent == "sac" else 8, **changes)
            if plainly:
                learner.replayed = learner.learn_from
            learner.learn(300)
            wait(device)
            began = time.perf_counter()
            learner.learn(200 if agent == "sac" else 4096)
            wait(device)
            seconds.append(time.perf_counter() - began)
            weights.append(torch.cat([optimizer.values.flatten() for optimizer in learner.optimizers]))
        report[name] = {
            "differ_by": largest_difference(weights[1], weights[0]),
            "largest": float(weights[0].abs().max()),
            "seconds_plain": seconds[0],
            "seconds_replayed": seconds[1],
            "graphs": sum(capture.graph is not None for capture in learner.replayed.captures.values()),
        }
    return report


def trained_model(device: str, quick: bool) -> tuple[NeighbourModel, RecallTraces]:
    learner = make("sac", "recall", "PointMaze-U", 4, device, gradient_steps=1, learning_starts=100_000)
    learner.learn(1280 if quick else 12_800)  # a random walk
    recall = learner.recall
    assert isinstance(recall, RecallTraces)
    assert isinstance(recall.model.density, NeighbourModel)
    return recall.model.density, recall


def ways(device: str, quick: bool) -> Report:
    there, recall = trained_model(device, quick)
    here = NeighbourModel(
        recall.observation_space,
        there.action_space,
        there.num_seeds,
        there.support,
        there.neighbours,
        there.bandwidth,
        torch.Generator(),
        torch.device("cpu"),
    )
    for name in ("obs", "actions", "next_obs", "scale"):
        setattr(here, name, getattr(there, name).cpu())
    here.before, here.weights = here.nearest(here.obs)
    starts, ends = there.obs[:, :16], there.next_obs[:, -64:]
    found, seconds = {}, {}
    for name, model, device_name in (("there", there, device), ("here", here, "cpu")):
        began = time.perf_counter()
        model.before, model.weights = model.nearest(model.obs)
        wait(device)
        seconds[f"neighbours, {device_name}"] = time.perf_counter() - began
        began = time.perf_counter()
        found[name] = shortest_traces(model, starts.to(device_name), ends.to(device_name), 120, None)
        seconds[f"search, {device_name}"] = time.perf_counter() - began
    close = there.weights.cpu().nan_to_num(neginf=-9.0) - here.weights.nan_to_num(neginf=-9.0)
    lengths = [found[name].mask.sum(2).cpu() for name in ("there", "here")]
    return {
        "support": there.obs.shape[1],
        "neighbours_weights_differ_by": float(close.abs().max()),
        "ways_found": [float((n > 0).float().mean()) for n in lengths],
        "ways_of_equal_length": float((lengths[0] == lengths[1]).float().mean()),
        "seconds": seconds,
    }


def count_waits(device: str, call: Callable[[], Any]) -> dict[str, int]:
    """Where torch waits for the device in a call, and how often."""
    if not device.startswith("cuda"):
        call()
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = collections.Counter(f"{pathlib.Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))
    return dict(places.most_common(12))


def waiting(device: str, quick: bool) -> Report:
    report: Report = {}
    for arm in ("none", "recall", "per"):
        sac = make("sac", arm, "PointMaze-U", 4, device, num_envs=1, gradient_steps=1, learning_starts=100, buffer_size=4000)
        sac.learn(384)
        steps = 256
        found = count_waits(device, lambda sac=sac, steps=steps: sac.learn(steps))
        report[f"sac, {arm}, {steps} gradient steps"] = {"waits": sum(found.values()), "where": found}
    for arm in ("none", "recall"):
        ppo = make("ppo", arm, "FourRooms-13", 4, device, num_envs=8)
        ppo.learn(1024)
        found = count_waits(device, lambda ppo=ppo: ppo.learn(1024))
        report[f"ppo, {arm}, 128 environment steps of 8"] = {"waits": sum(found.values()), "where": found}
    return report


def memory(device: str, quick: bool) -> Report:
    if not device.startswith("cuda"):
        return {}
    num_seeds, capacity = 16, 100_000 if quick else 1_000_000
    before = torch.cuda.memory_allocated()
    sac = make("sac", "none", "PointMaze-U", num_seeds, device, num_envs=1, buffer_size=capacity)
    taken = torch.cuda.memory_allocated() - before
    said = replay_bytes(sac.env.observation_space, sac.env.action_space, num_seeds, capacity)
    return {"said": said, "taken_with_networks": taken}


def speed(device: str, quick: bool) -> Report:
    report: Report = {}
    cases = [(units, seeds, arm) for units in (64, 256) for seeds in (1, 8, 64, 256) for arm in ("none", "recall")]
    for units, num_seeds, arm in cases:
        if (arm == "recall" and (units == 256 or num_seeds == 256)) or (quick and num_seeds > 8):
            continue
        sizes = {"gradient_steps": 1, "learning_starts": 256, "buffer_size": 20_000, "net_arch": (units, units)}
        sac = make("sac", arm, "PointMaze-U", num_seeds, device, num_envs=1, batch_size=256, **sizes)
        sac.learn(384)
        wait(device)
        steps, began = 128 if quick else 384, time.perf_counter()
        sac.learn(steps)
        wait(device)
        seconds = time.perf_counter() - began
        report[f"sac, {units}x{units}, {num_seeds} seeds, {arm}"] = round(num_seeds * steps / seconds)
    for num_seeds in (1, 16) if quick else (1, 16, 256, 2048):
        sizes = {"n_steps": 128, "batch_size": 256, "n_epochs": 4}
        ppo = make("ppo", "none", "CartPole-v1", num_seeds, device, num_envs=8, **sizes)
        ppo.learn(2048)
        wait(device)
        steps, began = 8 * 1024, time.perf_counter()
        ppo.learn(steps)
        wait(device)
        report[f"ppo, {num_seeds} seeds"] = round(num_seeds * steps / (time.perf_counter() - began))
    return report


PARTS: dict[str, Callable[[str, bool], Report]] = {
    part.__name__: part for part in (environments, replays, learners, ways, waiting, memory, speed)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="few steps")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=pathlib.Path, help="also write the report there, after every part")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    report: Report = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}
    if options.device.startswith("cuda"):
        report["gpu"] = torch.cuda.get_device_name(options.device)
    for name in options.parts:
        began = time.perf_counter()
        try:
            report[name] = PARTS[name](options.device, options.quick)
        except Exception as error:  # the other parts are worth knowing
            report[name] = {"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc()[-1500:]}
        report[f"seconds of {name}"] = time.perf_counter() - began
        if options.out:
            options.out.write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
