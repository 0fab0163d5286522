"""Kernels for what MuJoCo Warp has not: masked copies, worlds that have broken, capsules on the floor as in MuJoCo.

Warp reads the types of arguments from the functions themselves, so annotations must not be strings here.
"""

# mypy: ignore-errors
# (Inside a kernel is Warp's language, which a checker takes for Python.)

import mujoco
import warp as wp

LIMIT = wp.constant(1e10)
"""A position, velocity or acceleration beyond this is bad, as in MuJoCo's `mj_checkPos`, `mj_checkVel` and `mj_checkAcc`."""


UPRIGHT = wp.constant(1e-5)
"""Sine of the angle between a capsule and a plane's normal below which single precision knows no direction of the capsule."""

PLANE = wp.constant(int(mujoco.mjtGeom.mjGEOM_PLANE))
CAPSULE = wp.constant(int(mujoco.mjtGeom.mjGEOM_CAPSULE))


@wp.kernel(enable_backward=False)
def inspect(
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    qacc: wp.array2d[float],
    overflow: wp.array[int],
    broken: wp.array[bool],
    lost: wp.array[int],
):
    """Set `broken` in worlds with a value that is not a number or too large, and add the new flags of `overflow` to `lost`.

    The flags of broken worlds are forgotten: where a body is nowhere, MuJoCo Warp finds every contact there can be. One thread
    per world.
    """
    world = wp.tid()
    # "not within" instead of "beyond": every comparison with NaN is false.
    for i in range(qpos.shape[1]):
        if not wp.abs(qpos[world, i]) <= LIMIT:
            broken[world] = True
    for i in range(qvel.shape[1]):
        if not (wp.abs(qvel[world, i]) <= LIMIT and wp.abs(qacc[world, i]) <= LIMIT):
            broken[world] = True
    if not broken[world]:
        lost[world] = lost[world] | overflow[world]
    overflow[world] = 0


@wp.kernel(enable_backward=False)
def forget_constraints(
    broken: wp.array[bool],
    jacobian: wp.array3d[float],
    position: wp.array2d[float],
    velocity: wp.array2d[float],
    reference: wp.array2d[float],
    mass: wp.array2d[float],
    force: wp.array2d[float],
):
    """Clear the constraints of broken worlds.

    The solver multiplies whole tiles, by zero where there is no constraint. A NaN that a broken world has left there, as MuJoCo
    Warp's own reset does, would break it anew in every step. One thread per world, because worlds seldom break.
    """
    world = wp.tid()
    if not broken[world]:
        return
    for i in range(jacobian.shape[1]):
        for j in range(jacobian.shape[2]):
            jacobian[world, i, j] = 0.0
    for i in range(position.shape[1]):
        position[world, i] = 0.0
        velocity[world, i] = 0.0
        reference[world, i] = 0.0
        force[world, i] = 0.0
    for i in range(mass.shape[1]):
        mass[world, i] = 0.0


@wp.kernel(enable_backward=False)
def copy_rows(mask: wp.array[bool], when: bool, source: wp.array2d[float], target: wp.array2d[float]):
    """Copy rows where `mask` equals `when`; a source of one row serves all worlds. One thread per value."""
    world, column = wp.tid()
    if mask[world] == when:
        target[world, column] = source[world % source.shape[0], column]


@wp.kernel(enable_backward=False)
def align_capsules(
    geom_type: wp.array[int],
    geom_xmat: wp.array2d[wp.mat33],
    num_contacts: wp.array[int],
    geoms: wp.array[wp.vec2i],
    worlds: wp.array[int],
    frames: wp.array[wp.mat33],
):
    """Turn the frames of contacts between a plane and a capsule so that the first tangent follows the capsule's axis.

    MuJoCo does so for every capsule. MuJoCo Warp does so for those that lie rather than stand (over 30 degrees from the normal)
    and gives the others a tangent along an axis of the world. With pyramidal friction cones, which are no bodies of revolution,
    that is another friction: Ant stands on such legs. One thread per contact.
    """
    contact = wp.tid()
    if contact >= num_contacts[0]:
        return
    pair = geoms[contact]
    if pair[0] < 0 or pair[1] < 0:
        return
    capsule = wp.where(geom_type[pair[0]] == CAPSULE, pair[0], pair[1])
    plane = wp.where(geom_type[pair[0]] == CAPSULE, pair[1], pair[0])
    if geom_type[capsule] != CAPSULE or geom_type[plane] != PLANE:
        return
    frame = frames[contact]
    pose = geom_xmat[worlds[contact], capsule]
    normal = wp.vec3(frame[0, 0], frame[0, 1], frame[0, 2])
    axis = wp.vec3(pose[0, 2], pose[1, 2], pose[2, 2])
    tangent = axis - normal * wp.dot(normal, axis)
    length = wp.length(tangent)
    if length < UPRIGHT:
        return
    tangent = tangent / length
    other = wp.cross(normal, tangent)
    frames[contact] = wp.mat33(normal[0], normal[1], normal[2], tangent[0], tangent[1], tangent[2], other[0], other[1], other[2])
