"""Tries what is installed, for `recall-traces doctor`, in a process of its own: what is broken may end it, or hang.

`python -m recall_traces.cli.probes NAME ...` answers with one line of JSON for each name, `[state, what to say]`. A name is that
of a module to import, or one of `PROBES`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from recall_traces.cli.errors import describe

FOUND, MISSING, BROKEN = "found", "missing", "broken"
Answer = tuple[str, str]
"""A state, and what more there is to say."""
WORLD = """<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size="1" rgba="1 1 1 1"/></worldbody></mujoco>"""


def gpu() -> Answer:
    """Whether torch sees a GPU."""
    import torch

    if torch.cuda.is_available():
        return FOUND, ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs alone"
    return MISSING, f"torch, {built}, sees none"


def gl() -> Answer:
    """Whether MuJoCo can draw with the OpenGL library that the environment variable MUJOCO_GL names."""
    try:
        import mujoco

        model = mujoco.MjModel.from_xml_string(WORLD)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        with mujoco.Renderer(model, 32, 32) as renderer:
            renderer.update_scene(data)
            drawn = bool(renderer.render().any())
    except Exception as error:  # each library fails in its own way
        return MISSING, describe(error)
    return (FOUND, "") if drawn else (MISSING, "pictures are black")


PROBES: dict[str, Callable[[], Answer]] = {"gpu": gpu, "gl": gl}


def probe(name: str) -> Answer:
    """Try one thing."""
    try:
        if name in PROBES:
            return PROBES[name]()
        import_module(name)
    except Exception as error:
        return BROKEN, describe(error)
    return FOUND, ""


def main(names: Sequence[str]) -> None:
    """Try one thing after the other."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # packages may print what they like
        for name in names:
            print(json.dumps(probe(name)), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
