"""Check the warp engine on this machine, in one call; prints JSON. `benchmark_mujoco.py --engine warp` tells how fast it is.

    python scripts/check_warp.py [--device cuda] [--worlds 1024 4096 16384] [--tasks Ant ...] [--quick]

For each task:

* `parity`: one environment step from states along random rollouts, against MuJoCo's C library in double precision: per field the
  share of states with a relative error (of the largest value, or of 1) up to 1e-3, and the median and largest error.
* `graph`: the captured step against the same calls of MuJoCo Warp made one by one, on torch's current stream and on another.
* `broken`: worlds that are given NaN are flagged and put back, and go on as if new; others do not notice.
* `waiting`: steps and resets with torch's check for hidden waiting switched on, and how long a call keeps the host. Warp's own
  waiting would show as a share near 1 where the device is busy.
* `memory`: bytes per world, taken from the device, and as the message about too many worlds estimates them.

With `--device cpu --worlds 4 --quick` it runs anywhere, to see that it runs. The first run compiles for minutes.
"""

import argparse
import json
import sys
import time
from typing import Any

import mujoco
import mujoco_warp
import numpy as np
import torch
import warp as wp
from benchmark_mujoco import hardware

from recall_traces.envs.mujoco import warp_engine
from recall_traces.envs.mujoco.build import load_model
from recall_traces.envs.mujoco.warp_engine import WarpEngine

# Model, substeps, derived fields that the environment reads.
TASKS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "Hopper": ("hopper.xml", 4, ()),
    "HalfCheetah": ("half_cheetah.xml", 5, ()),
    "Walker2d": ("walker2d_v5.xml", 4, ()),
    "Ant": ("ant.xml", 5, ("xpos", "cfrc_ext")),
    "Humanoid": ("humanoid.xml", 5, ("xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext", "ten_length", "ten_velocity")),
}
FIELDS = ("cfrc_ext", "cinert", "cvel", "qfrc_actuator", "xpos", "xipos")


def controls_for(model: mujoco.MjModel, worlds: int, device: torch.device, count: int = 1, seed: int = 0) -> torch.Tensor:
    """Uniform random controls, `(count, worlds, nu)`."""
    low, high = model.actuator_ctrlrange.T
    values = np.random.default_rng(seed).uniform(low, high, (count, worlds, model.nu))
    return torch.tensor(values, dtype=torch.float32, device=device)


def states_along_rollouts(model: mujoco.MjModel, frame_skip: int, count: int) -> list[tuple[np.ndarray, ...]]:
    """Positions, velocities and warm starts, every tenth step of random episodes of 200, and controls for the next step."""
    rng, data, found = np.random.default_rng(0), mujoco.MjData(model), []
    while len(found) < count:
        mujoco.mj_resetData(model, data)
        data.qpos[:] += rng.uniform(-0.01, 0.01, model.nq)
        data.qvel[:] += rng.normal(0, 0.01, model.nv)
        for step in range(200):
            controls = rng.uniform(*model.actuator_ctrlrange.T)
            if step % 10 == 9:
                found.append((data.qpos.copy(), data.qvel.copy(), data.qacc_warmstart.copy(), controls))
            data.ctrl[:] = controls
            mujoco.mj_step(model, data, frame_skip)
    return found[:count]


def parity(model: mujoco.MjModel, frame_skip: int, device: torch.device, count: int) -> dict[str, Any]:
    states = states_along_rollouts(model, frame_skip, count)
    expected: dict[str, list[np.ndarray]] = {name: [] for name in ("qpos", "qvel", *FIELDS)}
    for qpos, qvel, warm_start, controls in states:
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:], data.ctrl[:] = qpos, qvel, warm_start, controls
        mujoco.mj_step(model, data, frame_skip)
        mujoco.mj_rnePostConstraint(model, data)
        for name, values in expected.items():
            values.append(getattr(data, name).ravel().copy())
    engine = WarpEngine(model, count, frame_skip, FIELDS, device)
    qpos, qvel, _, controls = (torch.tensor(np.array(values), device=device) for values in zip(*states, strict=True))
    engine.reset(torch.ones(count, dtype=torch.bool, device=device), qpos, qvel)
    engine.step(controls)
    engine.check()
    report = {}
    for name, values in expected.items():
        reference = np.array(values)
        error = np.abs(engine.fields[name].double().cpu().numpy().reshape(count, -1) - reference).max(1)
        error /= np.maximum(1, np.abs(reference).max(1))
        report[name] = {
            "within_1e-3": float((error <= 1e-3).mean()),
            "median": float(np.median(error)),
            "largest": float(error.max()),
        }
    return {"states": count, "fields": report, "holds": all(field["within_1e-3"] >= 0.95 for field in report.values())}


def graph(model: mujoco.MjModel, frame_skip: int, device: torch.device, worlds: int) -> dict[str, Any]:
    """Largest differences of positions after one step; not 0 on a GPU, where sums have no fixed order."""
    engine = WarpEngine(model, worlds, frame_skip, (), device)
    everywhere = torch.ones(worlds, dtype=torch.bool, device=device)
    pool = controls_for(model, worlds, device, 20)
    for controls in pool:
        engine.step(controls)
    state, positions = engine.get_state(), engine.fields["qpos"]
    engine.step(pool[0])
    captured = positions.clone()

    engine.set_state(everywhere, state)
    engine._ctrl.copy_(pool[0])
    synchronize(device)
    with wp.ScopedDevice(wp.device_from_torch(device)):
        for _ in range(frame_skip):
            mujoco_warp.step(engine._model, engine._data)
        wp.synchronize_device()
    report = {"against_one_by_one": float((captured - positions).abs().max())}
    if device.type == "cuda":
        engine.set_state(everywhere, state)
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            engine.step(pool[0])
        torch.cuda.current_stream(device).wait_stream(side)
        report["on_another_stream"] = float((captured - positions).abs().max())
    report["holds"] = max(report.values()) < 1e-3
    return report


def broken(model: mujoco.MjModel, frame_skip: int, device: torch.device, worlds: int) -> dict[str, Any]:
    engine = WarpEngine(model, worlds, frame_skip, FIELDS, device)
    everywhere = torch.ones(worlds, dtype=torch.bool, device=device)
    pool = controls_for(model, worlds, device, 20)
    for controls in pool:
        engine.step(controls)
    state = engine.get_state()
    engine.step(pool[0])
    undisturbed = engine.fields["qpos"].clone()
    engine.set_state(everywhere, state)
    some = torch.arange(worlds, device=device) % 2 == 0
    engine.fields["qpos"][some, -1] = torch.nan
    engine.step(pool[0])
    engine.check()
    report: dict[str, Any] = {
        "flagged": bool(torch.equal(engine.broken, some)),
        "finite": all(bool(field.isfinite().all()) for field in engine.fields.values()),
        "change_of_others": float((engine.fields["qpos"] - undisturbed)[~some].abs().max()),
        "later": 0,
    }
    for controls in pool:
        engine.step(controls)
        report["later"] += int(engine.broken.sum())
    report["holds"] = report["flagged"] and report["finite"] and not report["later"] and report["change_of_others"] < 1e-3
    return report


def waiting(engine: WarpEngine, pool: torch.Tensor, few: torch.Tensor, steps: int) -> dict[str, Any]:
    device = engine.device
    qpos, qvel = engine.fields["qpos"].clone(), engine.fields["qvel"].clone()

    def calls() -> None:
        for index in range(steps):
            engine.step(pool[index % len(pool)])
            engine.reset(few, qpos, qvel)

    calls()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        began = time.perf_counter()
        calls()
        on_host = time.perf_counter() - began
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    synchronize(device)
    altogether = time.perf_counter() - began
    return {"host_us_per_call": 1e6 * on_host / (2 * steps), "share_on_host": on_host / altogether}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_bytes(device: torch.device) -> int:
    synchronize(device)
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def check_task(task: str, device: torch.device, world_counts: list[int], quick: bool) -> dict[str, Any]:
    xml_file, frame_skip, fields = TASKS[task]
    model = load_model(xml_file)
    report: dict[str, Any] = {}
    began = time.perf_counter()
    report["parity"] = parity(model, frame_skip, device, 20 if quick else 100)
    report["seconds_to_first_results"] = time.perf_counter() - began
    report["graph"] = graph(model, frame_skip, device, 8)
    report["broken"] = broken(model, frame_skip, device, 8)
    for worlds in world_counts:
        free = free_bytes(device)
        began = time.perf_counter()
        engine = WarpEngine(model, worlds, frame_skip, fields, device)
        row: dict[str, Any] = {"seconds_to_build": time.perf_counter() - began, **engine._sizes}
        taken = free - free_bytes(device)
        row["memory"] = {
            "bytes_per_world": taken / worlds if device.type == "cuda" else None,
            "estimate": warp_engine._bytes_per_world(warp_engine._served(model)[0], engine._sizes),
        }
        pool = controls_for(model, worlds, device, 16)
        few = torch.arange(worlds, device=device) % 100 == 0
        for index in range(5 if quick else 100):  # until bodies lie on the floor
            engine.step(pool[index % len(pool)])
        row["waiting"] = waiting(engine, pool, few, 5 if quick else 100)
        engine.check()
        row["broken_in_last_step"] = int(engine.broken.sum())
        report[f"{worlds} worlds"] = row
        print(f"{task}, {worlds} worlds", file=sys.stderr, flush=True)
        engine.close()
        del engine
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--worlds", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--quick", action="store_true", help="few states and steps")
    options = parser.parse_args()
    device = warp_engine._with_index(options.device)
    report: dict[str, Any] = {"hardware": hardware("warp", str(device)), "tasks": {}}
    for task in options.tasks:
        try:
            report["tasks"][task] = check_task(task, device, options.worlds, options.quick)
        except (RuntimeError, MemoryError) as error:  # the other tasks' numbers are worth having
            report["tasks"][task] = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
