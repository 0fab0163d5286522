import copy
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces import BacktrackingConfig, BacktrackingModel, Transitions
from recall_traces.neighbours import NeighbourModel
from recall_traces.network import NetworkModel
from recall_traces.spaces import UnsupportedSpaceError
from recall_traces.table import TableModel

STATES, ACTIONS = 8, 3


def random_mdps(count: int, transitions: int) -> tuple[Transitions, Tensor]:
    """Independent transitions of random finite MDPs under random policies, and d(s) π(a|s) P(s'|s,a), `(S, 8, 3, 8)`."""
    batches, joints = [], []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        dynamics = torch.rand(STATES, ACTIONS, STATES, generator=generator) ** 3
        dynamics /= dynamics.sum(-1, keepdim=True)
        policy = torch.rand(STATES, ACTIONS, generator=generator)
        policy /= policy.sum(-1, keepdim=True)
        visits = torch.full((STATES,), 1 / STATES)
        for _ in range(200):
            visits = visits @ (policy[..., None] * dynamics).sum(1)
        obs = visits.multinomial(transitions, True, generator=generator)
        actions = policy[obs].multinomial(1, generator=generator)[:, 0]
        batches.append((obs, actions, dynamics[obs, actions].multinomial(1, generator=generator)[:, 0]))
        joints.append(visits[:, None, None] * policy[..., None] * dynamics)
    obs, actions, next_obs = (torch.stack(column) for column in zip(*batches, strict=True))
    flags = torch.zeros(obs.shape, dtype=torch.bool)
    return Transitions(obs, actions, torch.zeros(obs.shape), next_obs, flags, flags), torch.stack(joints)


def total_variation(model: BacktrackingModel, joint: Tensor) -> Tensor:
    """Between the model and the true posterior, weighted by p(s'), `(S,)`."""
    everything = torch.meshgrid(torch.arange(STATES), torch.arange(ACTIONS), torch.arange(STATES), indexing="ij")
    learned = model.log_prob(*(x.flatten().expand(len(joint), -1) for x in everything)).exp().view(joint.shape)
    torch.testing.assert_close(learned.sum((1, 2)), torch.ones(len(joint), STATES))
    successor = joint.sum((1, 2), keepdim=True)
    return ((learned - joint / successor).abs() * successor).sum((1, 2, 3)) / 2


def test_counts_converge_to_the_true_backward_posterior() -> None:
    data, joint = random_mdps(5, 60_000)
    model = BacktrackingModel(spaces.Discrete(STATES), spaces.Discrete(ACTIONS), num_seeds=5)
    assert isinstance(model.density, TableModel)
    model.fit(data, updates=3000)
    assert float(total_variation(model, joint).max()) <= 0.03


def test_a_network_converges_to_the_true_backward_posterior() -> None:
    data, joint = random_mdps(1, 60_000)
    config = BacktrackingConfig(kind="network")
    model = BacktrackingModel(spaces.Discrete(STATES), spaces.Discrete(ACTIONS), config=config)
    assert isinstance(model.density, NetworkModel)
    model.fit(data, updates=3000)
    assert float(total_variation(model, joint).max()) <= 0.03


@pytest.mark.parametrize(
    ("observation_space", "action_space", "kind"),
    [
        (spaces.Discrete(100), spaces.Discrete(2), TableModel),
        (spaces.Discrete(101), spaces.Discrete(2), NetworkModel),
        (spaces.MultiDiscrete([10, 10]), spaces.Discrete(2), TableModel),
        (spaces.Discrete(4), spaces.Box(-1, 1, (1,)), NetworkModel),
        (spaces.Box(-1, 1, (2,)), spaces.Discrete(2), NeighbourModel),
    ],
)
def test_auto_takes_a_table_where_one_fits_and_neighbours_in_a_box(
    observation_space: spaces.Space, action_space: spaces.Space, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recall_traces.model.MAX_TABLE_STATES", 100)
    assert isinstance(BacktrackingModel(observation_space, action_space).density, kind)


def chain(states: int, seeds: int = 1) -> Transitions:
    """0 → 1 → ... → states - 1, action = the state it leads to modulo 3, and one step that stands still at each."""
    obs = torch.arange(states - 1)
    obs, next_obs = torch.cat([obs, obs]), torch.cat([obs + 1, obs])
    obs, next_obs = (x.expand(seeds, -1) for x in (obs, next_obs))
    flags = torch.zeros(obs.shape, dtype=torch.bool)
    return Transitions(obs, next_obs % ACTIONS, torch.zeros(obs.shape), next_obs, flags, flags)


def test_a_trace_leads_step_by_step_into_its_state_and_ends_where_nothing_led() -> None:
    model = BacktrackingModel(spaces.Discrete(6), spaces.Discrete(ACTIONS), num_seeds=2)
    model.fit(chain(6, seeds=2))
    traces = model.sample_traces(torch.tensor([[5, 2, 0]] * 2), 4)
    assert traces.mask[0].tolist() == [[True] * 4, [False, False, True, True], [False] * 4]
    assert traces.obs[0, 0].tolist() == [1, 2, 3, 4]
    assert traces.actions[0, 0].tolist() == [2, 0, 1, 2]
    assert traces.obs[0, 1, 2:].tolist() == [0, 1]
    assert torch.equal(traces.weights, traces.mask.float())
    assert torch.equal(traces.obs[0], traces.obs[1])


@pytest.mark.parametrize("kind", ["table", "network"])
@pytest.mark.parametrize("space", [spaces.Discrete(6), spaces.MultiDiscrete([3, 2])])
def test_no_recalled_step_stands_still(kind: str, space: spaces.Space) -> None:
    model = BacktrackingModel(space, spaces.Discrete(ACTIONS), num_seeds=2, config=BacktrackingConfig(kind=kind, hidden=(8,)))
    data = chain(6, seeds=2)
    if isinstance(space, spaces.MultiDiscrete):
        split = [torch.stack([x // 2, x % 2], -1) for x in (data.obs, data.next_obs)]
        data = Transitions(split[0], data.actions, data.rewards, split[1], data.terminated, data.truncated)
    model.fit(data, updates=20)
    targets = data.next_obs[:, :5]
    traces = model.sample_traces(targets, 7)
    after = torch.cat([traces.obs[:, :, 1:], targets[:, :, None]], 2)
    moved = (traces.obs != after).view(*traces.mask.shape, -1).any(-1)
    assert moved[traces.mask].all()
    assert traces.mask.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_recalled_states_stay_in_the_box_and_are_float32(dtype: type) -> None:
    space = spaces.Box(dtype([-1, -np.inf]), dtype([1, np.inf]), dtype=dtype)
    model = BacktrackingModel(
        space, spaces.Box(dtype(-1), dtype(1), (1,), dtype=dtype), config=BacktrackingConfig(kind="network", hidden=(8,))
    )
    states = torch.tensor([[1.0, 5.0]]).expand(1, 50, 2)
    traces = model.sample_traces(states, 5)
    assert (traces.obs.dtype, traces.actions.dtype) == (torch.float32, torch.float32)
    assert float(traces.obs[..., 0].abs().max()) == 1.0
    assert float(traces.obs[..., 1].abs().max()) > 5.0


@pytest.mark.parametrize("kind", ["table", "network"])
def test_a_saved_model_goes_on_as_if_nothing_had_happened(kind: str) -> None:
    """Fitting too: the optimiser's moments belong to what is saved."""
    config = BacktrackingConfig(kind=kind, hidden=(8,))
    first, second = (BacktrackingModel(spaces.Discrete(6), spaces.Discrete(ACTIONS), 2, seed, config=config) for seed in (0, 1))
    data, states = chain(6, seeds=2), torch.tensor([[5, 2, 3]] * 2)
    first.fit(data, updates=5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for model in (first, second):
        model.fit(data, updates=5)
    assert torch.equal(
        first.log_prob(data.obs, data.actions, data.next_obs), second.log_prob(data.obs, data.actions, data.next_obs)
    )
    for one, other in zip(first.sample(states), second.sample(states), strict=True):
        assert torch.equal(one, other)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"auto, table, network, neighbours, not 'tabel'"):
        BacktrackingConfig(kind="tabel")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        BacktrackingConfig(batch_size=0)
    for change, message in (
        ({"hidden": (64, 0)}, r"the model's hidden must hold positive numbers of units, not \(64, 0\)"),
        ({"hidden": (1.5,)}, "the model's hidden"),
        ({"support": 2.5}, "the model's support must be a whole number, not 2.5"),
        ({"learning_rate": math.inf}, "the model's learning_rate must be positive and finite, not inf"),
        ({"bandwidth": math.nan}, "the model's bandwidth must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            BacktrackingConfig(**change)
    with pytest.raises(ValueError, match="a table needs finite states"):
        BacktrackingModel(spaces.Box(-1, 1, (2,)), spaces.Discrete(2), config=BacktrackingConfig(kind="table"))
    with pytest.raises(UnsupportedSpaceError, match="FlattenObservation"):
        BacktrackingModel(spaces.MultiBinary(3), spaces.Discrete(2))
    with pytest.raises(UnsupportedSpaceError, match="TransformAction"):
        BacktrackingModel(spaces.Discrete(3), spaces.Box(-np.inf, np.inf, (1,)))
    model = BacktrackingModel(spaces.Discrete(6), spaces.Discrete(ACTIONS), num_seeds=2)
    with pytest.raises(ValueError, match=r"S = 2, not \(1, 10\)"):
        model.fit(chain(6))
