"""Many worlds of one model on a GPU: MuJoCo Warp, its arrays shared with torch, every call one replayed graph.

    step(controls) ──▶ ctrl ──▶ graph: frame_skip × (mujoco_warp.step, look for broken worlds), mend those ──▶ fields

A call copies its arguments into fixed memory and replays a graph that was captured once, on torch's current stream; nothing
waits for the device. Warp's CPU device captures and replays in the same way, so the same code runs without a GPU.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import mujoco
import torch
from mujoco import mjtGeom
from torch import Tensor

try:
    import mujoco_warp
    import warp as wp
except ImportError as error:
    raise ImportError("the warp engine needs MuJoCo Warp: pip install 'recall-traces[gpu]'", name=error.name) from error

from recall_traces.envs.mujoco.warp_kernels import align_capsules, copy_rows, forget_constraints, inspect

# A banner and a line per compiled kernel say nothing to who trains; warnings and errors still come through.
wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)

_LOG = logging.getLogger(__name__)

_STATE = ("time", "qpos", "qvel", "act", "qacc_warmstart", "ctrl")
"""All that the next step depends on."""

_POSITION_FIELDS = frozenset({"xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat"})
_INERTIA_FIELDS = frozenset({"subtree_com", "cdof", "cinert", "ten_length", "actuator_length"})
_VELOCITY_FIELDS = frozenset({"cvel", "cdof_dot", "ten_velocity", "actuator_velocity", "qfrc_bias", "qfrc_passive"})
_SMOOTH_FIELDS = _POSITION_FIELDS | _INERTIA_FIELDS | _VELOCITY_FIELDS | {"actuator_force", "qfrc_actuator"}
"""Known from positions, velocities and controls alone: after a reset they need neither contacts nor the solver."""

_SOLVER_FIELDS = frozenset({"qacc", "qacc_smooth", "qfrc_constraint", "qfrc_smooth"})

_POSTCONSTRAINT_FIELDS = frozenset({"cacc", "cfrc_int", "cfrc_ext"})
"""Of `mj_rnePostConstraint`, which Gymnasium calls after a step but not after a reset: there they are zero."""

_PLANE, _SPHERE, _CAPSULE = (int(kind) for kind in (mjtGeom.mjGEOM_PLANE, mjtGeom.mjGEOM_SPHERE, mjtGeom.mjGEOM_CAPSULE))
_CONTACTS_OF_PAIR = {
    (_PLANE, _SPHERE): 1,
    (_PLANE, _CAPSULE): 2,
    (_SPHERE, _SPHERE): 1,
    (_SPHERE, _CAPSULE): 1,
    (_CAPSULE, _CAPSULE): 2,
}
_CONTACTS_OF_OTHER_PAIRS = 8

_MANY_CONTACTS = 32
_MANY_CONSTRAINTS = 96
"""Where a model may have more, this must do. The humanoid, falling and getting tangled, came to 14 pairs of close geoms on
average and 25 in the worst world, to 12 contacts and 41 rows."""

_CHECK_EVERY = 64
"""Steps between two looks at the flags of full buffers."""

_OVERFLOWS = {
    "contacts_per_world": int(
        mujoco_warp.OverflowType.BROADPHASE | mujoco_warp.OverflowType.NARROWPHASE | mujoco_warp.OverflowType.CCD
    ),
    "constraints_per_world": int(mujoco_warp.OverflowType.NEFC | mujoco_warp.OverflowType.NJMAX_NNZ),
}


class WarpEngine:
    """Worlds of one model in MuJoCo Warp, in single precision. See `Engine` for what every engine promises.

    Buffers for contacts are shared by all worlds, those for constraints are each world's own. If they are too small, forces are
    lost, so that is an error: `check` raises it at once, `step` some steps later, because it does not wait for the device.

    Args:
        model: what to simulate. It is not changed; see `notes`.
        num_worlds: how many of it.
        frame_skip: physics steps in one `step`.
        fields: derived fields to offer beside `qpos` and `qvel`, by their MuJoCo names, such as `"cinert"`.
        device: of torch, such as `"cuda"` or `"cpu"`.
        contacts_per_world: contacts (or pairs of geoms close to each other, if they are more), on average over all worlds.
            Default: as many as the model can have, but hardly more than 32.
        constraints_per_world: rows of constraints in any one world; a contact with friction has four, a joint at its limit one.
            Default: as many as the model can have, but at most 96.

    Raises:
        ValueError: a size, a field or something in the model is not served.
        MemoryError: the worlds do not fit into the device's memory; the message says how many would.
    """

    num_worlds: int
    device: torch.device
    dtype: torch.dtype
    fields: dict[str, Tensor]
    broken: Tensor
    notes: tuple[str, ...]
    """Where the simulation differs from what the model asks for, a sentence each."""

    def __init__(
        self,
        model: mujoco.MjModel,
        num_worlds: int,
        frame_skip: int,
        fields: Sequence[str],
        device: torch.device | str,
        *,
        contacts_per_world: int | None = None,
        constraints_per_world: int | None = None,
    ):
        given = {"contacts_per_world": contacts_per_world, "constraints_per_world": constraints_per_world}
        for name, number in {"num_worlds": num_worlds, "frame_skip": frame_skip, **given}.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        model, self.notes = _served(model)
        for note in self.notes:
            _warn_once(note)
        self.num_worlds, self.dtype, self.device = num_worlds, torch.float32, _with_index(device)
        free = _free_bytes(self.device)
        wp.init()
        with wp.ScopedDevice(wp.device_from_torch(self.device)):
            self._model = mujoco_warp.put_model(model)
            self._model.opt.warn_overflow = 0  # the device's own complaints name options that our users do not have
            if self.device.type == "cuda" and not wp.is_conditional_graph_supported():
                self._model.opt.graph_conditional = False  # the solver then takes all its iterations
            self._model.callback.contactfilter = _align_capsules
            defaults = _default_sizes(model, self._model.nxn_geom_pair_filtered.numpy().tolist(), num_worlds)
            self._sizes = {name: given[name] or size for name, size in defaults.items()}
            try:
                self._build(model, frame_skip, tuple(fields))
            except (RuntimeError, MemoryError) as error:
                if "allocate" not in str(error) and "out of memory" not in str(error):
                    raise
                room = f"{free / 2**30:.1f} GiB that are free on {self.device}" if free else f"memory of {self.device}"
                fit = f"; about {int(free / _bytes_per_world(model, self._sizes))} would" if free else ""
                raise MemoryError(f"{num_worlds} worlds do not fit into the {room}{fit}") from error

    def _build(self, model: mujoco.MjModel, frame_skip: int, fields: tuple[str, ...]) -> None:
        self._data = _make_data(model, self.num_worlds, self._sizes)
        self._derived = tuple(name for name in dict.fromkeys(fields) if name not in _STATE)
        views = {name: _view(self._data, name) for name in dict.fromkeys(("qpos", "qvel", *_STATE, *fields))}
        self._state = [views[name].reshape(self.num_worlds, -1) for name in (*_STATE, *self._derived)]
        self._ctrl = views["ctrl"]
        self._steps = 0
        self._flags = torch.zeros(len(_OVERFLOWS), dtype=torch.bool, pin_memory=self.device.type == "cuda")
        self._looked: torch.cuda.Event | None = None
        self._streams: dict[int, Any] = {}

        # A graph finds its arguments at fixed places, and what it keeps for itself too.
        self._rows = {name: _as_rows(views[name]) for name in (*_STATE, *self._derived) if views[name].numel()}
        self._kept = {name: wp.empty_like(self._rows[name]) for name in self._derived if name in self._rows}
        self._first = {name: wp.clone(rows[:1]) for name, rows in self._rows.items()}
        self._mask, self._mask_view = _with_view(wp.zeros(self.num_worlds, dtype=bool))
        self._qpos, self._qpos_view = _with_view(wp.zeros_like(self._data.qpos))
        self._qvel, self._qvel_view = _with_view(wp.zeros_like(self._data.qvel))
        self._lost, self._lost_view = _with_view(wp.zeros(self.num_worlds, dtype=int))
        self._broken, broken = _with_view(wp.zeros(self.num_worlds, dtype=bool))

        self._derive()
        for name in self._kept:
            if name in _POSTCONSTRAINT_FIELDS:
                self._rows[name].zero_()
            wp.copy(self._first[name], self._rows[name][:1])
        self._step_worlds(1)  # kernels are compiled now, because a capture must not wait for a compiler
        self._step_graph = _graph(lambda: self._step_worlds(frame_skip))
        self._reset_worlds()
        self._reset_graph = _graph(self._reset_worlds)
        # Those first runs have moved the worlds.
        self._broken.fill_(True)
        self._mend()
        self._broken.zero_()
        self._lost.zero_()
        wp.synchronize_device()  # hereafter all is on torch's streams
        self.fields = _Views((name, views[name]) for name in ("qpos", "qvel", *fields))
        self.broken = broken

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("fields", "broken") and name in self.__dict__:
            raise AttributeError(f"{name} shows the simulator's own memory and cannot be replaced; write into it instead")
        super().__setattr__(name, value)

    def step(self, controls: Tensor) -> None:
        """As `Engine.step`; nothing waits for the device.

        Args:
            controls: `(num_worlds, nu)`.

        Raises:
            RuntimeError: in one of the last steps a world had more contacts or constraints than there is room for.
        """
        self._ctrl.copy_(controls)
        self._replay(self._step_graph)
        self._watch()

    def reset(self, worlds: Tensor, qpos: Tensor, qvel: Tensor) -> None:
        """As `Engine.reset`; nothing waits for the device, and the fields of other worlds stay what they are.

        Derived fields are those of the new state, and of `cacc`, `cfrc_int` and `cfrc_ext` zero, as after Gymnasium's reset.
        """
        self._mask_view.copy_(worlds)
        self._qpos_view.copy_(qpos)
        self._qvel_view.copy_(qvel)
        self._replay(self._reset_graph)

    def get_state(self) -> Tensor:
        """As `Engine.get_state`: time, positions, velocities, activations, the solver's first guess, controls, derived fields.

        The derived fields are there because they cannot be had again: they belong to the last substep.
        """
        return torch.cat(self._state, dim=1)

    def set_state(self, worlds: Tensor, state: Tensor) -> None:
        """As `Engine.set_state`, with the derived fields of that moment."""
        state = state.to(device=self.device, dtype=self.dtype)
        worlds = worlds.to(self.device).unsqueeze(1)
        for view, new in zip(self._state, state.split([view.shape[1] for view in self._state], dim=1), strict=True):
            view.copy_(torch.where(worlds, new, view))

    def check(self) -> None:
        """Wait for the device and make sure that no world has ever had more contacts or constraints than there is room for.

        Raises:
            RuntimeError: one had; the message names the option to raise.
        """
        self._complain(self._overflow_flags().cpu())

    def close(self) -> None:
        """Free the graphs; the arrays go when nobody looks at their views any more."""
        self._step_graph = self._reset_graph = None
        self._streams.clear()

    def _replay(self, graph: Any) -> None:
        if self.device.type != "cuda":
            wp.capture_launch(graph)
            return
        with torch.cuda.device(self.device):  # the default stream is one of the current device
            stream = torch.cuda.current_stream(self.device)
            if stream.cuda_stream not in self._streams:
                self._streams[stream.cuda_stream] = wp.stream_from_torch(stream)
            wp.capture_launch(graph, self._streams[stream.cuda_stream])

    def _step_worlds(self, frame_skip: int) -> None:
        self._broken.zero_()
        for _ in range(frame_skip):
            mujoco_warp.step(self._model, self._data)
            wp.launch(
                inspect,
                self.num_worlds,
                inputs=[self._data.qpos, self._data.qvel, self._data.qacc, self._data.overflow],
                outputs=[self._broken, self._lost],
            )
        if not _POSTCONSTRAINT_FIELDS.isdisjoint(self._derived):
            mujoco_warp.rne_postconstraint(self._model, self._data)
        self._mend()

    def _mend(self) -> None:
        for name, rows in self._rows.items():
            self._copy_rows(self._broken, True, self._first[name], rows)
        efc = self._data.efc
        wp.launch(
            forget_constraints,
            self.num_worlds,
            inputs=[self._broken],
            outputs=[efc.J, efc.pos, efc.vel, efc.aref, efc.D, efc.force],
        )

    def _reset_worlds(self) -> None:
        for name, kept in self._kept.items():
            wp.copy(kept, self._rows[name])
        for name, rows in self._rows.items():
            source = {"qpos": self._qpos, "qvel": self._qvel}.get(name, self._first[name])
            self._copy_rows(self._mask, True, source, rows)
        self._derive()
        for name, kept in self._kept.items():
            if name in _POSTCONSTRAINT_FIELDS:
                self._rows[name].zero_()
            self._copy_rows(self._mask, False, kept, self._rows[name])

    def _derive(self) -> None:
        """Derived fields of all worlds from their present positions, velocities and controls, by no more than they need."""
        needed = set(self._derived) - _POSTCONSTRAINT_FIELDS
        if needed <= _SMOOTH_FIELDS:
            stages = [mujoco_warp.fwd_kinematics, mujoco_warp.transmission, mujoco_warp.fwd_velocity, mujoco_warp.fwd_actuation]
        else:
            stages = [mujoco_warp.forward]
        for stage in stages if needed else ():
            stage(self._model, self._data)

    def _copy_rows(self, mask: Any, when: bool, source: Any, target: Any) -> None:
        wp.launch(copy_rows, target.shape, inputs=[mask, when, source], outputs=[target])

    def _overflow_flags(self) -> Tensor:
        return torch.stack([((self._lost_view & bits) != 0).any() for bits in _OVERFLOWS.values()])

    def _watch(self) -> None:
        """Look at the flags of full buffers once in a while; on a GPU at those of some steps ago, which have arrived by now."""
        self._steps += 1
        if self._looked is not None:
            if self._looked.query():
                self._looked = None
                self._complain(self._flags)
        elif self._steps % _CHECK_EVERY == 0:
            self._flags.copy_(self._overflow_flags(), non_blocking=True)
            if self.device.type == "cuda":
                self._looked = torch.cuda.current_stream(self.device).record_event()
            else:
                self._complain(self._flags)

    def _complain(self, flags: Tensor) -> None:
        for option, full in zip(_OVERFLOWS, flags.tolist(), strict=True):
            if full:
                size = self._sizes[option]
                raise RuntimeError(
                    f"a world of the warp engine needed more than {option}={size}, and forces were lost: make it larger, "
                    f"for instance {option}={2 * size}"
                )


class _Views(dict[str, Tensor]):
    """Fields by name, which can be written into but not replaced: a tensor of its own would no longer show the simulator."""

    def __setitem__(self, name: str, value: Tensor) -> NoReturn:
        raise TypeError(f"a field shows the simulator's own memory: write fields[{name!r}][:] = ... instead")


def _served(model: mujoco.MjModel) -> tuple[mujoco.MjModel, tuple[str, ...]]:
    """The model as MuJoCo Warp can have it, and what is different about it."""
    if getattr(model, "nhistory", 0) or getattr(model, "nplastic", 0):
        raise ValueError("the warp engine serves no model with delays or plastic springs, whose memory is not in its states")
    if model.opt.solver != mujoco.mjtSolver.mjSOL_PGS:
        return model, ()
    model = copy.copy(model)
    model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    return model, ("MuJoCo Warp has no PGS solver, which the model asks for; Newton's takes its place, with the same solutions",)


@functools.cache
def _warn_once(note: str) -> None:
    """Training makes several engines of one model: one for evaluation, one for pictures."""
    _LOG.warning(note)


def _align_capsules(model: Any, data: Any) -> None:
    wp.launch(
        align_capsules,
        data.naconmax,
        inputs=[model.geom_type, data.geom_xmat, data.nacon, data.contact.geom, data.contact.worldid],
        outputs=[data.contact.frame],
    )


def _default_sizes(model: mujoco.MjModel, pairs: list[list[int]], num_worlds: int) -> dict[str, int]:
    """As many contacts and rows of constraints as a model can have whose `pairs` of geoms may touch, within reason.

    There is room for a world that breaks and has all contacts at once, so that it takes none from others.
    """
    contacts = 0
    rows = int(model.jnt_limited.sum() + model.tendon_limited.sum() + 6 * model.neq)
    rows += int((model.dof_frictionloss > 0).sum() + (model.tendon_frictionloss > 0).sum())
    for pair in pairs:
        first, second = sorted(model.geom_type[pair].tolist())
        touching = _CONTACTS_OF_PAIR.get((first, second), _CONTACTS_OF_OTHER_PAIRS)
        dimensions = int(max(*model.geom_condim[pair], *model.pair_dim))
        contacts += touching
        rows += touching * max(1, 2 * (dimensions - 1))
    return {
        "contacts_per_world": max(1, min(contacts, _MANY_CONTACTS + contacts // num_worlds)),
        "constraints_per_world": max(1, min(rows, _MANY_CONSTRAINTS)),
    }


def _make_data(model: mujoco.MjModel, num_worlds: int, sizes: dict[str, int]) -> Any:
    return mujoco_warp.make_data(
        model, nworld=num_worlds, nconmax=sizes["contacts_per_world"], njmax=sizes["constraints_per_world"]
    )


def _bytes_per_world(model: mujoco.MjModel, sizes: dict[str, int]) -> int:
    """Twice the arrays of one world, which are made on the host for that: a step needs some more, and memory has gaps."""
    with wp.ScopedDevice("cpu"):
        return 2 * _bytes_in(_make_data(model, 1, sizes))


def _bytes_in(value: Any) -> int:
    if isinstance(value, wp.array):
        return int(value.capacity)
    if dataclasses.is_dataclass(value):
        return sum(_bytes_in(getattr(value, field.name)) for field in dataclasses.fields(value))
    return 0


def _free_bytes(device: torch.device) -> int:
    """Memory that is free on a device; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", ()):  # macOS, Windows
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _with_index(device: torch.device | str) -> torch.device:
    """Warp and the tensors' own `device` both say which GPU it is."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _view(data: Any, name: str) -> Tensor:
    if name not in (*_STATE, *_SMOOTH_FIELDS, *_SOLVER_FIELDS, *_POSTCONSTRAINT_FIELDS):
        valid = sorted(_SMOOTH_FIELDS | _SOLVER_FIELDS | _POSTCONSTRAINT_FIELDS)
        raise ValueError(f"the warp engine has no field {name!r}; there are {', '.join(valid)}")
    return wp.to_torch(getattr(data, name))


def _as_rows(view: Tensor) -> Any:
    """The same memory as a matrix of Warp's with a row for each world."""
    return wp.from_torch(view.reshape(len(view), -1))


def _with_view(array: Any) -> tuple[Any, Tensor]:
    return array, wp.to_torch(array)


def _graph(call: Callable[[], None]) -> Any:
    """Capture what a call does to the device, and run it once: it takes its memory then, so too little shows here or never."""
    with wp.ScopedCapture() as capture:
        call()
    wp.capture_launch(capture.graph)
    return capture.graph
