"""From a name to an environment. Nothing here imports torch, so that registering costs nothing."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    import torch

    from recall_traces.envs.interface import VectorEnv

FORCED_PREFIX = "gymnasium/"
"""`gymnasium/CartPole-v1` is Gymnasium's, where `CartPole-v1` is ours."""


@dataclass(frozen=True)
class _Family:
    """Environments that share a factory: their names differ in the number that stands for `<n>`."""

    factory: Callable[..., VectorEnv] | str
    options_class: type[Any] | str | None
    arguments: tuple[Any, ...] = ()
    """What the factory gets before the number."""


_LAYOUTS = ("U", "Medium", "Large")
_MUJOCO = "recall_traces.envs.mujoco"
_WALKERS = {"Hopper": "hopper", "HalfCheetah": "half_cheetah", "Walker2d": "walker2d", "Ant": "ant", "Humanoid": "humanoid"}
"""Tasks of going forward, and their modules; only these have a sparse and a delayed version."""
_TASKS = _WALKERS | {"Reacher": "reacher"}
_PAYOUTS = {"": "Dense", "Sparse": "Sparse", "Delayed": "Delayed"}


def _mujoco(task: str, payout: str = "") -> tuple[str, _Family]:
    """Name and family of a MuJoCo task with a payout."""
    name, module = f"{payout}{task}-v5", f"{_MUJOCO}.{_TASKS[task]}"
    arguments = (name, f"{module}:{task}", f"{_MUJOCO}.payout:{_PAYOUTS[payout]}")
    return name, _Family(f"{_MUJOCO}.build:build", f"{module}:{task}Config", arguments)


_FAMILIES: dict[str, _Family] = {
    "FourRooms-<n>": _Family("recall_traces.envs.four_rooms:FourRooms", "recall_traces.envs.four_rooms:FourRoomsConfig"),
    "CartPole-v1": _Family("recall_traces.envs.cart_pole:CartPole", "recall_traces.envs.cart_pole:CartPoleConfig"),
    **{
        f"PointMaze-{layout}": _Family(
            "recall_traces.envs.point_maze:PointMaze", "recall_traces.envs.point_maze:PointMazeConfig", (layout,)
        )
        for layout in _LAYOUTS
    },
    "PointMass-<n>": _Family("recall_traces.envs.point_mass:PointMass", "recall_traces.envs.point_mass:PointMassConfig"),
    **dict(_mujoco(task) for task in _TASKS),
    **dict(_mujoco(task, payout) for payout in ("Sparse", "Delayed") for task in _WALKERS),
}


def register(name_pattern: str, factory: Callable[..., VectorEnv] | str, options_class: type[Any] | str | None = None) -> None:
    """Make a batched environment known to `make`, and with it to the command line.

    A later registration of the same name replaces the earlier one.

    Args:
        name_pattern: the name; `<n>` in it stands for a whole number, which the factory gets as its first argument.
        factory: called as `factory([n,] num_envs=, device=, seed=, options=)`; or where to import it from, `module:name`.
        options_class: a dataclass of options with defaults, or where to import it from. With None the factory gets
            the options as keywords of their own instead of `options=`.

    Raises:
        ValueError: the name is empty or has more than one `<n>`.
    """
    if not name_pattern or name_pattern.count("<n>") > 1:
        raise ValueError(f"an environment cannot be registered as {name_pattern!r}: give a name with at most one <n> in it")
    _FAMILIES[name_pattern] = _Family(factory, options_class)


def registered_ids() -> list[str]:
    """Names of our own and the user's batched environments; `<n>` in a name stands for a whole number."""
    return list(_FAMILIES)


def options_class(env_id: str) -> type[Any] | None:
    """The dataclass of an environment's options; None where options are free keywords (Gymnasium's environments).

    Raises:
        ValueError: there is no environment of this name.
    """
    found = _find_family(env_id)
    if found is None:
        _gymnasium_id(env_id)
        return None
    return _resolve(found[0].options_class)


def make(env_id: str, num_envs: int = 1, device: str | torch.device = "cpu", seed: int = 0, **options: Any) -> VectorEnv:
    """Build `num_envs` copies of an environment.

    Args:
        env_id: one of `registered_ids()`, or any Gymnasium id (`Pendulum-v1`). Ours win; `gymnasium/` in front of the name
            forces Gymnasium's. `module:name` imports the module first, which registers the environment.
        num_envs: copies, all seeds of a fleet together.
        device: where observations and rewards live.
        seed: seeds every draw of the environment.
        options: the fields of `options_class(env_id)`, or keywords of the Gymnasium environment.

    Raises:
        ValueError: unknown name, option or device, or a value out of range; the message names it and what would be valid.
    """
    for name, value, least in (("num_envs", num_envs, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    from recall_traces.envs.interface import check_device

    check_device(device)
    found = _find_family(env_id)
    if found is None:
        from recall_traces.envs.gymnasium_adapter import GymnasiumVectorEnv

        if "engine" in options:
            *ours, last = (f"{task}-v5" for task in _TASKS)
            known = f"{', '.join(ours)} and {last}"
            raise ValueError(f"{env_id} is Gymnasium's own and has no engine to choose; those that have are {known}")
        return GymnasiumVectorEnv(_gymnasium_id(env_id), num_envs, device, seed, options)
    family, arguments = found
    options_type = _resolve(family.options_class)
    factory = _resolve(family.factory)
    if options_type is None:
        return factory(*arguments, num_envs=num_envs, device=device, seed=seed, **options)
    valid = [field.name for field in fields(options_type)]
    for name in options:
        if name not in valid:
            near = _nearest(name, valid)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"{env_id} has no option {name!r}; {hint}valid options: {', '.join(valid) or 'none'}")
    return factory(*arguments, num_envs=num_envs, device=device, seed=seed, options=options_type(**options))


def register_with_gymnasium() -> None:
    """Make ours known to `gymnasium.make` and `make_vec` as `recall_traces/CartPole-v1`; names without a version get `-v0`.

    Sizes of `FourRooms-<n>` are the odd ones from 7 to 31.
    """
    names = [f"FourRooms-{size}" for size in range(7, 32, 2)]
    names += [f"PointMaze-{layout}" for layout in _LAYOUTS] + [f"PointMass-{dimensions}" for dimensions in range(2, 9)]
    ours: list[tuple[str, str, float | None]] = [(name, f"{name}-v0", 1.0) for name in names]
    ours.append(("CartPole-v1", "CartPole-v1", 475.0))
    for task in _TASKS:
        threshold = gymnasium.registry[f"{task}-v5"].reward_threshold
        payouts = {"": threshold, "Sparse": None, "Delayed": threshold} if task in _WALKERS else {"": threshold}
        ours += [(f"{payout}{task}-v5", f"{payout}{task}-v5", value) for payout, value in payouts.items()]
    for env_id, name, reward_threshold in ours:
        if f"recall_traces/{name}" not in gymnasium.registry:
            gymnasium.register(
                f"recall_traces/{name}",
                entry_point="recall_traces.envs.single:SingleEnv",
                vector_entry_point="recall_traces.envs.gymnasium_vector:GymnasiumVector",
                reward_threshold=reward_threshold,
                kwargs={"env_id": env_id},
            )


def _find_family(env_id: str) -> tuple[_Family, list[Any]] | None:
    """The family that has this name and the factory's first arguments; None where it is not a batched environment."""
    if env_id.startswith(FORCED_PREFIX):
        return None
    name = _import_module(env_id)
    for pattern, family in _FAMILIES.items():
        match = re.fullmatch(re.escape(pattern).replace("<n>", r"(\d+)"), name, flags=re.ASCII)
        if match:
            return family, [*family.arguments, *map(int, match.groups())]
    return None


def _import_module(env_id: str) -> str:
    """Import the module of `module:name`, which registers the environment, and return the name."""
    module, colon, name = env_id.rpartition(":")
    if not colon:
        return env_id
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"environment {env_id!r}: the module {module!r} cannot be imported ({error})") from error
    return name


def _gymnasium_id(env_id: str) -> str:
    """The id as Gymnasium knows it, once its module is imported.

    Raises:
        ValueError: neither Gymnasium nor we have it.
    """
    name = _import_module(env_id.removeprefix(FORCED_PREFIX))
    if name in gymnasium.registry:
        return name
    # A family is compared with the number that was asked for, so that `FourRoom-19` finds `FourRooms-19`.
    number = re.search(r"\d+", env_id)
    ours = [pattern.replace("<n>", number.group() if number else "<n>") for pattern in _FAMILIES]
    theirs = [known for known in gymnasium.registry if known.rpartition("/")[0] not in ("phys2d", "tabular", "recall_traces")]
    near = _nearest(name, [*ours, *theirs])
    module = env_id[: len(env_id) - len(name)] if ":" in env_id else ""  # which is what one has to name again
    near = [f"{module}{known}" for known in near]
    hint = f"the nearest are {', '.join(near)}" if near else f"valid are {', '.join(_FAMILIES)} and Gymnasium's ids"
    raise ValueError(f"unknown environment {env_id!r}; {hint}")


def _nearest(name: str, valid: Iterable[str]) -> list[str]:
    lowered = {known.lower(): known for known in reversed(list(valid))}
    return [lowered[known] for known in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)]


def _resolve(where: Any) -> Any:
    """What a `module:name` stands for; anything else as it is."""
    return pkgutil.resolve_name(where) if isinstance(where, str) else where
