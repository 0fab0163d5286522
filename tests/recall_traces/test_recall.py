import copy
import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from recall_helpers import NEIGHBOURS, SMALL, SPACE, make_recall, random_rollout, recalled, walk

from recall_traces import BacktrackingConfig, RecallConfig, Transitions
from recall_traces.spaces import UnsupportedSpaceError


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
        assert set(recall.sample(200).actions[0].tolist()) == set(held[-1])
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
        samples = [recall.sample(7) for _ in range(10)]
        assert metrics["recall/rarity"].tolist() == pytest.approx([expected], abs=1e-5)
        assert recall.imitation_ratio == (RecallConfig().imitation_ratio if expected > 1e-5 else 0.0)
        other = make_recall(rare_reward=0.1)
        other.load_state_dict(recall.state_dict())
        assert other.imitation_ratio == recall.imitation_ratio
        assert all(bool(sample.mask.all()) == (expected > 0) for sample in samples)
        # All steps of a minibatch or none.
        assert [sample.weights.sum().item() for sample in samples].count(7.0) == 10 * expected
        assert [sample.weights.sum().item() for sample in samples].count(0.0) == 10 - 10 * expected
    with pytest.raises(ValueError, match="rare_reward must be above 0, not 0"):
        make_recall(rare_reward=0)


def paying(shares: list[float], generators: list[torch.Generator], space: spaces.Space) -> Transitions:
    """100 steps of each seed, of which a share pays; its own generator says what happens."""
    rollouts = [random_rollout(generator, 100, 1, 1, space) for generator in generators]
    for rollout, share in zip(rollouts, shares, strict=True):
        rollout.rewards[:] = (torch.arange(100) < 100 * share).float()[:, None, None]
    return Transitions(*(torch.cat(column, 1) for column in zip(*(vars(r).values() for r in rollouts), strict=True)))


PLANE = spaces.Box(-3.0, 3.0, (2,))
KINDS = {"table": (SPACE, BacktrackingConfig()), "neighbours": (PLANE, NEIGHBOURS), "network": (PLANE, SMALL)}


@pytest.mark.parametrize("kind", KINDS)
def test_while_reward_is_rare_for_no_seed_nothing_is_recalled(kind: str) -> None:
    """Neighbours are not even fitted; what learns bit by bit goes on."""
    space, model = KINDS[kind]
    recall = make_recall(rare_reward=0.1, num_seeds=2, space=space, model=model, memory_size=100)
    generators, steps = [torch.Generator().manual_seed(seed) for seed in range(2)], recall.memory.steps
    for _ in range(3):
        recall.observe(paying([0.5, 0.5], generators, space))
        before = recall.model.log_prob(steps.obs[:, 0], steps.actions[:, 0], steps.next_obs[:, 0])
        metrics = recall.update()
        after = recall.model.log_prob(steps.obs[:, 0], steps.actions[:, 0], steps.next_obs[:, 0])
        assert torch.equal(before, after) == (kind == "neighbours")
        assert not recall.unfitted
        assert recall.updated == recall.memory.time
        assert metrics["recall/traces"].tolist() == metrics["recall/share"].tolist() == [0, 0]
        sample = recall.sample(5)
        assert sample.obs.shape == (2, 5, *space.shape)
        assert not sample.mask.any()
        assert recall.imitation_ratio == 0
    recall.observe(paying([0.05, 0.05], generators, space))
    metrics = recall.update()
    assert (metrics["recall/traces"] > 0).all()
    # What it was not sure of while there was nothing to be sure of does not count.
    assert torch.equal(metrics["recall/share"], metrics["recall/sureness"])
    assert (metrics["recall/share"] > 0).all()
    assert recall.imitation_ratio > 0
    recall.observe(paying([0.5, 0.05], generators, space))
    recall.update()
    assert recall.sample(5).mask.any(1).tolist() == [False, True]  # though there are traces of the update before


def test_steps_are_imagined_where_reward_is_not_rare_too() -> None:
    recall = make_recall(rare_reward=0.1, space=PLANE, model=SMALL, imagined_share=0.5, memory_size=100)
    recall.observe(paying([0.5], [torch.Generator().manual_seed(0)], PLANE))
    assert "recall/model_loss" in recall.update()
    imagined = recall.imagine(10)
    assert imagined is not None
    assert imagined[1].all()
    assert recall.imitation_ratio == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_recalls_the_same_whether_or_not_reward_is_rare_for_another(kind: str) -> None:
    space, model = KINDS[kind]
    samples, logged = [], []
    for others in (0.5, 0.0):
        recall = make_recall(rare_reward=0.1, num_seeds=2, space=space, model=model, memory_size=100)
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        for mine in (0.5, 0.5, 0.05, 0.0):
            recall.observe(paying([mine, others], generators, space))
            metrics = recall.update()
            logged.append({name: value[0] for name, value in metrics.items()})
            if recall.imitation_ratio:
                samples.append({name: value[0] for name, value in vars(recall.sample(50)).items()})
    # Of the six updates that are left where the other seed's reward is rare the last two are those of the other fleet.
    assert [bool(sample["mask"].any()) for sample in samples] == [True, True, False, False, True, True]
    for one, two in zip(samples[:2], samples[4:], strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    for one, two in zip(logged[2:4], logged[6:], strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)


def test_each_seed_imitates_its_own_share_of_the_minibatches_also_when_it_was_saved_between_two() -> None:
    first, second = (make_recall(rare_reward=0.1, num_seeds=4) for _ in range(2))
    rollouts = [walk(*(k % 9 for k in range(1001))) for _ in range(4)]
    for rollout, pays in zip(rollouts, (0, 125, 175, 250), strict=True):
        rollout.rewards[:pays] = 1.0
    first.observe(Transitions(*(torch.cat(column, 1) for column in zip(*(vars(r).values() for r in rollouts), strict=True))))
    metrics = first.update()
    assert metrics["recall/share"].tolist() == pytest.approx([1, 0.75, 0.25, 0], abs=1e-5)
    assert metrics["recall/traces"].tolist() == [16, 16, 16, 0]
    assert first.sample(5).mask.any(1).tolist() == [True, True, True, False]
    before = [first.sample(5).weights for _ in range(6)]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    after = [recall.sample(5).weights for _ in range(6) for recall in (first, second)]
    assert all(torch.equal(x, y) for x, y in zip(after[::2], after[1::2], strict=True))
    imitated = torch.stack([weights.all(1) for weights in (*before, *after[::2])])
    assert imitated.sum(0).tolist() == pytest.approx([12, 9, 3, 0], abs=1)
    assert imitated[:, 0].all()


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
        assert ((sample.weights >= 0) & (sample.weights <= sample.mask)).all()


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
        ("imitation_ratio", -1.0, "negative"),
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


@pytest.mark.parametrize("name", ["obs", "actions"])
def test_steps_of_other_spaces_are_refused(name: str) -> None:
    recall, rollout = make_recall(), walk(0, 1, 2)
    for wrong in (getattr(rollout, name).float(), getattr(rollout, name)[..., None]):
        changed = {name: wrong} | ({"next_obs": wrong} if name == "obs" else {})
        with pytest.raises(ValueError, match=f"{name} of another space than RecallTraces was made for"):
            recall.observe(dataclasses.replace(rollout, **changed))
    recall.observe(rollout)


def test_nothing_can_be_recalled_before_anything_was_observed_and_given_states_must_be_states() -> None:
    with pytest.raises(ValueError, match="call observe before update"):
        make_recall().update()
    for given in (torch.tensor([3, 20]), torch.tensor([-1])):
        with pytest.raises(ValueError, match=r"given states must lie in Discrete\(20\)"):
            make_recall(source="given", given=given)
    for wrong in (torch.nan, torch.inf, 3.0):
        with pytest.raises(ValueError, match="given states must lie in Box"):
            make_recall(space=spaces.Box(-2, 2, (2,)), source="given", given=torch.tensor([[0.0, wrong]]))
    with pytest.raises(ValueError, match=r"novelty_floor, 0\.5, must be at most novelty_ceiling, 0\.1"):
        make_recall(novelty_floor=0.5, novelty_ceiling=0.1)
