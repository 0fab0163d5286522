"""The batched environment: autoreset, states, worlds that break, seeds, refusals."""

import logging
import math
import sys
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mujoco_helpers import actions_for, make, play, same

from recall_traces.envs.mujoco.cpu_engine import _Simulator

TASKS = ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "Reacher-v5"]


@pytest.mark.parametrize("env_id", TASKS)
def test_what_a_step_is_made_of(env_id: str) -> None:
    env = make(env_id)
    obs = env.reset()
    (step,) = play(env, actions_for(env, 1))
    for values in (obs, step.obs, step.final_obs):
        assert (values.dtype, values.shape) == (torch.float32, (3, *env.observation_space.shape))
    assert (step.rewards.dtype, step.rewards.shape) == (torch.float32, (3,))
    assert step.terminated.dtype == step.truncated.dtype == step.info["broken"].dtype == torch.bool
    assert all(len(values) == 3 for values in step.info.values())
    assert env.observation_space.dtype == np.float32
    assert env.observation_space.contains(step.obs[0].numpy())


@pytest.mark.parametrize("env_id", TASKS)
def test_tensors_are_left_alone_afterwards(env_id: str) -> None:
    env = make(env_id, healthy_z_range=(1.24, 2.0)) if env_id == "Walker2d-v5" else make(env_id)
    env.horizon = 4
    given = [env.reset()]
    actions = actions_for(env, 12)
    for step in (env.step(one) for one in actions):
        given += [step.obs, step.rewards, step.terminated, step.truncated, step.final_obs, *step.info.values()]
        if len(given) < 20:
            copies = [values.clone() for values in given]
    kept = given[: len(copies)]
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    assert torch.equal(actions, actions_for(env, 12))


def test_episodes_that_end_start_anew_in_the_same_step() -> None:
    env = make("Hopper-v5", 8, seed=1)
    first = env.reset()
    ended, ages = 0, torch.zeros(8, dtype=torch.int64)
    for actions in actions_for(env, 120):
        step, ages = env.step(actions), ages + 1
        angle, height = step.final_obs[:, 1], step.final_obs[:, 0]
        unhealthy = (angle.abs() >= 0.2) | (height <= 0.7)
        assert step.terminated.tolist() == unhealthy.tolist()
        assert not step.truncated.any()
        done = step.terminated
        assert torch.equal(step.obs[~done], step.final_obs[~done])
        # A first observation is within the noise of the model's.
        assert ((step.obs[done] - torch.tensor([1.25] + [0.0] * 10)).abs() <= 0.005 + 1e-6).all()
        ended += int(done.sum())
        ages *= ~done
        assert torch.equal(env.get_state()["age"], ages)
    assert ended > 8
    assert len({tuple(row) for row in first.tolist()}) == 8


def test_episodes_are_cut_at_the_horizon() -> None:
    env = make("Reacher-v5", 2)
    steps = play(env, actions_for(env, 101))
    assert [k for k, step in enumerate(steps) if step.truncated.any()] == [49, 99]
    assert steps[49].truncated.all()
    assert not steps[49].terminated.any()
    # Each episode has a target of its own, which the true final observation still shows.
    assert torch.equal(steps[49].final_obs[:, 4:6], steps[48].obs[:, 4:6])
    assert not torch.equal(steps[49].obs[:, 4:6], steps[48].obs[:, 4:6])
    env = make("Hopper-v5", 1, terminate_when_unhealthy=False)
    env.horizon = 3
    assert [bool(step.truncated) for step in play(env, actions_for(env, 6))] == [False, False, True] * 2


def test_what_ends_is_not_cut_as_well() -> None:
    env = make("Hopper-v5", 8)
    env.horizon = 1
    steps = play(env, actions_for(env, 1)) + play(make("Hopper-v5", 8, healthy_z_range=(5.0, 6.0)), actions_for(env, 1))
    assert [(bool(step.terminated.all()), bool(step.truncated.all())) for step in steps] == [(False, True), (True, False)]
    env = make("Hopper-v5", 8, healthy_z_range=(5.0, 6.0))
    env.horizon = 1
    (step,) = play(env, actions_for(env, 1))
    assert step.terminated.all()
    assert not step.truncated.any()


@pytest.mark.parametrize("env_id", ["DelayedAnt-v5", "SparseHumanoid-v5", "DelayedHopper-v5", "Reacher-v5"])
def test_states_come_back_exactly(env_id: str) -> None:
    env = make(env_id, seed=3)
    play(env, actions_for(env, 33))
    if "Sparse" in env_id:
        env.payout.counters["furthest"].fill_(2)
    state, obs, generator = env.get_state(), env._obs, env._generator.get_state()
    kept = {name: values.clone() for name, values in state.items()}
    actions = actions_for(env, 40, seed=1)
    first = play(env, actions)
    assert all(torch.equal(kept[name], state[name]) for name in state)
    assert torch.equal(env.set_state(state), obs)
    env._generator.set_state(generator)  # episodes that start on the way are not part of the state
    assert same(play(env, actions), first)
    # In another environment, and only some worlds.
    other = make(env_id, seed=4)
    before = play(other, actions_for(other, 5))[-1].obs
    chosen = torch.tensor([True, False, True])
    after = other.set_state(state, chosen)
    assert torch.equal(after[chosen], obs[chosen])
    assert torch.equal(after[~chosen], before[~chosen])
    found, expected = other.step(actions[0]), first[0]
    for name in ("rewards", "final_obs", "terminated", "truncated"):
        assert torch.equal(getattr(found, name)[chosen], getattr(expected, name)[chosen])
    assert torch.equal(other.get_state()["age"][~chosen], torch.tensor([6]))


def test_the_warm_start_is_part_of_the_state() -> None:
    """Positions and velocities alone are not enough to the last bit."""
    env = make("Humanoid-v5", 2, dtype="float64")
    play(env, actions_for(env, 20))
    state, actions = env.get_state(), actions_for(env, 1, seed=1)[0]
    expected = env.step(actions).final_obs
    env.set_state(state)
    assert torch.equal(env.step(actions).final_obs, expected)
    env.set_state(state)
    fields = env.engine.fields
    env.engine.reset(torch.ones(2, dtype=torch.bool), fields["qpos"].clone(), fields["qvel"].clone())
    assert not torch.equal(env.step(actions).final_obs, expected)


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.parametrize("options", [{}, {"exclude_current_positions_from_observation": False}])
def test_observations_determine_the_state(env_id: str, options: dict[str, Any]) -> None:
    if env_id == "Reacher-v5" and options:
        return
    env = make(env_id, dtype="float64", **options)
    step = play(env, actions_for(env, 8))[-1]
    while (step.obs != step.final_obs).any():
        (step,) = play(env, actions_for(env, 1))
    fields = {name: values.clone() for name, values in env.engine.fields.items()}
    obs = step.obs
    other = make(env_id, seed=9, dtype="float64", **options)
    play(other, actions_for(other, 3))
    chosen = torch.tensor([True, True, False])
    seen = other.set_obs(obs, chosen)
    torch.testing.assert_close(seen[chosen, env.state_columns], obs[chosen, env.state_columns], rtol=0, atol=1e-12)
    hidden = 0 if options or env_id == "Reacher-v5" else env.task._hidden
    for name, tolerance in (("qpos", 1e-12), ("qvel", 0.0 if env_id[0] not in "HW" else 1e-12)):
        found, expected = other.engine.fields[name][chosen], fields[name][chosen]
        if name == "qpos":
            found, expected = found[:, hidden:], expected[:, hidden:]
            assert not other.engine.fields["qpos"][chosen, :hidden].any()
        elif env_id in ("Hopper-v5", "Walker2d-v5"):
            expected = expected.clamp(-10, 10)
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    assert other.get_state()["age"].tolist() == [0, 0, 3]
    # The next step is that of the true state, but for the warm start and what was clipped.
    actions = actions_for(env, 1, seed=5)[0]
    true, again = env.step(actions).final_obs, other.step(actions).final_obs
    if not (fields["qvel"].abs() > 10).any():
        torch.testing.assert_close(again[chosen, hidden:13], true[chosen, hidden:13], rtol=0, atol=1e-5)


def test_what_is_no_state_is_refused() -> None:
    env, state = make("Hopper-v5", 2), make("SparseHopper-v5", 2).get_state()
    with pytest.raises(ValueError, match=r"not a state of Hopper-v5 with 2 environments; it must have physics \(2, \d+\), age"):
        env.set_state(state)
    with pytest.raises(ValueError, match="not a state of Hopper-v5"):
        env.set_state({name: values[:1] for name, values in env.get_state().items()})
    for obs in (torch.zeros(1, 11), torch.zeros(3, 11), torch.zeros(2, 12), torch.zeros(11)):
        with pytest.raises(ValueError, match=r"^observations have the shape \(.*\); it must be \(2, 11\)$"):
            env.set_obs(obs)
    for obs in (torch.zeros(12), torch.zeros(3, 12)):
        with pytest.raises(ValueError, match=r"^observations have the shape \(.*\); it must be \(B, 11\)$"):
            env.pose(obs)
    for worlds in (torch.tensor([1, 0]), torch.tensor([True]), [True, False]):
        with pytest.raises(ValueError, match=r"^worlds must be a tensor of 2 bools, or None for all$"):
            env.set_state(env.get_state(), worlds)
        with pytest.raises(ValueError, match=r"^worlds must be a tensor of 2 bools, or None for all$"):
            env.set_obs(torch.zeros(2, 11), worlds)


@pytest.mark.parametrize("env_id", TASKS)
def test_states_whose_clocks_begin_at_0_are_none_of_broken_worlds(env_id: str) -> None:
    """So do those of the other engine."""
    env, twin = make(env_id), make(env_id)
    play(env, actions_for(env, 3))
    state = env.get_state()
    state["physics"][:, 0] -= state["physics"][0, 0] - 0.25
    twin.set_state(state)
    actions = actions_for(env, 3, seed=1)
    for step, expected in zip(play(twin, actions), play(env, actions), strict=True):
        assert not step.info["broken"].any()
        torch.testing.assert_close(step.final_obs, expected.final_obs, rtol=0, atol=0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("env_id", ["DelayedHopper-v5", "Humanoid-v5"])
def test_worlds_that_break_end_their_episode(
    env_id: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    env, twin = (make(env_id, 4, num_threads=threads, terminate_when_unhealthy=False) for _ in range(2))
    before = play(env, actions_for(env, 5))
    play(twin, actions_for(env, 5))
    state = env.get_state()
    nq = env.model.nq
    state["physics"][1, 2] = torch.nan  # a position
    state["physics"][2, 1 + nq] = 1e12  # a velocity
    env.set_state(state, torch.tensor([False, True, True, False]))
    put = env.get_state()["physics"][2]
    actions = actions_for(env, 8, seed=1)
    with caplog.at_level(logging.WARNING):
        step, expected = env.step(actions[0]), twin.step(actions[0])
    assert step.info["broken"].tolist() == step.truncated.tolist() == [False, True, True, False]
    assert not step.terminated.any()
    assert torch.equal(put.isnan(), state["physics"][2].isnan())
    assert torch.equal(step.final_obs[1], before[-1].obs[1])
    assert step.final_obs.isfinite().all()
    assert step.obs.isfinite().all()
    owed = sum(one.info["reward_forward"] + one.info["reward_ctrl"] + one.info["reward_survive"] for one in before)
    due = owed[1:3].float() if env_id.startswith("Delayed") else torch.zeros(2)
    torch.testing.assert_close(step.rewards[1:3], due)
    assert all(not values[1:3].any() for name, values in step.info.items() if name != "broken")
    for name in ("obs", "final_obs", "rewards"):  # the others notice nothing
        assert torch.equal(getattr(step, name)[::3], getattr(expected, name)[::3])
    assert env.get_state()["age"].tolist() == [6, 0, 0, 6]
    assert env.num_broken == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{env_id}: environments [1, 2] turned NaN or flew off; their episodes are truncated"
    ]
    for later in play(env, actions[1:]):
        assert later.obs.isfinite().all()
        assert not later.info["broken"].any()
    assert not list(tmp_path.iterdir())  # MuJoCo's log


def test_worlds_that_break_on_a_gpu_are_logged_later(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """There every step is taken for one in which worlds may have broken, here with the CPU in its place."""
    monkeypatch.setattr("recall_traces.envs.mujoco.env.LOOK_EVERY", 4)
    env = make("Ant-v5", 4)
    env._asking_is_free = False
    play(env, actions_for(env, 9))
    assert not caplog.records
    for _ in range(2):
        state = env.get_state()
        state["physics"][2, 3] = torch.nan
        env.set_state(state)
        play(env, actions_for(env, 8))
    assert env.num_broken == 2
    assert [record.getMessage() for record in caplog.records] == [
        "Ant-v5: environments turned NaN or flew off; their episodes are truncated"
    ]


@pytest.mark.parametrize("frame_skip", [1, 4])
def test_nothing_infinite_is_ever_seen(frame_skip: int) -> None:
    """MuJoCo looks at the beginning of a substep; what the last one spoils must be found too."""
    env = make("Ant-v5", 64, frame_skip=frame_skip, terminate_when_unhealthy=False)
    generator, state = torch.Generator().manual_seed(0), env.get_state()
    broken = 0
    for power in range(2, 11):
        wild = {name: values.clone() for name, values in state.items()}
        velocities = slice(1 + env.model.nq, 1 + env.model.nq + env.model.nv)
        speeds = torch.randn(64, env.model.nv, generator=generator, dtype=torch.float64) * 10.0**power
        wild["physics"][:, velocities] = speeds
        env.set_state(state)
        env.engine.set_state(torch.ones(64, dtype=torch.bool), wild["physics"])
        for actions in actions_for(env, 3):
            step = env.step(actions)
            for values in (step.obs, step.final_obs, step.rewards):
                assert values.isfinite().all()
            broken += int(step.info["broken"].sum())
    assert broken > 64


def test_mujoco_writes_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever thread meets the first broken world, also one that has done nothing yet."""
    monkeypatch.chdir(tmp_path)
    engine = make("Hopper-v5", 2, num_threads=2).engine
    for k, simulator in enumerate(engine._simulators):
        engine._rows[k, 1] = torch.nan
        simulator.step_all(deque([k]))
    assert engine.broken.all()
    assert not list(tmp_path.iterdir())
    new = _Simulator(engine._simulators[0]._model, 4, engine._worlds)
    engine._rows[0, 1 + 6] = 1e12
    new.step_all(deque([0]))
    assert not list(tmp_path.iterdir())


def test_nan_actions_are_zero() -> None:
    env, twin = make("Ant-v5"), make("Ant-v5")
    actions = actions_for(env, 5)
    actions[2, 1] = torch.nan
    zero = actions.nan_to_num(nan=0.0)
    assert same(play(env, actions), play(twin, zero))


def test_seeds_decide_and_threads_do_not() -> None:
    actions = actions_for(make("Ant-v5", 5), 60)
    runs = [play(make("Ant-v5", 5, seed=seed, num_threads=threads), actions) for seed, threads in ((7, 1), (7, 3), (8, 1))]
    assert same(runs[0], runs[1])
    assert not torch.equal(runs[0][0].obs, runs[2][0].obs)
    assert runs[0][0].terminated.shape == (5,)


def test_fields_that_live_elsewhere_are_copied_there() -> None:
    """As with the cpu engine on a cuda device, here with copies on the CPU."""
    env, twin = make("Humanoid-v5", 4), make("Humanoid-v5", 4)
    for copied in (env, env.engine):
        copied._asking_is_free = copied._on_host = False  # a GPU is not asked whether an episode ended
    env.engine.fields = {name: values.clone() for name, values in env.engine.fields.items()}
    env.engine.broken = env.engine.broken.clone()
    for actions in actions_for(env, 40):
        # Starts are drawn at every step there, so the twin is put where they began.
        step, other = env.step(actions), twin.step(actions)
        for name in ("final_obs", "rewards", "terminated", "truncated"):
            assert torch.equal(getattr(step, name), getattr(other, name))
        state = env.get_state()
        assert torch.equal(twin.set_state(state), step.obs)
    assert env.get_state()["age"].min() < 40


def test_rows_are_independent_worlds() -> None:
    """In a fleet row `s * N + n` is the same world whatever the other rows do."""
    env, twin = make("HalfCheetah-v5", 6, seed=2), make("HalfCheetah-v5", 6, seed=2)
    actions = actions_for(env, 20)
    others = actions.clone()
    others[:, [0, 1, 4, 5]] *= -0.5
    for step, other in zip(play(env, actions), play(twin, others), strict=True):
        assert torch.equal(step.obs[2:4], other.obs[2:4])
        assert not torch.equal(step.obs[:2], other.obs[:2])


def test_refusals() -> None:
    for options, message in (
        ({"engine": "gpu"}, "engine is 'gpu'; it must be one of auto, cpu, warp"),
        ({"dtype": "float16"}, "dtype is 'float16'; it must be 'float32' or 'float64'"),
        ({"frame_skip": 0}, "frame_skip must be at least 1, not 0"),
        ({"frame_skip": 1.5}, "frame_skip must be a whole number, not 1.5"),
        ({"num_threads": 0}, "num_threads must be at least 1, not 0"),
        ({"reset_noise_scale": -1.0}, "reset_noise_scale must not be negative, not -1.0"),
        ({"reset_noise_scale": math.nan}, "reset_noise_scale must be finite, not nan"),
        ({"forward_reward_weight": "1"}, "forward_reward_weight must be a number, not '1'"),
        ({"healthy_angle_range": 0.3}, "healthy_angle_range must be two numbers, the smaller one first, not 0.3"),
        ({"healthy_angle_range": (0.1,)}, r"healthy_angle_range must be two numbers, .*, not \(0.1,\)"),
        ({"healthy_angle_range": (0.3, -0.3)}, r"healthy_angle_range must be two numbers, .*, not \(0.3, -0.3\)"),
        (
            {"exclude_current_positions_from_observation": "no"},
            "exclude_current_positions_from_observation must be True or False, not 'no'",
        ),
        ({"xml_file": "no_such.xml"}, "xml_file is 'no_such.xml', which cannot be loaded: .*"),
        ({"xml_fil": "no"}, "Hopper-v5 has no option 'xml_fil'; did you mean xml_file.*"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            make("Hopper-v5", **options)
    with pytest.raises(ValueError, match=r"main_body is 'tail'; it must be a number below 14 or one of 'world', 'torso', .*"):
        make("Ant-v5", main_body="tail")
    with pytest.raises(ValueError, match=r"main_body is 1.5; it must be a number below 14"):
        make("Ant-v5", main_body=1.5)
    make("Hopper-v5", healthy_angle_range=[np.float32(-0.3), 1], reset_noise_scale=0, healthy_reward=1)
    with pytest.raises(
        ValueError, match=r"^xml_file is 'hopper.xml', a model that Reacher-v5 cannot use: Invalid name 'fingertip'"
    ):
        make("Reacher-v5", xml_file="hopper.xml")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("engine", ["auto", "cpu", "warp"])
def test_a_gpu_that_is_not_there(engine: str) -> None:
    with pytest.raises(ValueError, match=r"^device is 'cuda:1', but torch sees no GPU; use 'cpu'$"):
        make("Hopper-v5", device="cuda:1", engine=engine)


def test_warp_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "recall_traces.envs.mujoco.warp_engine", None)
    with pytest.raises(
        ValueError, match=r"^the engine 'warp' needs MuJoCo Warp: pip install 'recall-traces\[gpu\]'; or .*'cpu'$"
    ):
        make("Hopper-v5", engine="warp")
    make("Hopper-v5", engine="cpu")


def test_models_of_ones_own(tmp_path: Path) -> None:
    from recall_traces.envs.mujoco.build import ASSETS

    path = tmp_path / "hopper.xml"
    path.write_text((ASSETS / "hopper.xml").read_text().replace("1.25", "1.5"))
    env = make("Hopper-v5", xml_file=str(path))
    assert (env.reset()[:, 0] > 1.4).all()
