import copy
import importlib.util
import os
import sys
import warnings
from functools import cache
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

mujoco_warp = pytest.importorskip("mujoco_warp", reason="MuJoCo Warp is not installed: pip install 'recall-traces[gpu]'")

import warp as wp  # noqa: E402

from recall_traces import envs  # noqa: E402
from recall_traces.envs.mujoco import warp_engine  # noqa: E402
from recall_traces.envs.mujoco.warp_engine import WarpEngine  # noqa: E402

# Warp compiles for minutes the first time and keeps the result in its cache. An engine takes seconds to build, so tests share a
# few and put every world into a state of their own first.

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
FRAME_SKIP = {"hopper": 4, "half_cheetah": 5, "walker2d_v5": 4, "ant": 5, "humanoid": 5}
FIELDS = ("cfrc_ext", "cinert", "cvel", "qfrc_actuator", "xpos", "xipos")
WORLDS = 20


@cache
def load(name: str) -> mujoco.MjModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MuJoCo finds parts of Gymnasium's files old-fashioned
        return mujoco.MjSpec.from_file(str(ASSETS / f"{name}.xml")).compile()


@cache
def engine_of(name: str) -> WarpEngine:
    return WarpEngine(load(name), WORLDS, FRAME_SKIP[name], FIELDS, "cpu")


def everywhere() -> torch.Tensor:
    return torch.ones(WORLDS, dtype=torch.bool)


def only(*worlds: int) -> torch.Tensor:
    mask = torch.zeros(WORLDS, dtype=torch.bool)
    mask[list(worlds)] = True
    return mask


@cache
def rollout(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, velocities and controls of `WORLDS` states along random rollouts in MuJoCo."""
    model, rng = load(name), np.random.default_rng(0)
    data, found = mujoco.MjData(model), []
    while len(found) < WORLDS:
        mujoco.mj_resetData(model, data)
        data.qpos[:] += rng.uniform(-0.01, 0.01, model.nq)
        for step in range(50):
            controls = rng.uniform(*model.actuator_ctrlrange.T)
            if step % 8 == 7:
                found.append((data.qpos.copy(), data.qvel.copy(), controls))
            data.ctrl[:] = controls
            mujoco.mj_step(model, data, FRAME_SKIP[name])
    found = found[:WORLDS]
    qpos, qvel, controls = (np.array(values) for values in zip(*found, strict=True))
    return qpos, qvel, controls


def start(name: str) -> tuple[WarpEngine, torch.Tensor]:
    """The shared engine with its worlds in those states, and controls for them."""
    engine, (qpos, qvel, controls) = engine_of(name), rollout(name)
    engine.reset(everywhere(), torch.tensor(qpos), torch.tensor(qvel))
    return engine, torch.tensor(controls, dtype=torch.float32)


def copies(engine: WarpEngine) -> dict[str, torch.Tensor]:
    return {name: field.clone() for name, field in engine.fields.items()}


def errors(values: torch.Tensor, reference: np.ndarray) -> np.ndarray:
    """The largest error of each world, relative to its largest value where that is above 1."""
    values, reference = values.double().numpy().reshape(WORLDS, -1), reference.reshape(WORLDS, -1)
    return np.abs(values - reference).max(1) / np.maximum(1, np.abs(reference).max(1))


@pytest.mark.parametrize("name", FRAME_SKIP)
def test_one_step_is_that_of_mujoco(name: str) -> None:
    engine, controls = start(name)
    model, expected, touching = load(name), [], 0
    for qpos, qvel, control in zip(*rollout(name), strict=True):
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, control
        mujoco.mj_step(model, data, FRAME_SKIP[name])
        mujoco.mj_rnePostConstraint(model, data)
        expected.append(data)
        touching += data.ncon > 0
    engine.step(controls)
    engine.check()
    assert touching >= 4
    assert not engine.broken.any()
    for field, values in engine.fields.items():
        error = errors(values, np.array([getattr(data, field) for data in expected]))
        assert (error < 1e-3).mean() >= 0.95, field
        assert np.median(error) < 1e-5, field


def test_frames_of_capsules_on_the_floor_are_those_of_mujoco() -> None:
    """Without the correction a third of Ant's states fail: with a pyramid for a friction cone, its orientation matters."""
    model, (qpos, qvel, _) = load("ant"), rollout("ant")
    device_model = mujoco_warp.put_model(model)
    device_model.callback.contactfilter = warp_engine._align_capsules
    angles = []
    for place, speed in zip(qpos, qvel, strict=True):
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = place, speed
        device_data = mujoco_warp.put_data(model, data, nconmax=32, njmax=128)
        mujoco.mj_forward(model, data)
        mujoco_warp.fwd_position(device_model, device_data)
        frames = {
            tuple(geoms): frame
            for geoms, frame in zip(
                device_data.contact.geom.numpy()[: data.ncon].tolist(), device_data.contact.frame.numpy(), strict=False
            )
        }
        for contact in data.contact:
            angles.append(np.abs(frames[tuple(contact.geom.tolist())].ravel() - contact.frame).max())
    assert len(angles) > 5
    assert max(angles) < 1e-4


def test_graph_does_what_mujoco_warp_does() -> None:
    """On a CPU bit for bit."""
    engine, controls = start("hopper")
    model = mujoco_warp.put_model(load("hopper"))
    data = mujoco_warp.make_data(load("hopper"), nworld=WORLDS, nconmax=32, njmax=96)
    for name in ("qpos", "qvel"):
        wp.to_torch(getattr(data, name)).copy_(engine.fields[name])
    for _ in range(3):
        engine.step(controls)
        wp.to_torch(data.ctrl).copy_(controls)
        for _ in range(FRAME_SKIP["hopper"]):
            mujoco_warp.step(model, data)
    assert torch.equal(engine.fields["qpos"], wp.to_torch(data.qpos))
    assert torch.equal(engine.fields["qvel"], wp.to_torch(data.qvel))


def test_reset_derives_fields_of_the_new_state() -> None:
    engine, controls = start("humanoid")
    engine.step(controls)
    qpos, qvel, _ = rollout("humanoid")
    engine.reset(everywhere(), torch.tensor(qpos), torch.tensor(qvel))
    expected = []
    for place, speed in zip(qpos, qvel, strict=True):
        data = mujoco.MjData(load("humanoid"))
        data.qpos[:], data.qvel[:] = place, speed
        mujoco.mj_forward(load("humanoid"), data)
        expected.append(data)
    for field, values in engine.fields.items():
        assert errors(values, np.array([getattr(data, field) for data in expected])).max() < 1e-5, field
    assert (engine.fields["cfrc_ext"] == 0).all()


def test_reset_leaves_other_worlds_alone() -> None:
    engine, controls = start("ant")
    for _ in range(2):
        engine.step(controls)
    undisturbed = copies(engine)

    engine, controls = start("ant")
    engine.step(controls)
    before, worlds = copies(engine), only(0, 3, 7)
    engine.reset(worlds, torch.tensor(load("ant").qpos0).expand(WORLDS, -1), torch.zeros(WORLDS, 14))
    for name, field in engine.fields.items():
        assert torch.equal(field[~worlds], before[name][~worlds])
        if name not in ("qfrc_actuator", "cfrc_ext"):  # both may be zero before and after
            assert not torch.equal(field[worlds], before[name][worlds])
    engine.step(controls)
    for name, field in engine.fields.items():
        assert torch.equal(field[~worlds], undisturbed[name][~worlds])


def test_states_can_be_gone_back_to() -> None:
    engine, controls = start("ant")
    for _ in range(5):  # now the solver's first guess matters
        engine.step(controls)
    state, fields = engine.get_state(), copies(engine)
    engine.step(controls)
    later, after = engine.get_state(), copies(engine)
    for _ in range(3):
        engine.step(-controls)
    other = engine.get_state()

    engine.set_state(everywhere(), state)
    assert torch.equal(engine.get_state(), state)
    assert all(torch.equal(field, fields[name]) for name, field in engine.fields.items())
    engine.step(controls)
    assert torch.equal(engine.get_state(), later)
    assert all(torch.equal(field, after[name]) for name, field in engine.fields.items())

    worlds = only(1, 4)
    engine.set_state(worlds, other)
    mixed = engine.get_state()
    assert torch.equal(mixed[worlds], other[worlds])
    assert torch.equal(mixed[~worlds], later[~worlds])


@pytest.mark.parametrize("env_id", ["DelayedHopper-v5", "Humanoid-v5"])
def test_an_environment_goes_on_in_the_other_engine(env_id: str) -> None:
    """As a run does that began on a GPU and is taken up where there is none."""
    warp_env, cpu_env = (envs.make(env_id, num_envs=2, engine=engine, dtype="float64") for engine in ("warp", "cpu"))
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(6, 2, *warp_env.action_space.shape, generator=generator) * 0.6 - 0.3
    for k in range(4):
        warp_env.step(actions[k])
    there = warp_env.get_state()
    for giver, taker in ((warp_env, cpu_env), (cpu_env, warp_env)):
        seen = taker.set_state(giver.get_state())
        torch.testing.assert_close(seen, giver._obs, rtol=1e-3, atol=1e-3)
        taken, given = taker.step(actions[4]), giver.step(actions[4])
        assert not taken.info["broken"].any()
        torch.testing.assert_close(taken.final_obs, given.final_obs, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(taken.rewards, given.rewards, rtol=1e-2, atol=1e-2)
    cpu_env.load_state_dict(warp_env.state_dict())
    warp_env.set_state(there)
    assert torch.equal(warp_env.get_state()["age"], torch.tensor([4, 4]))


@pytest.mark.parametrize("name", FRAME_SKIP)
def test_broken_worlds_are_put_back_and_flagged(name: str) -> None:
    model = load(name)
    engine, controls = start(name)
    engine.step(controls)
    undisturbed = copies(engine)

    engine, controls = start(name)
    engine.fields["qpos"][2, -1] = torch.nan
    engine.fields["qvel"][5, 1] = 1e12
    engine.fields["qvel"][9, -1] = torch.inf
    engine.step(controls)
    engine.check()
    broken = only(2, 5, 9)
    assert torch.equal(engine.broken, broken)
    for key, field in engine.fields.items():
        assert torch.equal(field[~broken], undisturbed[key][~broken])
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    for key, field in engine.fields.items():
        reference = torch.tensor(getattr(data, key), dtype=torch.float32)
        torch.testing.assert_close(field[broken], reference.expand_as(field[broken]), rtol=1e-5, atol=1e-5)

    controls[:] = torch.tensor(model.actuator_ctrlrange[:, 1]) / 2
    for _ in range(5):
        engine.step(controls)
    assert not engine.broken.any()
    mended = engine.get_state()
    engine.reset(everywhere(), torch.tensor(model.qpos0).expand(WORLDS, -1), torch.zeros(WORLDS, model.nv))
    for _ in range(5):
        engine.step(controls)
    fresh = engine.get_state()
    assert torch.equal(mended[broken, 1:], fresh[broken, 1:]), "something of the broken worlds has stayed"  # but for the time


def test_fields_are_views_that_cannot_be_replaced() -> None:
    engine, controls = start("hopper")
    addresses = {name: field.data_ptr() for name, field in engine.fields.items()}
    broken = engine.broken.data_ptr()
    engine.step(controls)
    engine.reset(only(0), engine.fields["qpos"].clone(), engine.fields["qvel"].clone())
    engine.set_state(only(1), engine.get_state())
    assert addresses == {name: field.data_ptr() for name, field in engine.fields.items()}
    assert engine.broken.data_ptr() == broken
    assert {field.dtype for field in engine.fields.values()} == {torch.float32}
    assert engine.fields["cvel"].shape == (WORLDS, 5, 6)
    with pytest.raises(TypeError, match=r"write fields\['qpos'\]\[:\] = "):
        engine.fields["qpos"] = torch.zeros(WORLDS, 6)
    with pytest.raises(AttributeError, match="cannot be replaced"):
        engine.fields = {}
    with pytest.raises(AttributeError, match="cannot be replaced"):
        engine.broken = torch.zeros(WORLDS, dtype=torch.bool)


@pytest.mark.parametrize(
    ("sizes", "option"),
    [({"contacts_per_world": 1}, "contacts_per_world=1"), ({"constraints_per_world": 2}, "constraints_per_world=2")],
)
def test_full_buffers_are_an_error_that_names_the_option(sizes: dict[str, int], option: str) -> None:
    engine = WarpEngine(load("hopper"), 2, 1, (), "cpu", **sizes)
    model = load("hopper")
    lying = torch.tensor(model.qpos0).repeat(2, 1)
    lying[:, 1] = -0.05  # z
    engine.reset(torch.ones(2, dtype=torch.bool), lying, torch.zeros(2, model.nv))
    engine.check()
    engine.step(torch.zeros(2, model.nu))
    with pytest.raises(RuntimeError, match=option):
        engine.check()
    for _ in range(warp_engine._CHECK_EVERY - 2):
        engine.step(torch.zeros(2, model.nu))
    with pytest.raises(RuntimeError, match=option):
        engine.step(torch.zeros(2, model.nu))


def test_default_sizes() -> None:
    def default(name: str, num_worlds: int) -> list[int]:
        pairs = mujoco_warp.put_model(warp_engine._served(load(name))[0]).nxn_geom_pair_filtered.numpy().tolist()
        return list(warp_engine._default_sizes(load(name), pairs, num_worlds).values())

    # Twelve capsules with two ends and a sphere over the floor: there cannot be more.
    assert default("ant", 4096) == [25, 96]
    # Four capsules over the floor, with friction; three pairs of them, without; three joints.
    assert default("hopper", 4096) == [14, 8 * 4 + 6 * 1 + 3]
    assert default("humanoid", 100_000) == [32, 96]
    assert default("humanoid", 1)[0] > 100


def test_newton_takes_the_place_of_pgs() -> None:
    assert load("humanoid").opt.solver == mujoco.mjtSolver.mjSOL_PGS, "the caller's model must stay as it is"
    assert "Newton" in engine_of("humanoid").notes[0]
    assert engine_of("hopper").notes == ()


def test_one_note_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    warp_engine._warn_once.cache_clear()
    engines = [WarpEngine(load("humanoid"), 1, 1, (), "cpu") for _ in range(2)]
    assert [record.message for record in caplog.records] == list(engines[0].notes)


def test_newton_and_pgs_agree_in_double_precision() -> None:
    model = load("humanoid")
    newton, _ = warp_engine._served(model)
    rng = np.random.default_rng(0)
    for _ in range(3):
        first, second = mujoco.MjData(model), mujoco.MjData(newton)
        first.qpos[:] = second.qpos[:] = model.qpos0 + rng.uniform(-0.01, 0.01, model.nq)
        for step in range(100):
            if step % 5 == 0:
                first.ctrl[:] = second.ctrl[:] = rng.uniform(*model.actuator_ctrlrange.T)
            mujoco.mj_step(model, first)
            mujoco.mj_step(newton, second)
        assert np.abs(first.qpos - second.qpos).max() < 2e-6


def test_what_is_refused() -> None:
    model = load("hopper")
    with pytest.raises(ValueError, match="num_worlds must be at least 1, got 0"):
        WarpEngine(model, 0, 1, (), "cpu")
    with pytest.raises(ValueError, match="contacts_per_world must be at least 1, got 0"):
        WarpEngine(model, 1, 1, (), "cpu", contacts_per_world=0)
    with pytest.raises(ValueError, match=r"no field 'colour'; there are .*cinert"):
        WarpEngine(model, 1, 1, ("colour",), "cpu")


def test_too_many_worlds_are_told_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    make_data = mujoco_warp.make_data

    def full(model: mujoco.MjModel, nworld: int, **sizes: int) -> object:
        if nworld > 1:
            raise RuntimeError("Failed to allocate 123 bytes on device 'cuda:0'")
        return make_data(model, nworld=nworld, **sizes)

    monkeypatch.setattr(mujoco_warp, "make_data", full)
    monkeypatch.setattr(warp_engine, "_free_bytes", lambda device: 2**30)
    with pytest.raises(MemoryError, match=r"70000 worlds do not fit into the 1\.0 GiB .* on cpu; about \d+ would") as caught:
        WarpEngine(load("ant"), 70_000, 5, FIELDS, "cpu")
    assert 10_000 < int(str(caught.value).split()[-2]) < 60_000


def test_where_the_system_does_not_tell_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS and Windows."""
    monkeypatch.delitem(os.sysconf_names, "SC_AVPHYS_PAGES")
    WarpEngine(load("hopper"), 2, 4, (), "cpu")

    def full(*args: object, **options: object) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(mujoco_warp, "make_data", full)
    with pytest.raises(MemoryError, match=r"^2 worlds do not fit into the memory of cpu$"):
        WarpEngine(load("hopper"), 2, 4, (), "cpu")


def test_other_errors_of_the_device_come_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(mujoco_warp, "make_data", fail)
    with pytest.raises(RuntimeError, match="something else"):
        WarpEngine(load("ant"), 1, 5, (), "cpu")


def test_without_warp_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco_warp", None)
    spec = importlib.util.spec_from_file_location("without_warp", warp_engine.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r"pip install 'recall-traces\[gpu\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_model_is_copied_only_to_be_changed() -> None:
    model = copy.copy(load("hopper"))
    assert warp_engine._served(model)[0] is model
