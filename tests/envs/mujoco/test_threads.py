"""Threads of the cpu engine: how they end, fail, and are left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from mujoco_helpers import actions_for, make, play, same


def test_closing_ends_the_threads() -> None:
    before = set(threading.enumerate())  # those of environments that were dropped may end at any time
    env = make("Ant-v5", 4, num_threads=3)
    ours = set(threading.enumerate()) - before
    assert len(ours) == 2
    env.close()
    until = time.monotonic() + 5
    while any(thread.is_alive() for thread in ours) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(thread.is_alive() for thread in ours)


def test_a_closed_environment_goes_on_without_threads() -> None:
    env, twin = (make("Ant-v5", 4, num_threads=3) for _ in range(2))
    env.close()
    actions = actions_for(env, 3)
    assert same(play(env, actions), play(twin, actions))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_goes_on_without_threads() -> None:
    """In a process of its own, where nothing else has threads."""
    code = """
import os, torch
torch.set_num_threads(1)
from recall_traces import envs
env = envs.make("Hopper-v5", 4, num_threads=2)
env.step(torch.zeros(4, 3))
child = os.fork()
env.step(torch.zeros(4, 3))
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    os._exit(0)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_errors_in_a_thread_reach_the_caller() -> None:
    env = make("Hopper-v5", 4, num_threads=2)

    def fail(left: Any) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        env.engine._crew.share([lambda left: left.clear(), fail], range(4))
    play(env, actions_for(env, 2))


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal can be sent to a thread here")
def test_ctrl_c_leaves_nobody_at_work() -> None:
    """Else the next step would take an earlier one's end for its own."""
    env = make("Hopper-v5", 4, num_threads=2)
    crew, ended = env.engine._crew, []

    def work(left: Any) -> None:
        time.sleep(0.2)
        ended.append("work")

    def press() -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    # Where the tests run in a shell's background, the signal is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                crew.share([lambda left: threading.Timer(0.05, press).start(), work], range(4))
            assert ended == ["work"]
            crew.share([lambda left: None, work], range(4))
            assert ended == ["work", "work"]
            ended.clear()
    finally:
        signal.signal(signal.SIGINT, before)
