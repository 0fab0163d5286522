"""Environment steps of MuJoCo tasks per second, against bare physics and against Gymnasium's vector environments.

    python scripts/benchmark_mujoco.py [--tasks Ant ...] [--worlds 64] [--rounds 5] [--seconds 5]
    python scripts/benchmark_mujoco.py --engine warp [--device cuda] [--worlds 1024 8192 16384]

On the CPU, with 64 environments on the cores that the process may use:

* `physics`: `mujoco.rollout` on as many threads as cores, whole trajectories in one call, of the model as Gymnasium has it; no
  observation, reward or reset. It steps the same states with the same actions as
* `ours, no ends`: our environment, in which no episode ends, so that both simulate the same.
* `ours`: our environment as it is, which resets the worlds whose episodes end.
* `async`, `sync`: `gymnasium.make_vec` in these modes, of Gymnasium's own environments.

With `--engine warp`: `ours` and `ours, no ends` on that engine against `bare step`, `frame_skip` of `mujoco_warp.step` in one
CUDA graph, with the same buffers, states and actions; and `PPO`, which trains in `ours` by 32-step rollouts, 5 epochs of 4
minibatches and networks of 400, 200 and 100 units, as Isaac Lab's humanoid does. With `--device cpu --tasks Hopper --worlds 4
--seconds 0.1` it runs anywhere, to see that it runs; the first run compiles for minutes.

Actions are uniform, but PPO's. Each round times every contestant once, in turn, warm-up excluded; on the CPU in a process of its
own, on a GPU all of a task in one, so that what takes long there, to load and to capture, is done once. Quoted are the medians
and the ratios within a round. Writes `runs/benchmark_mujoco.json`. About `rounds × tasks × 5 × (seconds + 5 s)`.
"""

import argparse
import importlib.metadata
import itertools
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

TASKS = ("Hopper", "HalfCheetah", "Walker2d", "Ant", "Humanoid")
CPU_CONTESTANTS = ("physics", "ours, no ends", "ours", "async", "sync")
CPU_RATIOS = (("ours, no ends", "physics"), ("ours", "async"), ("ours", "sync"))
WARP_CONTESTANTS = ("bare step", "ours, no ends", "ours", "PPO")
WARP_RATIOS = (("ours, no ends", "bare step"), ("ours", "bare step"), ("PPO", "bare step"))
BLOCK = 20
"""Steps with actions of their own, played again and again."""
ROLLOUT = 32
"""Steps of every environment between two updates of PPO."""


def speed(
    step: Callable[[int], Any], worlds: int, seconds: float, wait: Callable[[], Any] = lambda: None, steps_per_call: int = 1
) -> float:
    """Steps of all worlds per second, of calls that are given 0, 1, 2, ..."""
    between_looks = max(1, BLOCK // 2 // steps_per_call)
    for k in range(between_looks):
        step(k)
    wait()
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(between_looks):
            step(calls)
            calls += 1
        wait()
    return calls * steps_per_call * worlds / (time.perf_counter() - began)


def make_ours(task: str, worlds: int, engine: str, device: str, ends: bool) -> Any:
    from recall_traces import envs

    options = {} if ends or task == "HalfCheetah" else {"terminate_when_unhealthy": False}
    env: Any = envs.make(f"{task}-v5", worlds, device=device, engine=engine, **options)
    if not ends:
        env.horizon = sys.maxsize
    return env


def draw_actions(env: Any) -> Any:
    """Uniform, `(BLOCK, worlds, action)`."""
    import torch

    low, high = (torch.from_numpy(bound).to(env.device) for bound in (env.action_space.low, env.action_space.high))
    generator = torch.Generator(env.device).manual_seed(0)
    return torch.rand(BLOCK, env.num_envs, len(low), generator=generator, device=env.device) * (high - low) + low


def measure_ours(task: str, worlds: int, seconds: float, ends: bool) -> float:
    env = make_ours(task, worlds, "cpu", "cpu", ends)
    actions = draw_actions(env).unbind(0)
    return speed(lambda k: env.step(actions[k % BLOCK]), worlds, seconds)


def measure_physics(task: str, worlds: int, seconds: float) -> float:
    import mujoco
    import numpy as np
    from mujoco.rollout import Rollout

    from recall_traces.envs.mujoco.build import load_model
    from recall_traces.envs.mujoco.cpu_engine import num_cores

    env = make_ours(task, worlds, "cpu", "cpu", ends=False)
    frame_skip = env.task._options.frame_skip
    model = load_model(env.task._options.xml_file)
    full = mujoco.mjtState.mjSTATE_FULLPHYSICS
    states = env.get_state()["physics"][:, : mujoco.mj_stateSize(model, full)].numpy()
    controls = np.repeat(draw_actions(env).double().numpy().swapaxes(0, 1), frame_skip, axis=1)
    datas = [mujoco.MjData(model) for _ in range(num_cores())]
    with Rollout(nthread=len(datas)) as rollout:

        def block(k: int) -> None:
            nonlocal states
            trajectory, _ = rollout.rollout([model] * worlds, datas, states, controls, nstep=BLOCK * frame_skip)
            states = trajectory[:, -1]

        return speed(block, worlds, seconds, steps_per_call=BLOCK)


def measure_gymnasium(task: str, worlds: int, seconds: float, mode: str) -> float:
    import gymnasium

    env = gymnasium.make_vec(f"{task}-v5", num_envs=worlds, vectorization_mode=mode)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(BLOCK)]
    found = speed(lambda k: env.step(actions[k % BLOCK]), worlds, seconds)
    env.close()
    return found


def bare_step(env: Any) -> Callable[[int], Any]:
    """`frame_skip` of `mujoco_warp.step` in one graph, on an environment's own buffers."""
    import mujoco_warp
    import warp as wp

    actions, frame_skip = draw_actions(env).unbind(0), env.task._options.frame_skip
    data, model = env.engine._data, env.engine._model
    model.callback.contactfilter = None  # which is our addition
    controls = wp.to_torch(data.ctrl)
    with wp.ScopedDevice(wp.device_from_torch(env.device)), wp.ScopedCapture() as capture:
        for _ in range(frame_skip):
            mujoco_warp.step(model, data)

    def step(k: int) -> None:
        controls.copy_(actions[k % BLOCK])
        env.engine._replay(capture.graph)

    return step


def training(env: Any) -> Callable[[int], Any]:
    """One rollout and update of PPO."""
    from recall_traces.agents.ppo import PPO, PPOConfig

    minibatch, units = ROLLOUT * env.num_envs // 4, (400, 200, 100)
    config = PPOConfig(n_steps=ROLLOUT, batch_size=minibatch, n_epochs=5, net_arch=units, activation="elu")
    ppo = PPO(env, config)
    return lambda k: ppo.learn(ROLLOUT * env.num_envs)


def measure_warp(task: str, worlds: int, seconds: float, rounds: int, device: str) -> dict[str, list[float]]:
    """Environment steps per second of all contestants in each round, in this process."""
    import torch

    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    contestants: dict[str, tuple[Callable[[int], Any], int]] = {}
    for name in WARP_CONTESTANTS:
        env = make_ours(task, worlds, "warp", device, ends=name in ("ours", "PPO"))
        actions = draw_actions(env).unbind(0)
        if name == "bare step":
            contestants[name] = bare_step(env), 1
        elif name == "PPO":
            contestants[name] = training(env), ROLLOUT
        else:
            contestants[name] = lambda k, env=env, actions=actions: env.step(actions[k % BLOCK]), 1
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for _, (name, (step, steps)) in itertools.product(range(rounds), contestants.items()):
        speeds[name].append(speed(step, worlds, seconds, wait, steps))
        print(f"{task:12s} {worlds:6d} {name:14s} {speeds[name][-1]:12.0f} steps per second", file=sys.stderr, flush=True)
    return speeds


def measure_cpu(contestant: str, task: str, worlds: int, seconds: float) -> float:
    """Environment steps per second of one contestant, in this process."""
    if contestant == "physics":
        return measure_physics(task, worlds, seconds)
    if contestant in ("async", "sync"):
        return measure_gymnasium(task, worlds, seconds, contestant)
    return measure_ours(task, worlds, seconds, ends=contestant == "ours")


def hardware(engine: str, device: str) -> dict[str, Any]:
    from recall_traces.envs.mujoco.cpu_engine import num_cores

    cpu = pathlib.Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if "model name" in line] if cpu.exists() else []
    )
    found: dict[str, Any] = {"processor": (names or [platform.processor() or platform.machine()])[0], "cores": num_cores()}
    packages = ("mujoco", "gymnasium", "torch", "numpy", *(("mujoco-warp", "warp-lang") if engine == "warp" else ()))
    found["versions"] = {name: importlib.metadata.version(name) for name in packages}
    if device.startswith("cuda"):
        import torch

        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return found


def summarize(speeds: dict[str, list[float]], pairs: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """Medians, and ratios within rounds."""
    ratios = {}
    for over, under in pairs:
        found = sorted(a / b for a, b in zip(speeds[over], speeds[under], strict=True))
        ratios[f"{over} / {under}"] = {"min": found[0], "median": statistics.median(found), "max": found[-1]}
    return {"steps per second": {name: statistics.median(values) for name, values in speeds.items()}, "ratios": ratios}


def in_process_of_its_own(*given: str) -> Any:
    """What this script prints last, called with these arguments."""
    command = [sys.executable, "-W", "ignore", __file__, *given]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def main(arguments: argparse.Namespace) -> None:
    warp, seconds = arguments.engine == "warp", str(arguments.seconds)
    worlds = arguments.worlds or ([1024, 8192, 16384] if warp else [64])
    cases = list(itertools.product(arguments.tasks, worlds))
    speeds: dict[tuple[str, int], dict[str, list[float]]] = {}
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d")}
    result["hardware"] = hardware(arguments.engine, arguments.device if warp else "cpu")
    path = pathlib.Path(arguments.out)
    path.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        ratios = WARP_RATIOS if warp else CPU_RATIOS
        result["tasks"] = {f"{task}-v5, {number} worlds": summarize(found, ratios) for (task, number), found in speeds.items()}
        path.write_text(json.dumps(result, indent=1))

    if warp:
        for task in arguments.tasks:
            given = ["--measure", "warp", "--tasks", task, "--worlds", *map(str, worlds), "--seconds", seconds]
            found = in_process_of_its_own(*given, "--rounds", str(arguments.rounds), "--device", arguments.device)
            speeds |= {(task, number): found[str(number)] for number in worlds}
            keep()
    else:
        for _ in range(arguments.rounds):
            for (task, number), name in itertools.product(cases, CPU_CONTESTANTS):
                given = ["--measure", name, "--tasks", task, "--worlds", str(number), "--seconds", seconds]
                found = speeds.setdefault((task, number), {}).setdefault(name, [])
                found.append(float(in_process_of_its_own(*given)))
                print(f"{task:12s} {number:6d} {name:14s} {found[-1]:12.0f} steps per second", flush=True)
            keep()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("cpu", "warp"), default="cpu")
    parser.add_argument("--device", default="cuda", help="of the warp engine")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--worlds", nargs="+", type=int, help="64; of the warp engine 1024 8192 16384")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="that each contestant is timed for")
    parser.add_argument("--out", default="runs/benchmark_mujoco.json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure == "warp":
        (task,) = given.tasks
        print(json.dumps({n: measure_warp(task, n, given.seconds, given.rounds, given.device) for n in given.worlds}))
    elif given.measure:
        print(json.dumps(measure_cpu(given.measure, given.tasks[0], given.worlds[0], given.seconds)))
    else:
        main(given)
