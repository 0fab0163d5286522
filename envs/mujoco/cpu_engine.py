"""Many worlds of one model on a CPU: MuJoCo's C library in double precision, one simulator per thread.

A row of numbers holds a world: the state that MuJoCo steps (positions, velocities, warm start of the solver, controls), then the
derived fields that a task reads. A thread leads one world after the other through its own `MjData`: state in, `frame_skip`
substeps, state and fields out. That is exact, because MuJoCo computes everything else anew from the state, and the one `MjData`
stays in the cache. Whole copies of a row are what `get_state` and `set_state` trade in.

`mujoco.rollout` would do the same without Python in between, but it does not give back the warm start: every step would begin
without one, and trajectories would leave Gymnasium's.
"""

from __future__ import annotations

import copy
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STATE = sum(int(getattr(mujoco.mjtState, f"mjSTATE_{part}")) for part in ("FULLPHYSICS", "WARMSTART", "CTRL"))
"""What `mj_getState` gives: time, positions, velocities and so on, the warm start, and last the controls."""
WORTH_A_THREAD = 1e-4
"""Seconds of a step that each thread must have to do before it pays for being woken."""
PROBE_STEPS = 10
TOO_LARGE = mujoco.mjMAXVAL
"""Where MuJoCo takes a position or velocity for broken."""
FORCES = frozenset({"cacc", "cfrc_int", "cfrc_ext"})
"""Fields that only `mj_rnePostConstraint` computes."""
_BAD = [int(kind) for name, kind in mujoco.mjtWarning.__members__.items() if name.startswith("mjWARN_BAD")]


class CPUEngine:
    """Worlds of one model in MuJoCo's C library. See `Engine` for what every engine promises.

    Results do not depend on the number of threads.

    Args:
        model: what to simulate; it must not be changed afterwards.
        num_worlds: how many of it.
        frame_skip: substeps in one `step`.
        fields: derived fields to offer beside `qpos` and `qvel`, by MuJoCo's names.
        device: where the tensors go.
        num_threads: that simulate, the calling one included; by default as many as pay, at most one per core.

    Raises:
        ValueError: a field that MuJoCo does not have.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_worlds: int,
        frame_skip: int,
        fields: Sequence[str],
        device: torch.device | str = "cpu",
        num_threads: int | None = None,
    ) -> None:
        self.num_worlds, self.device, self.dtype = num_worlds, torch.device(device), torch.float64
        derived = [name for name in dict.fromkeys(fields) if name not in ("qpos", "qvel")]
        for name in derived:
            if not isinstance(getattr(mujoco.MjData(model), name, None), np.ndarray):
                raise ValueError(f"the field {name!r} is not one of MuJoCo's MjData")
        if model.ntree == 1:
            # Bodies that all hang together are one island: looking for several changes no bit and takes some percent.
            model = copy.copy(model)
            model.opt.disableflags |= int(getattr(mujoco.mjtDisableBit, "mjDSBL_ISLAND", 0))  # older versions do not look
        worlds = _Worlds(model, num_worlds, derived)
        self._worlds = worlds
        first = _Simulator(model, frame_skip, worlds)
        self._first_time = first.first_time
        if num_threads is None:
            num_threads = min(num_cores(), int(num_worlds * first.seconds_per_step() / WORTH_A_THREAD))
        num_threads = max(1, min(num_threads, num_worlds))
        self._simulators = [first] + [_Simulator(model, frame_skip, worlds) for _ in range(num_threads - 1)]
        self._crew = _Crew(num_threads - 1)
        self._finalizer = weakref.finalize(self, self._crew.dismiss)
        self._rows, self._broken = torch.from_numpy(worlds.rows), torch.from_numpy(worlds.broken)
        self._host_fields = {
            name: self._rows[:, columns].unflatten(1, shape) if len(shape) > 1 else self._rows[:, columns]
            for name, (columns, shape) in worlds.layout.items()
        }
        self._all = range(num_worlds)
        self._crew.share([simulator.restore_all for simulator in self._simulators], self._all)
        self._on_host = self.device.type == "cpu"
        if self._on_host:
            self.fields, self.broken = self._host_fields, self._broken
        else:
            self.fields = {name: field.to(self.device) for name, field in self._host_fields.items()}
            self.broken = self._broken.to(self.device)

    @property
    def num_threads(self) -> int:
        """Threads that simulate, the calling one included."""
        return len(self._simulators)

    def step(self, controls: Tensor) -> None:
        """Simulate `frame_skip` substeps with the controls held, `(num_worlds, nu)`."""
        worlds = self._worlds
        worlds.controls[:] = controls.detach().cpu().numpy()
        worlds.broken[:] = False
        self._crew.share([simulator.step_all for simulator in self._simulators], self._all)
        # MuJoCo looks at each substep's beginning, so what the last one spoils is found here.
        if not np.abs(worlds.moving).max() < TOO_LARGE:
            spoilt = ~(np.abs(worlds.moving) < TOO_LARGE).all(1)
            worlds.broken |= spoilt
            self._crew.share([simulator.restore_all for simulator in self._simulators], np.flatnonzero(spoilt).tolist())
        self._publish()

    def reset(self, worlds: Tensor, qpos: Tensor, qvel: Tensor) -> None:
        """Put some worlds (bool, `(num_worlds,)`) into given positions and velocities, with everything derived from them."""
        chosen = torch.nonzero(worlds).flatten().tolist()
        places, speeds = (values.detach().to("cpu", torch.float64).numpy() for values in (qpos, qvel))
        self._worlds.starts = (places, speeds)
        self._crew.share([simulator.reset_all for simulator in self._simulators], chosen)
        self._publish()

    def get_state(self) -> Tensor:
        """All that the next step and the fields depend on, `(num_worlds, state)`, a tensor of its own."""
        return self._rows.to(self.device, copy=True)

    def set_state(self, worlds: Tensor, state: Tensor) -> None:
        """Put some worlds (bool, `(num_worlds,)`) into states that `get_state` gave, `(num_worlds, state)`."""
        chosen = worlds.cpu()
        rows = state.detach().to("cpu", torch.float64)[chosen]
        # Clocks of another engine begin at 0.
        rows[:, 0] += torch.where(rows[:, 0] < self._first_time, self._first_time, 0.0)
        self._rows[chosen] = rows
        self._publish()

    def close(self) -> None:
        """End the threads; later calls do without them."""
        self._finalizer()

    def _publish(self) -> None:
        if not self._on_host:
            for name, field in self._host_fields.items():
                self.fields[name].copy_(field)
            self.broken.copy_(self._broken)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worlds:
    """What all simulators read and write: a row for each world, and a list of views of it, made once."""

    def __init__(self, model: mujoco.MjModel, num_worlds: int, derived: Sequence[str]) -> None:
        data, self.derived = mujoco.MjData(model), derived
        size = mujoco.mj_stateSize(model, STATE)
        self.layout = {  # the state begins with the time
            "qpos": (slice(1, 1 + model.nq), (model.nq,)),
            "qvel": (slice(1 + model.nq, 1 + model.nq + model.nv), (model.nv,)),
        }
        end = size
        for name in derived:
            shape = getattr(data, name).shape
            begin, end = end, end + int(np.prod(shape))
            self.layout[name] = (slice(begin, end), shape)
        self.rows = np.zeros((num_worlds, end))
        self.moving = self.rows[:, 1 : 1 + model.nq + model.nv]
        self.controls = self.rows[:, size - model.nu : size]
        self.broken = np.zeros(num_worlds, dtype=bool)
        self.starts: tuple[NDArray[np.float64], NDArray[np.float64]] = (np.empty(0), np.empty(0))
        self.states, self.fields = list(self.rows[:, :size]), list(self.rows[:, size:])


class _Simulator:
    """An `MjData`, through which one thread leads one world after the other, taking them from a queue until none is left."""

    def __init__(self, model: mujoco.MjModel, frame_skip: int, worlds: _Worlds) -> None:
        self._model, self._data, self._frame_skip, self._worlds = model, mujoco.MjData(model), frame_skip, worlds
        self._fields = [getattr(self._data, name).reshape(-1) for name in worlds.derived]
        self._has_forces = bool(FORCES & set(worlds.derived))
        # MuJoCo resets a world that turns NaN by itself, and its clock with it: clocks that start later tell.
        self.first_time = max(1.0, 2 * frame_skip * model.opt.timestep)
        self._begin()

    def step_all(self, left: deque[int]) -> None:
        # Some microseconds for each world count here: the smallest models take 30 for a step.
        model, data, states, fields = self._model, self._data, self._worlds.states, self._worlds.fields
        set_state, mj_step, get_state = mujoco.mj_setState, mujoco.mj_step, mujoco.mj_getState
        frame_skip, first_time, own_fields, has_forces = self._frame_skip, self.first_time, self._fields, self._has_forces
        while True:
            try:
                world = left.popleft()
            except IndexError:
                return
            state = states[world]
            set_state(model, data, state, STATE)
            mj_step(model, data, frame_skip)
            if data.time < first_time:
                self._worlds.broken[world] = True
                self._restore(world)
                continue
            get_state(model, data, state, STATE)
            if has_forces:
                mujoco.mj_rnePostConstraint(model, data)
            if own_fields:
                np.concatenate(own_fields, out=fields[world])

    def reset_all(self, left: deque[int]) -> None:
        qpos, qvel = self._worlds.starts
        while left:
            try:
                world = left.popleft()
            except IndexError:
                return
            self._begin()
            self._data.qpos[:], self._data.qvel[:] = qpos[world], qvel[world]
            self._finish(world)

    def restore_all(self, left: deque[int]) -> None:
        """Put worlds into the model's first state."""
        while left:
            try:
                self._restore(left.popleft())
            except IndexError:
                return

    def seconds_per_step(self) -> float:
        began = time.perf_counter()
        mujoco.mj_step(self._model, self._data, self._frame_skip * PROBE_STEPS)
        return (time.perf_counter() - began) / PROBE_STEPS

    def _restore(self, world: int) -> None:
        self._begin()
        self._finish(world)

    def _begin(self) -> None:
        mujoco.mj_resetData(self._model, self._data)
        self._data.time = self.first_time
        # MuJoCo writes the first warning of a kind to a file in the current folder; `broken` says it better.
        self._data.warning.number[_BAD] = 1

    def _finish(self, world: int) -> None:
        mujoco.mj_forward(self._model, self._data)
        mujoco.mj_getState(self._model, self._data, self._worlds.states[world], STATE)
        if self._fields:
            np.concatenate(self._fields, out=self._worlds.fields[world])


_Deed = Callable[[deque[int]], None]


class _Crew:
    """Threads that wait for work. `concurrent.futures` has the same, and takes a few percent of the smallest models' steps."""

    _threads: list[Thread]

    def __init__(self, num_threads: int) -> None:
        self._start(num_threads)

    def share(self, deeds: list[_Deed], worlds: Sequence[int]) -> None:
        """Do something to some worlds: a deed for each thread, the calling one first, and who is free takes the next world.

        Raises what one of them raised. The calling thread does all where there are no others: after `dismiss`, and in a process
        that was forked.
        """
        left = deque(worlds)
        others = [deed for deed, thread in zip(deeds[1 : len(worlds)], self._threads, strict=False) if thread.is_alive()]
        try:
            for deed in others:
                self._inbox.put((deed, left))
            deeds[0](left)
            for _ in others:
                if (error := self._outbox.get()) is not None:
                    raise error
        except BaseException:  # Ctrl-C may come anywhere, and whoever is still at work would disturb the next call
            threads = self._threads
            self.dismiss()
            for thread in threads:
                thread.join()
            self._start(len(threads))
            raise

    def dismiss(self) -> None:
        for _ in self._threads:
            self._inbox.put(None)
        self._threads = []

    def _start(self, num_threads: int) -> None:
        self._inbox: SimpleQueue[tuple[_Deed, deque[int]] | None] = SimpleQueue()
        self._outbox: SimpleQueue[BaseException | None] = SimpleQueue()
        work = (self._inbox, self._outbox)
        self._threads = [Thread(target=_work, args=work, name="mujoco", daemon=True) for _ in range(num_threads)]
        for thread in self._threads:
            thread.start()


def _work(inbox: SimpleQueue[tuple[_Deed, deque[int]] | None], outbox: SimpleQueue[BaseException | None]) -> None:
    while (job := inbox.get()) is not None:
        deed, left = job
        try:
            deed(left)
        except BaseException as error:  # the calling thread raises it
            outbox.put(error)
        else:
            outbox.put(None)
        del job, deed, left  # or the last deed would keep the engine alive
