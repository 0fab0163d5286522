import copy
import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces import BacktrackingConfig, RecallConfig, RecallTraces, Traces, Transitions
from recall_traces.envs.four_rooms import FourRooms, FourRoomsConfig
from recall_traces.spaces import UnsupportedSpaceError

SPACE, ACTIONS = spaces.Discrete(20), spaces.Discrete(3)
NEIGHBOURS = BacktrackingConfig(kind="neighbours", bandwidth=1.0)
SMALL = BacktrackingConfig(kind="network", hidden=(8,), batch_size=32)


def make_recall(
    num_envs: int = 1, num_seeds: int = 1, seed: int = 0, space: spaces.Space = SPACE, given: Tensor | None = None, **options: Any
) -> RecallTraces:
    defaults = {"traces_per_update": 16, "trace_length": 12, "search_length": 20, "memory_size": 4000, "rare_reward": 1.0}
    config = RecallConfig(**(defaults | options))
    return RecallTraces(space, ACTIONS, config, num_seeds=num_seeds, num_envs=num_envs, seed=seed, given=given)


def walk(*states: int, reward: float = 0.0, action: int = 0, end: bool = True) -> Transitions:
    """One environment's way through states, `(T, 1, 1)`."""
    obs = torch.tensor(states).view(-1, 1, 1)
    steps = len(obs) - 1
    done, rewards = torch.zeros(steps, 1, 1, dtype=torch.bool), torch.zeros(steps, 1, 1)
    done[-1], rewards[-1] = end, reward
    return Transitions(obs[:-1], torch.full((steps, 1, 1), action), rewards, obs[1:], done, torch.zeros_like(done))


def random_rollout(generator: torch.Generator, steps: int, seeds: int, envs: int, space: spaces.Space = SPACE) -> Transitions:
    shape = (steps, seeds, envs)
    done = torch.rand(shape, generator=generator) < 0.1
    if isinstance(space, spaces.Box):
        obs, next_obs = (torch.randn(*shape, *space.shape, generator=generator) for _ in range(2))
    else:
        obs, next_obs = (torch.randint(int(space.n), shape, generator=generator) for _ in range(2))
    actions = torch.randint(3, shape, generator=generator)
    return Transitions(obs, actions, torch.rand(shape, generator=generator), next_obs, done, torch.zeros_like(done))


def explore(env: FourRooms, seeds: int, steps: int, generator: torch.Generator) -> Transitions:
    """A uniform policy's steps, `(T, S, N, ...)`."""
    obs, rows = env.reset(), []
    for _ in range(steps):
        actions = torch.randint(4, (env.num_envs,), generator=generator)
        step = env.step(actions)
        rows.append((obs, actions, step.rewards, step.final_obs, step.terminated, step.truncated))
        obs = step.obs
    return Transitions(*(torch.stack(column).unflatten(1, (seeds, -1)) for column in zip(*rows, strict=True)))


def recalled(recall: RecallTraces) -> tuple[Tensor, Traces]:
    """Targets and the traces into them."""
    recall.update()
    targets = recall.states.choose(recall.config.traces_per_update, None)
    return targets.obs, recall.recall(targets)


def successors(targets: Tensor, traces: Traces) -> Tensor:
    """Where each recalled step must lead: the next state of its trace, and the target at last."""
    return torch.cat([traces.obs[:, :, 1:], targets[:, :, None]], 2)


@pytest.mark.parametrize("kind", ["neighbours", "network"])
@pytest.mark.parametrize("given", [np.array([[1.5, -0.5]]), torch.tensor([[1.5, -0.5]], dtype=torch.float64)])
def test_states_may_be_given_as_numpy_has_them(kind: str, given: Any) -> None:
    space, model = spaces.Box(-2, 2, (2,)), BacktrackingConfig(kind=kind, hidden=(8,))
    recall = make_recall(space=space, source="given", given=given, model=model, model_updates=1)
    recall.observe(random_rollout(torch.Generator().manual_seed(0), 20, 1, 1, space))
    recall.update()
    [traces] = recall.buffer
    assert traces.obs.dtype == traces.next_obs.dtype == torch.float32
    assert traces.next_obs[0, :, -1].unique(dim=0).tolist() == [[1.5, -0.5]]


# Imagined steps


@pytest.mark.parametrize("terminal", [False, True])
def test_imagined_steps_lead_on_pay_and_end_as_the_recorded_ones(terminal: bool) -> None:
    """A way of 6 steps that is always the same: the model knows it by heart."""
    # What pays is arriving in state 6; the model is asked for rewards of its own draws, which a fit this long gets right.
    options: dict[str, Any] = {"source": "return", "candidates": 1, "model_updates": 400}
    recall = make_recall(imagined_share=0.25, model=BacktrackingConfig(kind="network", hidden=(32,)), **options)
    way = walk(0, 1, 2, 3, 4, 5, 6, reward=1.0)
    if not terminal:
        way = dataclasses.replace(way, terminated=torch.zeros_like(way.terminated), truncated=way.terminated)
    for _ in range(4):
        recall.observe(way)
    assert make_recall().imagine(400) is None
    recall.update()
    found = recall.imagine(400)
    assert found is not None
    steps, known = found
    assert steps.rewards.shape == known.shape == (1, 100)
    assert bool(known.all())
    right = steps.next_obs == steps.obs + 1
    assert right.float().mean() > 0.9
    last = right & (steps.next_obs == 6)
    assert bool(last.any())
    expected = (steps.next_obs == 6).float()
    assert (steps.rewards - expected)[right].abs().mean() < 0.1
    assert torch.equal(steps.terminated[last], torch.full_like(steps.terminated[last], terminal))
    assert not bool(steps.terminated[right & ~last].any())
    assert not bool(steps.truncated.any())


def test_steps_into_states_that_were_never_recorded_are_not_imagined() -> None:
    """They might end an episode; the steps before them do not."""
    model = BacktrackingConfig(kind="network", hidden=(8,))
    recall = make_recall(source="given", given=torch.tensor([6]), imagined_share=0.5, model=model, candidates=1)
    recall.observe(walk(0, 1, 2, 3, 4, 5, 6, reward=1.0))
    recall.update()
    [traces] = recall.buffer
    assert not bool(traces.known_end[..., -1].any())
    assert bool(traces.known_end[..., :-1].all())
    assert bool(traces.mask[..., -1].any())
    traces.obs[..., -1] = -1
    steps, known = recall.imagine(400)
    assert bool(known.all())
    assert not bool((steps.obs == -1).any())


def test_a_seed_without_traces_imagines_nothing() -> None:
    recall = make_recall(num_seeds=2, source="return", imagined_share=0.5, model=SMALL)
    without = walk(0, 1, 2, 3)
    both = (
        torch.cat([a, b], 1) for a, b in zip(vars(walk(0, 1, 2, 3, reward=1.0)).values(), vars(without).values(), strict=True)
    )
    recall.observe(Transitions(*both))
    recall.update()
    found = recall.imagine(10)
    assert found is not None
    assert found[1].tolist() == [[True] * 5, [False] * 5]


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
    # Whole from a start on; of a record, steps that stood still are left out, and elsewhere loops.
    from_start = ((traces.obs == env.start) & traces.mask).any(2)
    if traces_from != "record":
        assert from_start.any()
        assert not (traces.mask[:, :, :-1] & ~traces.mask[:, :, 1:])[from_start].any()


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


def test_a_long_way_is_found_and_its_last_steps_are_kept() -> None:
    recall = make_recall(source="given", given=torch.tensor([15]), candidates=2, trace_length=5, search_length=20)
    recall.observe(walk(*range(16)))
    _, traces = recalled(recall)
    assert traces.obs[0, 0].tolist() == [10, 11, 12, 13, 14]
    assert traces.mask.all()


# Sampling


def test_steps_are_drawn_uniformly_from_valid_ones_only() -> None:
    recall = make_recall(source="given", given=torch.tensor([3, 11]), candidates=1)
    recall.observe(walk(0, 1, 2, 3))
    recall.observe(walk(0, 11, action=1))
    recall.update()
    steps = recall.sample(9000)
    assert steps.obs.shape == (1, 9000)
    assert steps.mask.all()
    assert (steps.weights == 1).all()
    (traces,) = recall.buffer
    expected = traces.obs[traces.mask].bincount(minlength=3) / traces.mask.sum()
    torch.testing.assert_close(steps.obs[0].bincount(minlength=3) / 9000, expected, rtol=0, atol=0.03)
    with_actions = set(zip(traces.obs[traces.mask].tolist(), traces.actions[traces.mask].tolist(), strict=True))
    assert set(zip(steps.obs[0].tolist(), steps.actions[0].tolist(), strict=True)) == with_actions


def test_a_seed_without_traces_has_mask_and_weights_of_zero() -> None:
    recall = make_recall(num_seeds=3, source="return")
    paying, poor = walk(*range(8), reward=1.0), walk(*range(8))
    recall.observe(
        Transitions(*(torch.cat(column, 1) for column in zip(*(vars(r).values() for r in (poor, paying, poor)), strict=True)))
    )
    metrics = recall.update()
    steps = recall.sample(10)
    assert steps.mask.tolist() == [[False] * 10, [True] * 10, [False] * 10]
    assert torch.equal(steps.weights, steps.mask.float())
    assert metrics["recall/traces"].tolist() == [0, 16, 0]
    assert all(value.shape == (3,) for value in metrics.values())


def test_the_buffer_holds_the_last_updates_only() -> None:
    recall = make_recall(source="given", given=torch.tensor([3]), candidates=1, buffer_updates=3)
    held = []
    for action in (0, 1, 2, 0, 1):
        recall.observe(walk(2, 3, action=action))
        recall.model.reset()
        recall.update()
        held.append([int(traces.actions[traces.mask][0]) for traces in recall.buffer])
    assert held == [[0], [0, 1], [0, 1, 2], [1, 2, 0], [2, 0, 1]]


# A run


@pytest.mark.parametrize(
    ("space", "options"),
    [
        (SPACE, {}),
        (SPACE, {"model": SMALL}),
        (SPACE, {"fit_on": "top"}),
        (spaces.Box(-np.inf, np.inf, (2,)), {"model": SMALL}),
        (spaces.Box(-np.inf, np.inf, (2,)), {"model": NEIGHBOURS, "search": "shortest"}),
        (spaces.Box(-np.inf, np.inf, (2,)), {"model": NEIGHBOURS, "fit_on": "top", "candidates": 1}),
    ],
)
def test_a_saved_run_goes_on_exactly(space: spaces.Space, options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    rollouts = [random_rollout(generator, 30, 2, 3, space) for _ in range(4)]
    first, second = (make_recall(3, 2, seed, space, **options) for seed in (0, 0))
    for rollout in rollouts[:2]:
        first.observe(rollout)
        first.update()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for recall in (first, second):
        recall.observe(rollouts[2])  # saved between observing and fitting, too
    third = make_recall(3, 2, 0, space, **options)
    third.load_state_dict(copy.deepcopy(first.state_dict()))
    samples = []
    for recall in (first, second, third):
        recall.update()
        recall.observe(rollouts[3])
        recall.update()
        samples.append(recall.sample(50))
    for other in samples[1:]:
        for name, value in vars(samples[0]).items():
            assert torch.equal(value, vars(other)[name]), name


def test_imitation_fades_where_reward_is_not_rare() -> None:
    """By the share of steps that pay: whole up to a tenth, half at 15 of a hundred, none from a fifth on."""
    for paying, expected in ((0, 1.0), (10, 1.0), (15, 0.5), (20, 0.0), (100, 0.0)):
        recall, steps = make_recall(rare_reward=0.1), walk(*(k % 9 for k in range(101)))
        steps.rewards[:paying] = 1.0
        recall.observe(steps)
        metrics = recall.update()
        sample = recall.sample(7)
        assert metrics["recall/rarity"].tolist() == pytest.approx([expected], abs=1e-5)
        assert sample.mask.all()
        torch.testing.assert_close(sample.weights, torch.full((1, 7), expected), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="rare_reward must be above 0, not 0"):
        make_recall(rare_reward=0)


@pytest.mark.parametrize("options", [{}, {"traces_from": "record"}, {"model": SMALL}, {"source": "return", "fit_on": "top"}])
def test_a_seed_draws_the_same_whatever_the_others_see(options: dict[str, Any]) -> None:
    samples = []
    for other in (1, 2):
        recall = make_recall(num_envs=3, num_seeds=2, **options)
        mine, theirs = torch.Generator().manual_seed(0), torch.Generator().manual_seed(other)
        for _ in range(3):
            recall.observe(
                Transitions(
                    *(
                        torch.cat(c, 1)
                        for c in zip(*(vars(random_rollout(g, 30, 1, 3)).values() for g in (mine, theirs)), strict=True)
                    )
                )
            )
            recall.update()
        samples.append(recall.sample(200))
    one, two = samples
    assert one.mask.any(1).all()
    assert torch.equal(one.obs[0], two.obs[0])
    assert torch.equal(one.actions[0], two.actions[0])
    assert not torch.equal(one.obs[1], two.obs[1])


def test_equal_seeds_give_equal_traces_and_others_do_not() -> None:
    samples = []
    for seed in (0, 0, 1):
        recall = make_recall(num_envs=3, seed=seed)
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            recall.observe(random_rollout(generator, 30, 1, 3))
            recall.update()
        samples.append(recall.sample(200).obs)
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


@pytest.mark.parametrize("source", ["auto", "return", "novelty", "critic"])
@pytest.mark.parametrize("space", [SPACE, spaces.Box(-np.inf, np.inf, (2,))])
@pytest.mark.parametrize(("steps", "envs", "memory_size"), [(1, 1, 50), (1, 6, 3), (7, 2, 20)])
def test_short_rollouts_and_small_memories_work(
    source: str, space: spaces.Space, steps: int, envs: int, memory_size: int
) -> None:
    recall = make_recall(
        envs,
        2,
        0,
        space,
        source=source,
        memory_size=memory_size,
        trace_length=min(12, memory_size),
        search_length=min(20, memory_size),
        model=BacktrackingConfig(hidden=(8,), batch_size=8),
        model_updates=2,
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        recall.observe(random_rollout(generator, steps, 2, envs, space))
        recall.update(lambda obs: obs.float().view(*obs.shape[:2], -1).sum(-1))
        sample = recall.sample(10)
        assert sample.obs.shape[:2] == (2, 10)
        assert sample.obs.isfinite().all()
        assert torch.equal(sample.weights, sample.mask.float())


@pytest.mark.parametrize("traces_from", ["model", "record"])
def test_what_was_fitted_is_not_kept_twice(traces_from: str) -> None:
    """Nor what will never be fitted: the memory alone remembers."""
    recall = make_recall(num_envs=3, traces_from=traces_from)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        recall.observe(random_rollout(generator, 10, 1, 3))
        recall.update()
        assert not recall.unfitted


def test_no_model_updates_leave_a_network_as_it_is() -> None:
    space = spaces.Box(-np.inf, np.inf, (2,))
    recall = make_recall(3, 1, 0, space, model=SMALL, model_updates=0)
    recall.observe(random_rollout(torch.Generator().manual_seed(0), 20, 1, 3, space))
    recall.update()
    assert recall.sample(20).obs.isfinite().all()


def test_top_trajectories_alone_can_be_fitted() -> None:
    recall = make_recall(
        source="given", given=torch.tensor([9]), fit_on="top", top_fraction=0.1, candidates=1, traces_per_update=200
    )
    recall.observe(walk(0, 1, 9, reward=1.0))
    for _ in range(4):
        recall.observe(walk(0, 2, 9))
    _, traces = recalled(recall)
    assert set(traces.obs[traces.mask].tolist()) == {0, 1}


# Bad input


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("source", "returns", "auto, return, critic, novelty, given"),
        ("traces_from", "dreams", "model, record, oracle"),
        ("fit_on", "some", "all, top"),
        ("search", "longest", "sample, shortest"),
        ("trace_length", 0, "at least 1"),
        ("candidates", -1, "at least 1"),
        ("memory_size", 0, "at least 1"),
        ("imitation_coefficient", -0.5, "not be negative"),
        ("imitation_coefficient", float("nan"), "not be negative, and finite, not nan"),
        ("imitation_ratio", float("inf"), "finite, not inf"),
        ("novelty_power", float("nan"), "finite, not nan"),
        ("trace_length", 1.5, "a whole number, not 1.5"),
        ("model_updates", 1.5, "a whole number"),
        ("imitation_updates", -1, "at least 0"),
        ("trace_length", 200_001, "at most memory_size, 200000, not 200001"),
        ("search_length", 200_001, "at most memory_size"),
        ("top_fraction", float("nan"), "in .0, 1."),
        ("novelty_floor", -0.1, r"\[0, 1\]"),
        ("novelty_ceiling", 1.5, r"\[0, 1\]"),
    ],
)
def test_a_number_or_name_out_of_range_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        dataclasses.replace(RecallConfig(), **{name: value})
    assert name in str(error.value)


def test_numbers_of_numpy_become_pythons() -> None:
    config = RecallConfig(trace_length=np.int64(10), imitation_coefficient=np.float32(0.5), rare_reward=np.float32(0.5))
    assert config == RecallConfig(trace_length=10, imitation_coefficient=0.5, rare_reward=0.5)
    json.dumps(dataclasses.asdict(config))
    with pytest.raises(ValueError, match="trace_length must be at least 1, not 0"):
        RecallConfig(trace_length=np.int64(0))


def test_what_is_missing_is_asked_for() -> None:
    with pytest.raises(ValueError, match="imagined steps need the model's rewards"):
        make_recall(traces_from="record", imagined_share=0.5)
    with pytest.raises(ValueError, match="the kind 'table' predicts no rewards"):
        make_recall(model=BacktrackingConfig(kind="table"), imagined_share=0.5)
    with pytest.raises(ValueError, match="need an environment with `predecessors`"):
        make_recall(traces_from="oracle")
    with pytest.raises(ValueError, match="'given' needs states"):
        make_recall(source="given")
    with pytest.raises(ValueError, match="'generated' needs what generates states"):
        make_recall(source="generated")
    with pytest.raises(ValueError, match=r"rows of shape \(\), at least one, not \(2, 3\)"):
        make_recall(source="given", given=torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(UnsupportedSpaceError, match="FlattenObservation"):
        make_recall(space=spaces.MultiBinary(3))
    recall = make_recall(source="critic")
    recall.observe(walk(0, 1, 2))
    with pytest.raises(ValueError, match="value"):
        recall.update()


def test_sampling_before_the_first_update_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="update"):
        make_recall().sample(4)
