"""Ways into high-value states: true ones, and which is chosen."""

import pytest
import torch
from gymnasium import spaces
from recall_helpers import explore, make_recall, random_rollout, recalled, successors, walk

from recall_traces import RecallConfig, RecallTraces
from recall_traces.envs.four_rooms import FourRooms, FourRoomsConfig

# Traces are true


@pytest.mark.parametrize("traces_from", ["model", "record", "oracle"])
@pytest.mark.parametrize("candidates", [1, 8])
def test_every_step_recalled_in_four_rooms_is_a_real_move_and_leads_into_its_target(traces_from: str, candidates: int) -> None:
    env = FourRooms(11, num_envs=2 * 8)
    config = RecallConfig(traces_from=traces_from, candidates=candidates, source="novelty", memory_size=8 * 600)
    recall = RecallTraces(env.observation_space, env.action_space, config, num_seeds=2, num_envs=8, predecessors=env.predecessors)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):  # the ring turns over
        recall.observe(explore(env, 2, 100, generator))
        targets, traces = recalled(recall)
    real = env.next_cell[traces.obs, traces.actions] == successors(targets, traces)
    assert float(real[traces.mask].float().mean()) >= 0.99
    moves = traces.obs != successors(targets, traces)
    assert moves[traces.mask].all()
    assert (traces.mask.sum(2) > 0).float().mean() > 0.95
    assert not (traces.mask & (traces.obs == targets[..., None])).any()  # nothing leads away from the target
    # Else whole from a start on; of a record, steps that stood still are left out, and elsewhere loops.
    from_start = ((traces.obs == env.start) & traces.mask).any(2)
    if traces_from != "record":
        assert from_start.any()
        inside = traces.mask | (traces.obs == targets[..., None])
        assert not (traces.mask[:, :, :-1] & ~inside[:, :, 1:])[from_start].any()


def test_traces_of_slippery_rooms_with_changing_goals_keep_the_goal() -> None:
    env = FourRooms(7, num_envs=8, options=FourRoomsConfig(slip=0.2, random_goal=True))
    config = RecallConfig(source="novelty", memory_size=8 * 600, candidates=2)
    recall = RecallTraces(env.observation_space, env.action_space, config, num_envs=8)
    recall.observe(explore(env, 1, 500, torch.Generator().manual_seed(0)))
    targets, traces = recalled(recall)
    after = successors(targets, traces)
    assert (traces.obs[..., 1] == after[..., 1])[traces.mask].all()
    neighbours = (env.next_cell[traces.obs[..., 0]] == after[..., :1]).any(-1)
    assert neighbours[traces.mask].all()


def test_own_traces_are_recorded_steps_in_the_order_they_were_taken() -> None:
    recall = make_recall(traces_from="record", source="novelty", candidates=1)
    generator = torch.Generator().manual_seed(0)
    rollout = random_rollout(generator, 60, 1, 1)
    recall.observe(rollout)
    targets, traces = recalled(recall)
    obs, actions, next_obs, done = (
        x[:, 0, 0].tolist() for x in (rollout.obs, rollout.actions, rollout.next_obs, rollout.terminated)
    )
    for target, trace_obs, trace_actions, mask in zip(
        targets[0].tolist(), *(x[0].tolist() for x in (traces.obs, traces.actions, traces.mask)), strict=True
    ):
        last = max(t for t in range(60) if next_obs[t] == target)
        for k in range(len(mask)):
            t = last - (len(mask) - 1 - k)
            same_episode = t >= 0 and not any(done[t:last])
            if mask[k]:
                assert same_episode
                assert (obs[t], actions[t]) == (trace_obs[k], trace_actions[k])


def test_own_traces_stop_at_a_reset() -> None:
    recall = make_recall(traces_from="record", source="given", given=torch.tensor([9]), candidates=1, trace_length=6)
    recall.observe(walk(1, 2, 3))
    recall.observe(walk(4, 5, 9))
    _, traces = recalled(recall)
    assert traces.mask[0, 0].tolist() == [False] * 4 + [True] * 2
    assert traces.obs[0, 0, 4:].tolist() == [4, 5]


# Choosing


@pytest.mark.parametrize("traces_from", ["model", "record"])
def test_of_several_ways_the_one_with_the_fewest_steps_from_a_start_is_kept(traces_from: str) -> None:
    recall = make_recall(
        traces_from=traces_from, source="given", given=torch.tensor([9]), candidates=64 if traces_from == "model" else 8
    )
    recall.observe(walk(0, 4, 9, action=2))
    for _ in range(3):
        recall.observe(walk(0, 1, 2, 3, 9, action=1))
    _, traces = recalled(recall)
    assert (traces.mask.sum(2) == 2).all()
    assert (traces.obs[:, :, -2:] == torch.tensor([0, 4])).all()
    assert (traces.actions[:, :, -2:] == 2).all()


def test_one_candidate_is_kept_whatever_it_is() -> None:
    recall = make_recall(source="given", given=torch.tensor([9]), candidates=1, traces_per_update=400)
    recall.observe(walk(0, 4, 9))
    recall.observe(walk(0, 1, 2, 3, 9))
    _, traces = recalled(recall)
    assert set(traces.mask.sum(2)[0].tolist()) == {2, 4}


def test_a_model_stitches_two_episodes_into_a_way_that_neither_took() -> None:
    """0 → 5 is quick in one episode and 5 → 9 in the other."""
    recall = make_recall(source="given", given=torch.tensor([9]), candidates=64)
    recall.observe(walk(0, 5, 6, 7, 8, 9))
    recall.observe(walk(0, 1, 2, 3, 5, 9))
    _, traces = recalled(recall)
    assert (traces.mask.sum(2) == 2).all()
    assert (traces.obs[:, :, -2:] == torch.tensor([0, 5])).all()
    own = make_recall(source="given", given=torch.tensor([9]), candidates=8, traces_from="record")
    own.observe(walk(0, 5, 6, 7, 8, 9))
    own.observe(walk(0, 1, 2, 3, 5, 9))
    assert (recalled(own)[1].mask.sum(2) == 5).all()


def test_a_trace_is_cut_before_it_last_leaves_a_start() -> None:
    recall = make_recall(source="given", given=torch.tensor([3]), candidates=1, traces_from="record")
    recall.observe(walk(0, 1, 0, 1, 2, 3))
    _, traces = recalled(recall)
    assert traces.obs[0, 0][traces.mask[0, 0]].tolist() == [0, 1, 2]


@pytest.mark.parametrize("traces_from", ["model", "record"])
def test_where_starts_are_spread_wide_loops_are_cut_out(traces_from: str) -> None:
    space = spaces.Discrete(60)
    recall = make_recall(space=space, source="given", given=torch.tensor([9]), candidates=1, traces_from=traces_from)
    recall.observe(walk(30, 1, 2, 1, 3, 9))
    _, from_a_start = recalled(recall)
    for start in range(31, 60):
        recall.observe(walk(start, 10))
    _, traces = recalled(recall)
    left = [obs[mask].tolist() for obs, mask in zip(traces.obs[0], traces.mask[0], strict=True)]
    assert all(len(states) == len(set(states)) and states[-2:] == [1, 3] for states in left)
    if traces_from == "record":
        assert left[0] == [30, 2, 1, 3]
        assert from_a_start.obs[0, 0][from_a_start.mask[0, 0]].tolist() == [30, 1, 2, 1, 3]
    else:
        assert {len(states) for states in left} == {3, 4}


@pytest.mark.parametrize("wide", [False, True])
def test_what_leads_away_from_the_target_is_left_out(wide: bool) -> None:
    recall = make_recall(space=spaces.Discrete(60), source="given", given=torch.tensor([9]), candidates=1, traces_from="record")
    for start in range(30, 50) if wide else ():
        recall.observe(walk(start, 10))
    recall.observe(walk(0, 1, 9, 2, 3, 9))
    _, traces = recalled(recall)
    assert traces.obs[0, 0][traces.mask[0, 0]].tolist() == [0, 1, 2, 3]


def test_a_long_way_is_found_and_its_last_steps_are_kept() -> None:
    recall = make_recall(source="given", given=torch.tensor([15]), candidates=2, trace_length=5, search_length=20)
    recall.observe(walk(*range(16)))
    _, traces = recalled(recall)
    assert traces.obs[0, 0].tolist() == [10, 11, 12, 13, 14]
    assert traces.mask.all()
