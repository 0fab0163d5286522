"""Gradient steps as replays of a graph: on a CPU what can be checked there, the rest where there is a GPU."""

import gc
import weakref

import pytest
import torch

from recall_traces import envs
from recall_traces.agents.arms import ArmConfigs, make_learner
from recall_traces.agents.ppo import PPO, Minibatch, PPOConfig
from recall_traces.agents.replayed import PLAIN_CALLS, Replayed, tensors_in, with_tensors
from recall_traces.agents.sac import SAC, Batch, SACConfig
from recall_traces.data import Traces

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def arguments() -> tuple[Batch, torch.Tensor, Traces, None]:
    numbers = iter(torch.arange(11.0))
    batch = Batch(*(next(numbers) for _ in range(6)))
    noise = next(numbers)
    return batch, noise, Traces(*(next(numbers) for _ in range(4))), None


def test_tensors_are_found_in_order():
    assert [int(x) for x in tensors_in(arguments())] == list(range(11))


def test_arguments_of_other_tensors_have_the_same_form():
    batch, noise, traces, nothing = with_tensors(arguments(), (x + 100 for x in tensors_in(arguments())))
    assert isinstance(batch, Batch)
    assert isinstance(traces, Traces)
    assert nothing is None
    assert [int(x) for x in tensors_in((batch, noise, traces))] == list(range(100, 111))


def test_on_a_cpu_the_function_is_called_as_it_is():
    given = arguments()
    [found] = Replayed(lambda *values: [values], torch.device("cpu"))(*given)
    assert all(a is b for a, b in zip(found, given, strict=True))


@needs_gpu
def test_a_replay_reads_its_arguments_and_what_it_changed():
    total, calls = torch.zeros(2, device="cuda"), []

    def add(batch: tuple[torch.Tensor, None]) -> dict[str, torch.Tensor]:
        calls.append(batch)
        total.add_(batch[0])
        return {"twice": batch[0] * 2}

    replayed = Replayed(add, torch.device("cuda"))
    for k in range(10):
        found = replayed((torch.full((2,), float(k), device="cuda"), None))
        assert found["twice"].tolist() == [2.0 * k, 2.0 * k]
    assert total.tolist() == [45.0, 45.0]
    assert len(calls) == PLAIN_CALLS + 1
    assert replayed((torch.ones(1, device="cuda"), None))["twice"].tolist() == [2.0], "another shape is captured apart"


@needs_gpu
@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_weights_of_ppo_are_the_same(schedule: str):
    def weights(plainly: bool) -> torch.Tensor:
        config = PPOConfig(n_steps=16, batch_size=32, n_epochs=2, learning_rate_schedule=schedule)
        ppo = PPO(envs.make("CartPole-v1", num_envs=8, device="cuda"), config, num_seeds=2)
        if plainly:
            ppo.replayed = Replayed(ppo.learn_from, torch.device("cpu"))
        ppo.learn(1024)
        assert plainly or any(capture.graph for capture in ppo.replayed.captures.values())
        return ppo.policy_optimizer.values

    torch.testing.assert_close(weights(plainly=False), weights(plainly=True))


@needs_gpu
def test_weights_of_sac_are_the_same():
    def weights(plainly: bool) -> torch.Tensor:
        config = SACConfig(learning_starts=20, net_arch=(16,), buffer_size=500, n_steps=50)
        sac = SAC(envs.make("PointMaze-U", num_envs=2, device="cuda"), config, num_seeds=2)
        if plainly:
            sac.replayed = Replayed(sac.learn_from, torch.device("cpu"))
        sac.learn(200)
        return sac.critic_optimizer.values

    torch.testing.assert_close(weights(plainly=False), weights(plainly=True))


@pytest.mark.parametrize("target_kl", [None, 0.0001])
def test_one_minibatch_step_is_the_update_of_one_minibatch(target_kl: float | None):
    """`learn_from` is what `update` repeats; with a target the seed that is past it keeps its weights."""
    config = PPOConfig(n_steps=8, batch_size=16, n_epochs=1, target_kl=target_kl)
    ppo = PPO(envs.make("CartPole-v1", num_envs=4), config, num_seeds=2)
    rollout = ppo.estimate(ppo.collect())
    shifted = Minibatch(rollout.obs, rollout.actions, rollout.log_probs.clone(), rollout.advantages, rollout.returns)
    shifted.log_probs[1] -= 0.5  # seed 1's policy has moved far since
    before = ppo.policy_optimizer.values.clone()
    ppo.learn_from(shifted, 1e-2)
    moved = (ppo.policy_optimizer.values != before).any(1).tolist()
    assert moved == [True, target_kl is None]


@pytest.mark.parametrize(("agent", "env_id"), [("ppo", "CartPole-v1"), ("sac", "PointMaze-U")])
def test_a_learner_is_let_go_of_at_once(agent: str, env_id: str):
    """Else the next arm of a comparison would begin while the memory of those before it is still taken."""
    configs = {"ppo": PPOConfig(n_steps=16, batch_size=16), "sac": SACConfig(learning_starts=8, buffer_size=100, n_steps=16)}
    learner = make_learner(agent, "recall", envs.make(env_id, num_envs=2), configs[agent], ArmConfigs()).learn(64)
    kept = weakref.ref(learner), weakref.ref(learner.recall)
    gc.disable()
    try:
        del learner
        assert [reference() for reference in kept] == [None, None]
    finally:
        gc.enable()
