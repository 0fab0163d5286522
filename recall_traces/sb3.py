"""Recall traces for any Stable-Baselines3 model: one callback.

on_step --> steps --> (at the start of the next rollout) observe --> update --> imitate
"""

from __future__ import annotations

import dataclasses
import math
import operator
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor
from torch.distributions import Normal

from recall_traces.data import Transitions
from recall_traces.model import BacktrackingConfig
from recall_traces.recall import RecallConfig, RecallTraces
from recall_traces.saving import load_tree, save_tree, to_device
from recall_traces.sb3_actors import Actor, make_actor
from recall_traces.spaces import factor_sizes, tensor_dtype

CALIBRATION_STEPS = 256
"""Steps that the grid of an unbounded `Box` is fixed by, at least, or `update_every` if that is less: of the few states of one
short rollout it would be so fine that hardly two states share a cell."""
PROGRESS = ("seconds", "_due", "_rollout_steps", "_next_update")
"""Of a callback: the time it took, and when it is to update and imitate next."""


class RecallTracesCallback(BaseCallback):
    """Learn a backtracking model from what the model lives through, and let its policy imitate the traces it recalls.

    Between two training phases the steps of the last rollout are remembered, traces are recalled from states of high value,
    and the policy takes some gradient steps that raise the probability of the recalled actions: `imitation_ratio` for each
    gradient step of the algorithm's own. On-policy algorithms imitate after they trained and before they collect, so the
    log-probabilities they store belong to the policy that acted. Model and traces are renewed after each rollout, but at most
    once in `update_every` steps.

    With `VecNormalize`, raw observations and rewards are remembered, and observations are normalised by the statistics of the
    moment when they are used. A terminal observation reaches a callback already normalised and clipped: that is undone, but
    what was clipped stays clipped. Inside a wrapper that changes observations, such as `VecFrameStack`, it cannot be asked for
    them: they are remembered as the policy sees them. The first step of the first `learn` of an off-policy model without
    `VecNormalize` is not seen: Stable-Baselines3 does not show callbacks the observation before it.

    Args:
        config: What to recall and how much to imitate; `RecallConfig()` by default.
        seed: Seeds all that is drawn here. By default the model's seed, or a new one if it has none. Nothing is ever drawn
            from the global generators.
        verbose: 1 says what was set up.
    """

    def __init__(self, config: RecallConfig | None = None, seed: int | None = None, verbose: int = 0) -> None:
        super().__init__(verbose)
        if not isinstance(config, RecallConfig | None):  # such as `locals`, if learn got the class
            raise TypeError(f"config must be a RecallConfig, not {type(config).__name__}: callback=RecallTracesCallback()")
        self._asked_for, self.config = config, config or RecallConfig()
        self.seed = None if seed is None else operator.index(seed)  # NumPy's integers cannot be saved
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed must be at least 0, not {seed}")
        if self.config.source in ("given", "generated"):
            raise ValueError(
                f"the source {self.config.source!r} needs states, which this callback does not take: use another source"
            )
        if self.config.traces_from == "oracle":
            raise ValueError("traces from the oracle are for our own learners: a callback knows no truth")
        if self.config.imagined_share:
            raise ValueError("imagined steps are for recall_traces.agents.sac: a callback gives the critics nothing")
        self.recall: RecallTraces | None = None
        self.actor: Actor
        self.seconds = 0.0
        """Spent here so far."""
        self._saved: tuple[dict[str, Any], dict[str, Any]] | None = None
        self._steps: list[Transitions] = []
        self._obs: NDArray[Any] | None = None
        self._last: tuple[Any, Any, int] | None = None  # model, environments and its steps, when the newest step was noted
        self._rollout_steps = 0
        self._next_update = 0
        self._due = 0.0

    # -- when Stable-Baselines3 calls -------------------------------------------------------------------------------

    def _init_callback(self) -> None:
        self.actor = make_actor(self.model)
        num_envs = self.training_env.num_envs
        if self.recall is None:
            self.seed = self._choose_seed()
            recall = self._make(num_envs)
            if self._saved is not None:
                self._restore(recall, *self._saved)
                self._saved = None
            self.recall = recall
            if self.verbose:
                print(f"recall traces: source {self.config.source}, {type(self.recall.model.density).__name__}, seed {self.seed}")
            self._spaces = self.model.observation_space, self.model.action_space
        elif (*self._spaces, self.recall.memory.age.shape[1]) != (
            self.model.observation_space,
            self.model.action_space,
            num_envs,
        ):
            raise ValueError("this callback has remembered another environment, or another number of them: make a new one")

    def _on_training_start(self) -> None:
        normalize, model = self._normalize(), self.model
        obs = None if normalize is None else np.array(normalize.get_original_obs())
        self._next_update = min(self._next_update, model.num_timesteps + self.config.update_every)
        goes_on = self._last == (model, self.training_env, model.num_timesteps)
        if not goes_on or (obs is not None and self._obs is not None and not np.array_equal(obs, self._obs)):
            self._break_off()
        self._obs = obs if obs is not None else self._obs

    def _on_rollout_start(self) -> None:
        if self._rollout_steps == 0:
            return
        with self._timed():
            assert self.recall is not None
            self._update_if_due()
            self._due += self.recall.imitation_ratio * self._gradient_steps()
            self._imitate(int(self._due))
            self._due -= int(self._due)
        self._rollout_steps = 0

    def _on_step(self) -> bool:
        with self._timed():
            self._record()
        return True

    # -- remember ---------------------------------------------------------------------------------------------------

    def _record(self) -> None:
        """Note a step of all environments, raw, with true successors."""
        normalize, found, raw = self._normalize(), self.locals, self.model.get_vec_normalize_env()
        obs = np.array(found["new_obs"] if normalize is None else normalize.get_original_obs())
        rewards = np.array(found["rewards"] if raw is None else raw.get_original_reward(), np.float32)
        dones, infos = np.array(found["dones"], bool), found["infos"]
        before = self._obs
        if normalize is None and "obs_tensor" in found:  # on-policy: what the policy saw
            before = found["obs_tensor"].cpu().numpy()
            if self._obs is not None and not np.array_equal(before, self._obs):
                self._break_off()
        next_obs, truncated = obs.copy(), np.zeros_like(dones)
        for n in np.flatnonzero(dones):
            terminal = infos[n].get("terminal_observation")
            if terminal is not None:
                next_obs[n] = terminal if normalize is None else normalize.unnormalize_obs(np.array(terminal))
            truncated[n] = infos[n].get("TimeLimit.truncated", False)
        self._obs, self._last = obs, (self.model, self.training_env, self.model.num_timesteps)
        self._rollout_steps += 1
        if before is None:
            return
        actions = np.array(found.get("clipped_actions", found["actions"]))
        fields = (before, actions, rewards, next_obs, dones & ~truncated, truncated)
        self._steps.append(Transitions(*map(torch.as_tensor, fields)))

    def _break_off(self) -> None:
        """The environments were reset, or stepped, behind our back: end what was going on, as if its time was up."""
        if self._steps:
            last = self._steps[-1]
            self._steps[-1] = dataclasses.replace(last, truncated=last.truncated | ~last.terminated)
        self._obs = None

    def _observe(self, keep: int = 1) -> None:
        """Hand the steps over, but for the newest, which may yet turn out to be its episode's last."""
        assert self.recall is not None
        ready, self._steps = self._steps[: len(self._steps) - keep], self._steps[len(self._steps) - keep :]
        types = {"obs": tensor_dtype(self.recall.observation_space), "next_obs": tensor_dtype(self.recall.observation_space)}
        types["actions"] = tensor_dtype(self.model.action_space)
        longest = self.recall.memory.num_columns
        for start in range(0, len(ready), longest):
            columns = zip(*(vars(step).values() for step in ready[start : start + longest]), strict=True)
            steps = Transitions(*(torch.stack(column)[:, None].to(self.model.device) for column in columns))
            self.recall.observe(dataclasses.replace(steps, **{k: getattr(steps, k).to(t) for k, t in types.items()}))

    # -- learn ------------------------------------------------------------------------------------------------------

    def _gradient_steps(self) -> int:
        """Of the training phase that has just ended; TRPO's are those of its critic, since its policy takes one."""
        model: Any = self.model
        if isinstance(model, OffPolicyAlgorithm):
            if model.num_timesteps <= model.learning_starts:
                return 0
            return model.gradient_steps if model.gradient_steps >= 0 else self._rollout_steps * model.n_envs
        epochs = getattr(model, "n_epochs", getattr(model, "n_critic_updates", 1))
        return epochs * math.ceil(model.n_steps * model.n_envs / self._batch_size())

    def _batch_size(self) -> int:
        """Rows of the model's own minibatches; A2C's are whole rollouts."""
        model: Any = self.model
        return model.batch_size if hasattr(model, "batch_size") else model.n_steps * model.n_envs

    def _update_if_due(self) -> None:
        """Fit the backtracking model and recall traces, unless that was done a moment ago or training has not begun."""
        assert self.recall is not None
        model = self.model
        if model.num_timesteps < self._next_update:
            return
        if isinstance(model, OffPolicyAlgorithm) and model.num_timesteps <= model.learning_starts:
            if len(self._steps) > self.recall.memory.num_columns:
                self._observe()  # more than is remembered need not wait for training
            return
        ready = max(0, len(self._steps) - 1) * model.n_envs
        if not self.recall.cells.calibrated and ready < min(self.config.update_every, CALIBRATION_STEPS):
            return
        self._observe()
        if self.recall.memory.time == 0:
            return
        self._next_update = model.num_timesteps + self.config.update_every
        with self._mode(training=False):
            metrics = self.recall.update(self._value)
        for name, value in metrics.items():
            if math.isfinite(float(value)):
                self.logger.record(name, float(value))

    def _imitate(self, minibatches: int) -> None:
        """Raise the probability of recalled actions, with the policy's own optimiser."""
        assert self.recall is not None
        c, actor = self.config, self.actor
        if c.imitation_coefficient == 0 or not self.recall.buffer:
            return
        batch_size = c.imitation_batch_size or self._batch_size()
        with self._mode(training=True):
            for _ in range(minibatches):
                traces = self.recall.sample(batch_size)
                if not bool(traces.weights.any()):
                    continue
                losses = actor.loss(self._as_seen(traces.obs[0]), traces.actions[0])
                actor.optimizer.zero_grad()
                (c.imitation_coefficient * (traces.weights[0] * losses).mean()).backward()
                if actor.max_grad_norm is not None:
                    torch.nn.utils.clip_grad_norm_(actor.module.parameters(), actor.max_grad_norm)
                actor.optimizer.step()
                self.logger.record("recall/imitation_loss", losses.mean().item())
        if isinstance(self.model, OnPolicyAlgorithm) and self.model.use_sde:
            self._stretch_noise()

    @torch.no_grad()
    def _stretch_noise(self) -> None:
        """State-dependent noise was drawn just now, for this rollout, with the deviation before imitation moved it: stretch it.

        Drawn anew it would come from torch's global generator, and the model's next draws would be others.
        """
        policy: Any = self.model.policy
        noise = policy.action_dist
        before, now = noise.weights_dist.scale, noise.get_std(policy.log_std)
        noise.weights_dist = Normal(torch.zeros_like(now), now)
        noise.exploration_mat = noise.exploration_mat * (now / before)
        noise.exploration_matrices = noise.exploration_matrices * (now / before)

    def _value(self, obs: Tensor) -> Tensor:
        """V(s) of raw observations `(1, B, ...)`, `(1, B)`."""
        with torch.no_grad():
            return self.actor.value(self._as_seen(obs[0]))[None]

    def _as_seen(self, obs: Tensor) -> Tensor:
        """Raw observations `(B, ...)` as the policy's networks take them: normalised by the statistics of now."""
        normalize = self._normalize()
        seen = obs.cpu().numpy()
        tensor, _ = self.model.policy.obs_to_tensor(seen if normalize is None else normalize.normalize_obs(seen))
        assert isinstance(tensor, Tensor)
        return tensor

    def _normalize(self) -> VecNormalize | None:
        """What normalises observations, if it can be asked for raw ones of the shape that the policy sees."""
        normalize = self.model.get_vec_normalize_env()
        same = normalize is not None and normalize.observation_space == self.model.observation_space
        return normalize if same else None

    @contextmanager
    def _mode(self, training: bool) -> Iterator[None]:
        """Switch dropout and batch normalisation, and back."""
        policy = self.model.policy
        before = policy.training
        policy.set_training_mode(training)
        try:
            yield
        finally:
            policy.set_training_mode(before)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began
        self.logger.record("recall/seconds", self.seconds)

    # -- set up, save, load -----------------------------------------------------------------------------------------

    def _choose_seed(self) -> int:
        if self.seed is not None:
            return self.seed
        return self.model.seed if self.model.seed is not None else secrets.randbits(31)

    def _make(self, num_envs: int) -> RecallTraces:
        assert self.seed is not None
        model: Any = self.model  # all that are served have a gamma
        both, rest = (model.observation_space, model.action_space), {"seed": self.seed, "device": model.device}
        return RecallTraces(*both, self.config, num_envs=num_envs, gamma=model.gamma, **rest)

    def save(self, path: str | Path) -> None:
        """Write the backtracking model, what is remembered, the recalled traces and the generators; no code is stored.

        The Stable-Baselines3 model is saved by its own `save`. Saving changes nothing, also in the middle of `learn`.

        Raises:
            ValueError: nothing has been trained yet, or the path's folder does not exist.
        """
        if not Path(path).parent.is_dir():
            raise ValueError(f"the folder {Path(path).parent} does not exist: make it before saving {Path(path).name} there")
        if self._saved is not None:
            return save_tree(path, *self._saved)
        if self.recall is None:
            raise ValueError("there is nothing to save before the first call of learn")
        names = [field.name for field in dataclasses.fields(Transitions)] if self._steps else []
        held = {name: torch.stack([getattr(step, name) for step in self._steps]) for name in names}
        header = {name: getattr(self, name) for name in ("seed", *PROGRESS)}
        header |= {"config": dataclasses.asdict(self.config), "num_envs": self.recall.memory.age.shape[1]}
        header["spaces"] = _describe(self.model)
        save_tree(path, {"recall": self.recall.state_dict(), "held": held}, header)
        return None

    def load(self, path: str | Path) -> Self:
        """Go on from what `save` wrote, its configuration and seed included, with the next call of `learn`.

        Returns:
            The callback itself.

        Raises:
            ValueError: the file is not such a file, or was written with another configuration than this callback was given;
                or (when `learn` is called) the environment is another one.
        """
        if Path(path).is_dir():
            raise ValueError(f"{path} is a folder: give the file that save wrote")
        try:
            tree, header = load_tree(path, "cpu")
            options = dict(header["config"])
            options["model"] = BacktrackingConfig(**options["model"] | {"hidden": tuple(options["model"]["hidden"])})
            config, seed = RecallConfig(**options), header["seed"]
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path} is not a saved RecallTracesCallback: {error}") from error
        if self._asked_for not in (None, config):
            raise ValueError(f"{path} was saved with another configuration than this callback was given: leave config out")
        self.config, self.seed, self._saved = config, seed, (tree, header)
        self.recall, self._obs, self._last, self._steps = None, None, None, []
        self._rollout_steps, self._next_update = 0, 0
        return self

    def _restore(self, recall: RecallTraces, tree: dict[str, Any], header: dict[str, Any]) -> None:
        try:
            if header["spaces"] != _describe(self.model):
                raise ValueError("it was saved with another observation or action space")
            if header["num_envs"] != self.training_env.num_envs:
                raise ValueError(f"it was saved with {header['num_envs']} environments, not {self.training_env.num_envs}")
            recall.load_state_dict(to_device(tree["recall"], self.model.device))
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"the saved callback does not fit this model: {error}") from error
        for name in PROGRESS:
            setattr(self, name, header.get(name, 0))  # files of before lack some
        columns = zip(*tree["held"].values(), strict=True)
        self._steps = [Transitions(**dict(zip(tree["held"], step, strict=True))) for step in columns]
        self._break_off()  # the environments of then are gone


def _describe(model: BaseAlgorithm) -> list[Any]:
    """A model's spaces, as JSON holds them: the bounds of a `Box`, sizes of the others."""
    both = model.observation_space, model.action_space
    return [[x.low.tolist(), x.high.tolist()] if isinstance(x, spaces.Box) else factor_sizes(x) for x in both]
