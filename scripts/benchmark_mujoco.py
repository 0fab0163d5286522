"""Environment steps of MuJoCo tasks per second, against bare physics and against Gymnasium's vector environments.

    python scripts/benchmark_mujoco.py [--tasks Ant ...] [--worlds 64] [--rounds 5] [--seconds 5]
    python scripts/benchmark_mujoco.py --engine warp [--device cuda] [--worlds 1024 4096 16384]

On the CPU, with 64 environments on the cores that the process may use:

* `physics`: `mujoco.rollout` on as many threads as cores, whole trajectories in one call, of the model as Gymnasium has it; no
  observation, reward or reset. It steps the same states with the same actions as
* `ours, no ends`: our environment, in which no episode ends, so that both simulate the same.
* `ours`: our environment as it is, which resets the worlds whose episodes end.
* `async`, `sync`: `gymnasium.make_vec` in these modes, of Gymnasium's own environments.

With `--engine warp`: `ours` and `ours, no ends` on that engine against `bare step`, `frame_skip` of `mujoco_warp.step` in one
CUDA graph, with the same buffers, states and actions. With `--device cpu --tasks Hopper --worlds 4 --seconds 0.1` it runs
anywhere, to see that it runs; the first run compiles for minutes.

Actions are uniform. Each round times every contestant once, in turn, in a process of its own, warm-up excluded; quoted are the
medians and the ratios within a round. Writes `runs/benchmark_mujoco.json`. About `rounds × tasks × 5 × (seconds + 5 s)`.
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
WARP_CONTESTANTS = ("bare step", "ours, no ends", "ours")
WARP_RATIOS = (("ours, no ends", "bare step"),)
BLOCK = 20
"""Steps with actions of their own, played again and again."""


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


def measure_ours(task: str, worlds: int, seconds: float, engine: str, device: str, ends: bool) -> float:
    import torch

    env = make_ours(task, worlds, engine, device, ends)
    actions = draw_actions(env).unbind(0)
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    return speed(lambda k: env.step(actions[k % BLOCK]), worlds, seconds, wait)


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


def measure_bare_warp(task: str, worlds: int, seconds: float, device: str) -> float:
    import mujoco_warp
    import torch
    import warp as wp

    env = make_ours(task, worlds, "warp", device, ends=False)
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

    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    return speed(step, worlds, seconds, wait)


def measure(contestant: str, task: str, worlds: int, seconds: float, engine: str, device: str) -> float:
    """Environment steps per second of one contestant, in this process."""
    if contestant == "physics":
        return measure_physics(task, worlds, seconds)
    if contestant in ("async", "sync"):
        return measure_gymnasium(task, worlds, seconds, contestant)
    if contestant == "bare step":
        return measure_bare_warp(task, worlds, seconds, device)
    return measure_ours(task, worlds, seconds, engine, device, ends=contestant == "ours")


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


def main(arguments: argparse.Namespace) -> None:
    warp = arguments.engine == "warp"
    device = arguments.device if warp else "cpu"
    contestants, pairs = (WARP_CONTESTANTS, WARP_RATIOS) if warp else (CPU_CONTESTANTS, CPU_RATIOS)
    worlds = arguments.worlds or ([1024, 4096, 16384] if warp else [64])
    cases = list(itertools.product(arguments.tasks, worlds))
    speeds: dict[tuple[str, int], dict[str, list[float]]] = {case: {name: [] for name in contestants} for case in cases}
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "hardware": hardware(arguments.engine, device)}
    path = pathlib.Path(arguments.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(arguments.rounds):
        for (task, number), name in itertools.product(cases, contestants):
            command = [sys.executable, "-W", "ignore", __file__, "--measure", name, "--tasks", task, "--worlds", str(number)]
            command += ["--seconds", str(arguments.seconds), "--engine", arguments.engine, "--device", device]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            speeds[task, number][name].append(float(json.loads(output.strip().splitlines()[-1])["speed"]))
            print(f"{task:12s} {number:6d} {name:14s} {speeds[task, number][name][-1]:12.0f} steps per second", flush=True)
        result["tasks"] = {
            f"{task}-v5, {number} worlds": summarize(found, pairs)
            for (task, number), found in speeds.items()
            if found[contestants[-1]]
        }
        path.write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("cpu", "warp"), default="cpu")
    parser.add_argument("--device", default="cuda", help="of the warp engine")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--worlds", nargs="+", type=int, help="64; of the warp engine 1024 4096 16384")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="that each contestant is timed for")
    parser.add_argument("--out", default="runs/benchmark_mujoco.json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        case = (given.measure, given.tasks[0], given.worlds[0], given.seconds, given.engine, given.device)
        print(json.dumps({"speed": measure(*case)}))
    else:
        main(given)
