"""The method's own sanity check: the true model and a reachable goal, and imitation alone teaches the way."""

import torch

from recall_traces import RecallConfig, RecallTraces, envs
from recall_traces.agents.evaluation import evaluate
from recall_traces.agents.ppo import PPO, PPOConfig

SEEDS, ENVS = 8, 4


def test_true_traces_into_the_goal_teach_the_way_without_any_reward() -> None:
    env = envs.make("FourRooms-7", num_envs=SEEDS * ENVS, seed=1)
    config = RecallConfig(
        source="given",
        traces_from="oracle",
        trace_length=20,
        search_length=20,
        traces_per_update=16,
        imitation_batch_size=128,
    )
    recall = RecallTraces(
        env.observation_space,
        env.action_space,
        config,
        num_seeds=SEEDS,
        num_envs=ENVS,
        given=torch.tensor([env.goal]),
        predecessors=env.predecessors,
    )
    ppo = PPO(env, PPOConfig(n_steps=32), recall=recall, num_seeds=SEEDS, seed=1)
    test_env = envs.make("FourRooms-7", num_envs=SEEDS * 2 * 10, seed=2)
    before = evaluate(ppo.act, test_env, SEEDS).success
    recall.observe(ppo.collect())  # tells where episodes begin
    for _ in range(60):
        recall.update(ppo.value)
        ppo.imitate(learning_rate=3e-3)
    after = evaluate(ppo.act, test_env, SEEDS).success
    assert float(before.mean()) < 0.7
    assert float(after.min()) > 0.8
    assert float(after.mean()) > 0.95
