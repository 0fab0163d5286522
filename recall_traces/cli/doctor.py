"""`recall-traces doctor`: what is installed and works here, and what each missing piece would give."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import recall_traces
from recall_traces.cli.errors import RunError, UsageError
from recall_traces.cli.probes import BROKEN, FOUND, MISSING, Answer

HELP = """usage: recall-traces doctor [-h] [--json]

Tell what is found here, what is missing and what it would give, and what is installed but does not work.

  --json    print JSON

Exit code 0, whatever is missing; 1 if something is installed and cannot be imported.

examples:
  recall-traces doctor
  recall-traces doctor --json"""
PATIENCE = 120.0
"""Seconds after which a process that tries things is given up."""


@dataclass(frozen=True)
class Package:
    """One that is imported."""

    name: str
    """As pip knows it."""
    module: str
    """As Python knows it."""
    use: str
    """What it is for."""
    install: str = ""
    """How to get it; by default `pip install NAME`."""


GPU_EXTRA, ONNX_EXTRA = "pip install 'recall-traces[gpu]'", "pip install 'recall-traces[onnx]'"
PACKAGES = (
    Package("torch", "torch", "everything that learns"),
    Package("numpy", "numpy", "arrays"),
    Package("scipy", "scipy", "statistics of a comparison, nearest neighbours"),
    Package("gymnasium", "gymnasium", "Gymnasium's environments, and your own"),
    Package("mujoco", "mujoco", "Hopper-v5, Ant-v5 and the other MuJoCo tasks"),
    Package("stable-baselines3", "stable_baselines3", "RecallTracesCallback, for its PPO, A2C, SAC, TD3, DDPG"),
    Package("sb3-contrib", "sb3_contrib", "the callback for its TRPO and TQC"),
    Package("matplotlib", "matplotlib", "pictures"),
    Package("tensorboard", "tensorboard", "curves in TensorBoard"),
    Package("safetensors", "safetensors", "saved policies"),
    Package("tyro", "tyro", "options on the command line"),
    Package("rich", "rich", "progress and tables"),
    Package("pygame", "pygame", "films and windows of Gymnasium's classic tasks"),
    Package("onnx", "onnx", "policies exported to ONNX", ONNX_EXTRA),
    Package("onnxscript", "onnxscript", "policies exported to ONNX", ONNX_EXTRA),
    Package("warp-lang", "warp", "MuJoCo Warp, which runs on it", GPU_EXTRA),
    Package("mujoco-warp", "mujoco_warp", "MuJoCo tasks batched on a GPU, --engine warp", GPU_EXTRA),
)
GPU_USE, GPU_INSTALL = "training on it, --device cuda", "https://pytorch.org/get-started/locally"
BACKENDS = {"egl": "apt install libegl1", "osmesa": "apt install libosmesa6"}
"""What MuJoCo can draw with where there is no screen, and how to get it."""


@dataclass(frozen=True)
class Finding:
    """What became of one thing that was looked for."""

    name: str
    state: str
    """found, missing or broken."""
    version: str
    """Empty where there is none."""
    use: str
    """What it is for."""
    detail: str
    """What more there is to say; empty for nothing."""
    install: str
    """How to get it, or to repair it; empty if it is found."""

    def text(self) -> str:
        """One line."""
        head = f"{self.state:<8} {f'{self.name} {self.version}'.strip():<26} "
        notes = f" ({self.detail})" if self.detail else ""
        if self.state == FOUND:
            return f"{head}{self.use}{notes}"
        return f"{head}{'would enable ' if self.state == MISSING else ''}{self.use}{notes}: {self.install}"


def main(argv: Sequence[str]) -> None:
    """Run the subcommand.

    Raises:
        UsageError: it was given something that it does not know.
        RunError: something is installed and does not work.
    """
    if any(word in ("-h", "--help") for word in argv):
        print(HELP)
        return
    unknown = [word for word in argv if word != "--json"]
    if unknown:
        raise UsageError(f"doctor takes --json and nothing else, and got {unknown[0]!r}")
    head = {"recall-traces": recall_traces.__version__, "python": platform.python_version(), "system": platform.platform()}
    if not argv:
        print(", ".join(f"{name} {text}" for name, text in head.items()), flush=True)
    findings: list[Finding] = []
    for finding in examine():
        findings.append(finding)
        if not argv:  # each as soon as it is known, since some take seconds
            print(finding.text(), flush=True)
    if argv:
        print(json.dumps({**head, "findings": [dataclasses.asdict(finding) for finding in findings]}, indent=2))
    broken = [finding.name for finding in findings if finding.state == BROKEN]
    if broken:
        raise RunError(f"installed, and not working: {', '.join(broken)}")


def examine() -> Iterator[Finding]:
    """Look for everything, one after the other."""
    versions = {package.name: installed(package.name) for package in PACKAGES}
    there = [package for package in PACKAGES if versions[package.name]]
    answers = ask([package.module for package in there])
    for package in PACKAGES:
        install = package.install or f"pip install {package.name}"
        state, detail = next(answers) if package in there else (MISSING, "")
        if state == BROKEN:
            install = install.replace("install", "install --force-reinstall", 1)
        shown = "" if state == FOUND else install
        yield Finding(package.name, state, versions[package.name], package.use, detail, shown)
        if package.name == "torch":
            works = ask(["gpu"]) if state == FOUND else iter([(MISSING, "torch does not work")])
            ((state, detail),) = works
            yield Finding("GPU", state, "", GPU_USE, detail, "" if state == FOUND else GPU_INSTALL)
    if not installed("mujoco") or not sys.platform.startswith("linux"):
        return  # elsewhere there is one library, which comes with the system
    for backend, install in BACKENDS.items():
        ((state, detail),) = ask(["gl"], MUJOCO_GL=backend)
        use = f"pictures of MuJoCo tasks without a screen, with MUJOCO_GL={backend}"
        # A library that does not work is as good as none: drawing is tried with each, and one is enough.
        state = FOUND if state == FOUND else MISSING
        yield Finding(f"OpenGL {backend}", state, "", use, detail, "" if state == FOUND else install)


def installed(name: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def ask(names: Sequence[str], **environment: str) -> Iterator[Answer]:
    """Try things in a process of their own, and go on in another one where one of them ends it.

    Args:
        names: What to try.
        environment: Variables of the environment.

    Returns:
        An answer for each name, as soon as it is known.
    """
    left = list(names)
    while left:
        # -P: a file in the current folder is not the package of the same name.
        command = [sys.executable, "-P", "-m", "recall_traces.cli.probes", *left]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8", env=os.environ | environment
        ) as process:
            timer = threading.Timer(PATIENCE, process.kill)
            timer.daemon = True
            timer.start()
            assert process.stdout is not None
            for line in process.stdout:
                left.pop(0)
                state, detail = json.loads(line)
                yield state, detail
            process.wait()
            late = not timer.is_alive()
            timer.cancel()
        if left:
            left.pop(0)
            yield BROKEN, f"no answer in {PATIENCE:.0f} seconds" if late else f"ended Python with code {process.returncode}"
