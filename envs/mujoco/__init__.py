"""MuJoCo tasks, batched: one definition of each task, simulated by MuJoCo's C library or by MuJoCo Warp."""

import importlib
import os

try:
    importlib.import_module("mujoco")
except Exception as error:  # what draws is loaded at once, and each library fails in its own way
    if "MUJOCO_GL" not in os.environ:
        raise
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise ValueError(
        f"MuJoCo cannot be imported with the environment variable MUJOCO_GL={os.environ['MUJOCO_GL']} ({message}); "
        "install that library (Debian, Ubuntu: apt install libegl1 or libosmesa6), set MUJOCO_GL=egl, or unset it"
    ) from error
