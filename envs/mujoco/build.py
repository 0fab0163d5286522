"""From a task and its options to an environment: the model, the engine, the payout."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import gymnasium
import mujoco
import torch

from recall_traces.envs.interface import check_device
from recall_traces.envs.mujoco.cpu_engine import CPUEngine
from recall_traces.envs.mujoco.engine import Engine
from recall_traces.envs.mujoco.env import MujocoEnv
from recall_traces.envs.mujoco.payout import Dense, Payout
from recall_traces.envs.mujoco.task import ENGINES, MujocoConfig, Task

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


def build(
    name: str,
    task_class: Callable[[Any, mujoco.MjModel], Task] | str,
    payout_class: Callable[[int, torch.device, torch.dtype], Payout] | str = Dense,
    *,
    options: Any,
    num_envs: int,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> MujocoEnv:
    """Build an environment of a MuJoCo task.

    Args:
        name: of the environment, for messages.
        task_class: such as `Reacher` in `recall_traces.envs.mujoco.reacher`, or where to import it from, `module:name`.
        payout_class: when rewards are paid, one of `recall_traces.envs.mujoco.payout`, likewise.
        options: the task's, a `MujocoConfig`.
        num_envs: copies.
        device: where observations and rewards live.
        seed: of the first states.

    Raises:
        ValueError: there is no such model, the task cannot use it, there is no such device, or the engine is not installed.
        MemoryError: so many worlds do not fit.
    """
    device = check_device(device)
    model = load_model(options.xml_file)
    try:
        task: Task = _imported(task_class)(options, model)
    except KeyError as error:
        raise ValueError(f"xml_file is {options.xml_file!r}, a model that {name} cannot use: {error.args[0]}") from error
    engine = make_engine(model, num_envs, task.fields, device, options)
    payout: Payout = _imported(payout_class)(num_envs, engine.device, engine.dtype)
    return MujocoEnv(name, model, task, payout, engine, seed, getattr(torch, options.dtype))


def make_engine(
    model: mujoco.MjModel, num_worlds: int, fields: tuple[str, ...], device: torch.device, options: MujocoConfig
) -> Engine:
    """The engine that the options ask for.

    Raises:
        ValueError: it is not installed.
    """
    which = options.engine
    if which == "auto":
        which = "warp" if device.type == "cuda" else "cpu"
    if which == "cpu":
        return CPUEngine(model, num_worlds, options.frame_skip, fields, device, options.num_threads)
    assert which in ENGINES
    try:
        from recall_traces.envs.mujoco.warp_engine import WarpEngine
    except ImportError as error:
        raise ValueError(
            "the engine 'warp' needs MuJoCo Warp: pip install 'recall-traces[gpu]'; or choose the engine 'cpu'"
        ) from error
    sizes: dict[str, int | None] = {name: getattr(options, name) for name in ("contacts_per_world", "constraints_per_world")}
    return WarpEngine(model, num_worlds, options.frame_skip, fields, device, **sizes)


def load_model(xml_file: str) -> mujoco.MjModel:
    """The model in a file: one of Gymnasium's, or a path that starts with '/', '.' or '~'.

    Raises:
        ValueError: there is no such file, or it is no model.
    """
    path = Path(xml_file).expanduser() if xml_file.startswith(("/", ".", "~")) else ASSETS / xml_file
    try:
        # By way of the specification, MuJoCo gives its warnings to Python, instead of writing a log into the current folder.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return mujoco.MjSpec.from_file(str(path)).compile()
    except (ValueError, OSError) as error:
        raise ValueError(f"xml_file is {xml_file!r}, which cannot be loaded: {' '.join(str(error).split())}") from error


def _imported(where: Any) -> Any:
    """What a `module:name` stands for; anything else as it is."""
    return resolve_name(where) if isinstance(where, str) else where
