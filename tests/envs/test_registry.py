from dataclasses import dataclass
from typing import Any

import gymnasium
import pytest
import torch

from recall_traces.envs import make, options_class, register, registered_ids, registry
from recall_traces.envs.cart_pole import CartPole, CartPoleConfig
from recall_traces.envs.four_rooms import FourRooms, FourRoomsConfig
from recall_traces.envs.gymnasium_adapter import GymnasiumVectorEnv
from recall_traces.envs.mujoco.ant import AntConfig
from recall_traces.envs.mujoco.env import MujocoEnv
from recall_traces.envs.point_mass import PointMass, PointMassConfig
from recall_traces.envs.point_maze import PointMaze, PointMazeConfig


@pytest.fixture
def families() -> Any:
    before = dict(registry._FAMILIES)
    yield registry._FAMILIES
    registry._FAMILIES.clear()
    registry._FAMILIES.update(before)


def test_ours_win_and_the_prefix_forces_gymnasiums() -> None:
    assert isinstance(make("CartPole-v1"), CartPole)
    for forced in ("gymnasium/CartPole-v1", "gymnasium/gymnasium:CartPole-v1"):
        assert isinstance(make(forced), GymnasiumVectorEnv)
    env = make("FourRooms-13", num_envs=5, seed=2, slip=0.1, layout_seed=4)
    assert isinstance(env, FourRooms)
    assert (env.size, env.num_envs, env.options) == (13, 5, FourRoomsConfig(slip=0.1, layout_seed=4))
    assert env.device == torch.device("cpu")
    maze = make("PointMaze-Medium", num_envs=3, inertia=True)
    assert isinstance(maze, PointMaze)
    assert (maze.layout, maze.num_envs, maze.options) == ("Medium", 3, PointMazeConfig(inertia=True))
    ant = make("Ant-v5", num_envs=2, main_body="torso")
    assert isinstance(ant, MujocoEnv)
    assert (ant.name, ant.num_envs, ant.task._options) == ("Ant-v5", 2, AntConfig(main_body="torso"))
    assert isinstance(make("gymnasium/Ant-v5"), GymnasiumVectorEnv)
    mass = make("PointMass-5", goals="all")
    assert isinstance(mass, PointMass)
    assert (mass.dimensions, mass.num_envs, mass.options) == (5, 1, PointMassConfig("all"))


def test_the_adapter_is_as_ours() -> None:
    theirs, ours = make("gymnasium/CartPole-v1", num_envs=2), make("CartPole-v1", num_envs=2)
    assert theirs.observation_space == ours.observation_space
    assert theirs.action_space == ours.action_space
    assert theirs.success_return == ours.success_return == 475.0
    assert theirs.reset().shape == ours.reset().shape


def test_names_and_options() -> None:
    assert registered_ids() == [
        "FourRooms-<n>",
        "CartPole-v1",
        "PointMaze-U",
        "PointMaze-Medium",
        "PointMaze-Large",
        "PointMass-<n>",
        *(f"{task}-v5" for task in ("Hopper", "HalfCheetah", "Walker2d", "Ant", "Humanoid", "Reacher")),
        *(f"Sparse{task}-v5" for task in ("Hopper", "HalfCheetah", "Walker2d", "Ant", "Humanoid")),
        *(f"Delayed{task}-v5" for task in ("Hopper", "HalfCheetah", "Walker2d", "Ant", "Humanoid")),
    ]
    assert options_class("FourRooms-19") is FourRoomsConfig
    assert options_class("CartPole-v1") is CartPoleConfig
    assert options_class("PointMaze-Large") is PointMazeConfig
    assert options_class("PointMass-3") is PointMassConfig
    assert options_class("Ant-v5") is options_class("SparseAnt-v5") is options_class("DelayedAnt-v5") is AntConfig
    assert options_class("gymnasium/Ant-v5") is None
    assert options_class("Pendulum-v1") is None
    assert options_class("gymnasium/CartPole-v1") is None


@pytest.mark.parametrize(
    ("env_id", "nearest"),
    [
        ("FourRoms-19", "FourRooms-19"),
        ("fourrooms-19", "FourRooms-19"),
        ("FourRooms", "FourRooms-<n>"),
        ("FourRooms-x", "FourRooms-<n>"),
        ("CartPol-v1", "CartPole-v1"),
        ("CartPole", "CartPole-v1"),
        ("gymnasium/CartPole-v9", "CartPole-v1"),
        ("PointMaze-Larg", "PointMaze-Large"),
        ("PointMas-3", "PointMass-3"),
        ("Pendulum", "Pendulum-v1"),
        ("Hoper-v5", "Hopper-v5"),
        ("SparseCheetah-v5", "SparseHalfCheetah-v5"),
        ("zzzzzzzz", "FourRooms-<n>, CartPole-v1, .*DelayedHumanoid-v5 and Gymnasium's ids"),
        ("", "FourRooms-<n>, CartPole-v1, .*DelayedHumanoid-v5 and Gymnasium's ids"),
    ],
)
def test_unknown_names_suggest_the_nearest(env_id: str, nearest: str) -> None:
    for ask in (make, options_class):
        with pytest.raises(ValueError, match=f"unknown environment '{env_id}'.*{nearest}") as caught:
            ask(env_id)
        assert "\n" not in str(caught.value)


def test_modules_that_cannot_be_imported() -> None:
    with pytest.raises(ValueError, match="the module 'no_such_module' cannot be imported"):
        make("no_such_module:Name-v0")


@pytest.mark.parametrize("size", [0, 8])
def test_sizes_that_four_rooms_cannot_have(size: int) -> None:
    with pytest.raises(ValueError, match=f"FourRooms-{size}: .*FourRooms-7"):
        make(f"FourRooms-{size}")


def test_unknown_options_name_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"FourRooms-7 has no option 'slipp'; did you mean slip.*random_start, random_goal"):
        make("FourRooms-7", slipp=0.1)
    with pytest.raises(ValueError, match="CartPole-v1 has no option 'slip'; valid options: none"):
        make("CartPole-v1", slip=0.1)


@pytest.mark.parametrize(("name", "value"), [("num_envs", 0), ("num_envs", 1.5), ("num_envs", True), ("seed", -1)])
def test_numbers_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        make("FourRooms-7", **{name: value})


@pytest.mark.parametrize("env_id", ["FourRooms-7", "Pendulum-v1", "Hopper-v5"])
def test_devices_that_there_are_not(env_id: str) -> None:
    for device in ("tpu", "mps", "meta"):
        with pytest.raises(ValueError, match=f"^device is '{device}'; it must be 'cpu' or 'cuda'"):
            make(env_id, device=device)


def test_engines_are_those_of_our_mujoco_tasks() -> None:
    message = "^Pusher-v5 is Gymnasium's own and has no engine to choose; those that have are Hopper-v5, .* and Reacher-v5$"
    with pytest.raises(ValueError, match=message):
        make("Pusher-v5", engine="warp")


@dataclass(frozen=True)
class TowerConfig:
    floors: int = 3


class Tower(CartPole):
    """Remembers how it was built."""

    def __init__(self, *numbers: int, num_envs: int, device: str, seed: int, **options: Any) -> None:
        super().__init__(num_envs, device, seed)
        self.built = (numbers, num_envs, seed, options)


def test_users_register_their_own(families: dict[str, Any]) -> None:
    register("Tower-<n>-v2", Tower, TowerConfig)
    register("Hut", Tower)
    assert registered_ids()[-2:] == ["Tower-<n>-v2", "Hut"]
    tower: Any = make("Tower-12-v2", num_envs=2, seed=1, floors=5)
    assert tower.built == ((12,), 2, 1, {"options": TowerConfig(5)})
    hut: Any = make("Hut", colour="red")
    assert hut.built == ((), 1, 0, {"colour": "red"})
    assert options_class("Tower-3-v2") is TowerConfig
    with pytest.raises(ValueError, match="Tower-4-v2"):
        make("Towr-4-v2")
    with pytest.raises(ValueError, match="at most one <n>"):
        register("Grid-<n>-<n>", Tower)


def test_a_module_in_front_of_the_name_is_imported_first(families: dict[str, Any], tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "my_towers.py").write_text(
        "from recall_traces.envs import register\nfrom recall_traces.envs.cart_pole import CartPole\n"
        "register('MyTower', lambda **options: CartPole(options['num_envs']))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert isinstance(make("my_towers:MyTower", num_envs=3), CartPole)


def test_registering_imports_neither_torch_nor_our_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in list(gymnasium.registry):
        if spec.startswith("recall_traces/"):
            monkeypatch.delitem(gymnasium.registry, spec)
    registry.register_with_gymnasium()
    ours = [spec for name, spec in gymnasium.registry.items() if name.startswith("recall_traces/")]
    assert len(ours) == 24 + 16
    assert all(isinstance(spec.entry_point, str) for spec in ours)
    assert "torch" not in vars(registry)
