"""The callback beside others, in logs and in files."""

import dataclasses

import pytest
import torch
from sb3_helpers import OFF, ON, SMALL, Line, Walk, lines, net, parameters
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from recall_traces import RecallConfig, RecallTracesCallback
from recall_traces.saving import flatten, load_tree


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_other_callbacks_and_the_progress_bar(tmp_path):
    model = PPO("MlpPolicy", lines(2), **ON, batch_size=16, **net())
    recall = RecallTracesCallback(SMALL)
    others = [
        EvalCallback(DummyVecEnv([lambda: Monitor(Line())]), eval_freq=20, n_eval_episodes=1, verbose=0),
        CheckpointCallback(20, str(tmp_path)),
    ]
    model.learn(96, callback=CallbackList([recall, *others]), progress_bar=True)
    assert list(tmp_path.glob("*.zip"))
    model.save(tmp_path / "model.zip")
    assert PPO.load(tmp_path / "model.zip", env=lines(2)).num_timesteps == 96


def test_what_is_logged(tmp_path):
    from stable_baselines3.common.logger import configure

    model = PPO("MlpPolicy", lines(2), **ON, batch_size=16, **net())
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(320, callback=RecallTracesCallback(SMALL), log_interval=3)
    model.logger.close()
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    names = "model_loss imitation_loss traces trace_length states states_return best_return novelty_share"
    names += " rarity sureness share seconds"
    assert {f"recall/{name}" for name in names.split()} <= set(header)


class Names(BaseCallback):
    """What is in the logger at each step."""

    names: frozenset[str] = frozenset()

    def _on_step(self):
        self.names |= set(self.logger.name_to_value)
        return True


def test_what_is_not_finite_is_not_logged():
    model = A2C("MlpPolicy", lines(2), seed=0, **net())
    model.learn(100, callback=(callback := RecallTracesCallback(SMALL)))
    update = callback.recall.update
    callback.recall.update = lambda *value: update(*value) | {"recall/nothing": torch.tensor([torch.nan])}
    model.learn(600, callback=[callback, seen := Names()], reset_num_timesteps=False, log_interval=10**6)
    assert "recall/traces" in seen.names
    assert "recall/nothing" not in seen.names


def test_steps_before_training_starts_do_not_pile_up():
    config = dataclasses.replace(SMALL, memory_size=60)
    model = SAC("MlpPolicy", lines(2), seed=0, learning_starts=300, buffer_size=1000, batch_size=8, **net())
    model.learn(280, callback=(callback := RecallTracesCallback(config)))
    assert len(callback._steps) <= 31
    assert callback.recall.memory.time + len(callback._steps) == 139  # all but the first, before which nothing was seen


def test_save_and_load_go_on_exactly(tmp_path):
    path = tmp_path / "callback.safetensors"
    model = PPO("MlpPolicy", lines(2), **ON, batch_size=16, seed=0, **net())
    model.learn(160, callback=(callback := RecallTracesCallback(SMALL, seed=5)))
    callback._due = 0.5  # as an off-policy model might leave it
    callback.save(path)
    loaded = RecallTracesCallback().load(path)
    loaded.save(tmp_path / "again")  # what was loaded
    loaded = RecallTracesCallback(SMALL).load(tmp_path / "again")
    loaded.init_callback(model)
    assert loaded.config == SMALL
    assert loaded.seed == 5
    assert (loaded.seconds, loaded._due) == (callback.seconds, callback._due)
    # The environments of the saved run are gone: its open episodes end.
    assert len(loaded._steps) == len(callback._steps) > 1
    assert bool((loaded._steps[-1].truncated | callback._steps[-1].terminated).all())
    callback._break_off()
    for x in (callback, loaded):
        x._observe(keep=0)
    for _ in range(3):
        a, b = (x.recall.update(x._value) for x in (callback, loaded))
        assert a.keys() == b.keys()
        for x, y in zip(callback.recall.buffer, loaded.recall.buffer, strict=True):
            assert torch.equal(x.obs, y.obs)
            assert torch.equal(x.actions, y.actions)
        assert torch.equal(callback.recall.sample(9).obs, loaded.recall.sample(9).obs)
    model.learn(32, callback=loaded)


def noted_phases(callback):
    """Of each rollout's start from now on: at which step, when the next update is due, and how many minibatches are imitated."""
    noted, imitate = [], callback._imitate

    def noting(minibatches):
        noted.append((callback.model.num_timesteps, callback._next_update, minibatches))
        imitate(minibatches)

    callback._imitate = noting
    return noted


@pytest.mark.parametrize(("algorithm", "options"), [(A2C, {"n_steps": 5}), (SAC, OFF)])
def test_what_was_loaded_imitates_when_the_saved_one_would_have(algorithm, options, tmp_path):
    model = algorithm("MlpPolicy", lines(2), seed=0, **options, **net())
    model.learn(
        40, callback=(callback := RecallTracesCallback(dataclasses.replace(SMALL, update_every=35, imitation_ratio=1.0), seed=0))
    )
    model.save(tmp_path / "model")
    callback.save(tmp_path / "callback")
    loaded = RecallTracesCallback().load(tmp_path / "callback")
    times = [noted_phases(callback), noted_phases(loaded)]
    model.learn(60, callback=callback, reset_num_timesteps=False)
    algorithm.load(tmp_path / "model", env=lines(2)).learn(60, callback=loaded, reset_num_timesteps=False)
    assert times[0][0][0] == 40  # for what was trained on just before saving
    assert times[0][0][1] > 40  # the last update was not long ago
    assert len({due for _, due, _ in times[0]}) in (2, 3)
    assert sum(minibatches for *_, minibatches in times[0]) > 3
    assert times[0] == times[1]


class Save(BaseCallback):
    """Saves a callback in the middle of each rollout."""

    def __init__(self, callback, path):
        super().__init__()
        self.callback, self.path = callback, path

    def _on_step(self):
        if self.n_calls % 7 == 0:
            self.callback.save(self.path)
        return True


@pytest.mark.parametrize("env", [lines, lambda: DummyVecEnv([Walk] * 2)])
def test_saving_changes_nothing(env, tmp_path):
    finals = []
    for saves in (False, True):
        model, callback = A2C("MlpPolicy", env(), seed=0, n_steps=8, **net()), RecallTracesCallback(SMALL)
        model.learn(400, callback=[callback, *([Save(callback, tmp_path / "saved")] if saves else [])])
        finals.append(parameters(model.policy))
    assert callback.recall.buffer[0].mask.any()
    assert torch.equal(*finals)


def test_files_hold_only_what_is_remembered(tmp_path):
    sizes = []
    for memory_size in (1000, 100_000):
        callback = RecallTracesCallback(dataclasses.replace(SMALL, memory_size=memory_size), seed=0)
        PPO("MlpPolicy", lines(2), **ON, batch_size=16, seed=0, **net()).learn(64, callback=callback)
        callback.save(tmp_path / "saved")
        sizes.append((tmp_path / "saved").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 1000


def test_generators_stay_on_the_cpu_and_all_else_goes_to_the_device(tmp_path):
    model = PPO("MlpPolicy", lines(2), **ON, batch_size=16, **net())
    model.learn(64, callback=(callback := RecallTracesCallback(SMALL)))
    callback.save(tmp_path / "saved")
    tree, _ = load_tree(tmp_path / "saved", "meta")
    devices = {name: value.device.type for name, value in flatten(tree) if isinstance(value, torch.Tensor)}
    generators = {"recall/generator", "recall/model/generator"}
    assert {name for name, device in devices.items() if device == "cpu"} == generators
    assert set(devices.values()) == {"cpu", "meta"}
    moved = []
    loaded = RecallTracesCallback().load(tmp_path / "saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recall_traces.sb3.to_device", lambda tree, device: moved.append(device) or tree)
        loaded.init_callback(model)
    assert moved == [model.device]


def test_files_that_are_not_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        RecallTracesCallback().load(tmp_path / "nothing")
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    with pytest.raises(ValueError, match="is not a saved RecallTracesCallback"):
        RecallTracesCallback().load(tmp_path / "junk")
    with pytest.raises(ValueError, match="nothing to save"):
        RecallTracesCallback().save(tmp_path / "early")
    with pytest.raises(ValueError, match="is a folder: give the file"):
        RecallTracesCallback().load(tmp_path)
    model = PPO("MlpPolicy", lines(2), **ON, batch_size=16, **net())
    model.learn(32, callback=(callback := RecallTracesCallback(SMALL)))
    callback.save(tmp_path / "two")
    with pytest.raises(ValueError, match=r"folder .*missing does not exist"):
        callback.save(tmp_path / "missing" / "two")
    with pytest.raises(ValueError, match="another configuration"):
        RecallTracesCallback(RecallConfig()).load(tmp_path / "two")
    other = RecallTracesCallback().load(tmp_path / "two")
    with pytest.raises(ValueError, match="with 2 environments, not 3"):
        PPO("MlpPolicy", lines(3), **ON, batch_size=16, **net()).learn(48, callback=other)
    with pytest.raises(ValueError, match="another observation or action space"):
        PPO("MlpPolicy", DummyVecEnv([Walk] * 2), **ON, batch_size=16, **net()).learn(32, callback=other)
    model.learn(32, callback=other)  # it still has what was loaded
    other._observe()
    assert other.recall.memory.time == 16 + 15
