"""Pictures of a MuJoCo world."""

from __future__ import annotations

import warnings

import mujoco
import numpy as np
from numpy.typing import NDArray

from recall_traces.envs.mujoco.task import Camera

NO_LIBRARY = (
    "MuJoCo cannot draw here ({error}); install an OpenGL library (Debian, Ubuntu: apt install libegl1 or libosmesa6) and set "
    "the environment variable MUJOCO_GL=egl or MUJOCO_GL=osmesa before Python starts"
)
_failures: list[str] = []
"""Why the first attempt to draw failed: with some drivers a second one would end Python."""


class Painter:
    """Draws worlds of one model, RGB; made by the thread that draws.

    Args:
        model: of the worlds.
        camera: from where.
        width: pixels.
        height: pixels.

    Raises:
        ValueError: a picture without pixels.
        RuntimeError: there is no OpenGL library.
    """

    def __init__(self, model: mujoco.MjModel, camera: Camera, width: int, height: int) -> None:
        if not (width >= 1 and height >= 1):
            raise ValueError(f"a picture of {width} x {height} pixels cannot be drawn; both must be at least 1")
        if _failures:
            raise RuntimeError(_failures[0])
        self.size = (width, height)
        buffer = model.vis.global_
        buffer.offwidth, buffer.offheight = max(buffer.offwidth, width), max(buffer.offheight, height)
        self._model, self._data = model, mujoco.MjData(model)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the error that follows says it in one sentence
                self._renderer = mujoco.Renderer(model, height, width)
        except Exception as error:  # each backend fails in its own way
            message = " ".join(str(error).split())
            _failures.append(NO_LIBRARY.format(error=f"{type(error).__name__}: {message}"))
            raise RuntimeError(_failures[0]) from error
        self._camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, self._camera)
        self._camera.distance, self._camera.elevation = camera.distance, camera.elevation
        if camera.trackbodyid >= 0:
            self._camera.type, self._camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, camera.trackbodyid
        if camera.lookat is not None:
            self._camera.lookat[:] = camera.lookat

    def draw(self, qpos: NDArray[np.float64], qvel: NDArray[np.float64]) -> NDArray[np.uint8]:
        """A picture of these positions, uint8, `(height, width, 3)`."""
        self._data.qpos[:], self._data.qvel[:] = qpos, qvel
        mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, self._camera)
        picture: NDArray[np.uint8] = self._renderer.render()
        return picture.copy()

    def close(self) -> None:
        """Free what the driver holds."""
        self._renderer.close()
