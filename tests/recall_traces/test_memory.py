import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_traces import Transitions
from recall_traces.cells import Cells
from recall_traces.memory import Memory

GAMMA = 0.9
LABELS = ("age", "returns", "episode_returns", "episode_lengths", "closed")


def make_memory(
    seeds: int, envs: int, capacity: int, observation_space: spaces.Space | None = None, gamma: float = GAMMA
) -> Memory:
    space = observation_space or spaces.Discrete(50)
    return Memory(space, spaces.Discrete(3), Cells(space, seeds, 4, 0, "cpu"), seeds, envs, capacity, gamma, "cpu")


def test_without_cells_there_are_none_to_keep():
    both = [
        Memory(spaces.Discrete(50), spaces.Discrete(3), cells, 2, 3, 60, GAMMA, "cpu")
        for cells in (Cells(spaces.Discrete(50), 2, 4, 0, "cpu"), None)
    ]
    for memory in both:
        memory.observe(random_rollout(15, 2, 3, 0.2, np.random.default_rng(0)))
    kept, without = (memory.state_dict() for memory in both)
    assert kept.keys() - without.keys() == {"next_cells"}
    assert all(torch.equal(kept[name], value) for name, value in without.items())
    assert both[1].next_cells.numel() == 0
    both[1].load_state_dict(kept)  # of a run from when they were kept


def random_rollout(length: int, seeds: int, envs: int, done: float, rng: np.random.Generator) -> Transitions:
    shape = (length, seeds, envs)
    terminated = torch.from_numpy(rng.random(shape) < done / 2)
    truncated = torch.from_numpy(rng.random(shape) < done / 2) & ~terminated
    obs, actions, next_obs = (torch.from_numpy(rng.integers(high, size=shape)) for high in (50, 3, 50))
    return Transitions(obs, actions, torch.from_numpy(rng.normal(size=shape)).float(), next_obs, terminated, truncated)


class Column:
    """What one environment lived through, as plain lists: a slow reference."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.episode: list[int] = []

    def observe(self, **step: float) -> None:
        self.steps.append(step | {"age": len(self.episode), "closed": False})
        self.episode.append(len(self.steps) - 1)
        rewards = [self.steps[i]["rewards"] for i in self.episode]
        for k, i in enumerate(self.episode):
            self.steps[i]["returns"] = sum(GAMMA**n * reward for n, reward in enumerate(rewards[k:]))
        if step["terminated"] or step["truncated"]:
            for i in self.episode:
                self.steps[i] |= {"closed": True, "episode_returns": sum(rewards), "episode_lengths": len(rewards)}
            self.episode = []


def check_against_columns(memory: Memory, columns: list[list[Column]]) -> None:
    held = len(memory)
    for s, n in np.ndindex(memory.age.shape[:2]):
        steps = columns[s][n].steps
        for i in range(len(steps) - held, len(steps)):
            slot = i % memory.num_columns
            for name in ("age", "closed", *("episode_lengths",) * steps[i]["closed"]):
                assert getattr(memory, name)[s, n, slot] == steps[i][name], (name, s, n, i)
            for name in ("obs", "actions", "next_obs", "terminated", "truncated"):
                assert getattr(memory.steps, name)[s, n, slot] == steps[i][name], (name, s, n, i)
            for name in ("returns", *("episode_returns",) * steps[i]["closed"]):
                assert abs(float(getattr(memory, name)[s, n, slot]) - steps[i][name]) < 1e-4, (name, s, n, i)


@settings(max_examples=40, deadline=None)
@given(
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    done=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    columns=st.integers(9, 30),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 2**32 - 1),
)
def test_labels_are_those_of_a_slow_reference(
    chunks: list[int], done: float, columns: int, sizes: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    seeds, envs = sizes
    memory = make_memory(seeds, envs, columns * envs)
    reference = [[Column() for _ in range(envs)] for _ in range(seeds)]
    for length in chunks:
        rollout = random_rollout(length, seeds, envs, done, rng)
        closed_before = [[[step["closed"] for step in column.steps] for column in row] for row in reference]
        written, positions, just_closed = memory.observe(rollout)
        for t, s, n in np.ndindex(length, seeds, envs):
            reference[s][n].observe(**{name: value[t, s, n].item() for name, value in vars(rollout).items()})
        check_against_columns(memory, reference)

        # Written steps in time order, then those of open episodes that this rollout closed.
        total, held = len(reference[0][0].steps), len(memory)
        expected = [n * columns + t % columns for t in range(total - length, total) for n in range(envs)]
        assert written.tolist() == [expected] * seeds
        for s in range(seeds):
            now_closed = {
                n * columns + i % columns
                for n in range(envs)
                for i in range(total - held, total)
                if reference[s][n].steps[i]["closed"] and not (i < total - length and closed_before[s][n][i])
            }
            said = positions[s][just_closed[s]].tolist()
            assert len(said) == len(set(said))
            assert set(said) == now_closed

        # The way into every held step, longer than the ring too.
        everywhere = torch.tensor([[n * columns + i % columns for n in range(envs) for i in range(total - held, total)]] * seeds)
        for way_length in (1, 4, columns + 3):
            way, mask = memory.way_into(everywhere, way_length)
            b = 0
            for n in range(envs):
                for i in range(total - held, total):
                    for s in range(seeds):
                        kept = min(way_length, int(reference[s][n].steps[i]["age"]) + 1, i - (total - held) + 1)
                        assert mask[s, b].tolist() == [False] * (way_length - kept) + [True] * kept
                        assert way[s, b, way_length - kept :].tolist() == [
                            n * columns + k % columns for k in range(i - kept + 1, i + 1)
                        ]
                    b += 1


def test_an_episode_that_is_longer_than_the_ring_keeps_its_age_and_length() -> None:
    memory = make_memory(1, 1, 4)
    rng = np.random.default_rng(0)
    column = Column()
    for chunk in range(8):
        rollout = random_rollout(4, 1, 1, 0.0, rng)
        if chunk == 7:
            rollout.terminated[2] = True
        memory.observe(rollout)
        for t in range(4):
            column.observe(**{name: value[t, 0, 0].item() for name, value in vars(rollout).items()})
        check_against_columns(memory, [[column]])


def test_more_environments_than_capacity_keep_one_step_each() -> None:
    memory = make_memory(2, 5, 3)
    rng = np.random.default_rng(0)
    for _ in range(3):
        rollout = random_rollout(1, 2, 5, 0.5, rng)
        written, _, _ = memory.observe(rollout)
        assert len(memory) == 1
        assert torch.equal(memory.at(written).obs, rollout.obs[0])
    with pytest.raises(ValueError, match=r"2 steps does not fit a memory of 1 .*memory_size"):
        memory.observe(random_rollout(2, 2, 5, 0.5, rng))


def test_stamps_grow_with_time_and_find_what_is_still_held() -> None:
    memory = make_memory(2, 3, 3 * 10)
    rng = np.random.default_rng(0)
    stamps, remembered = [], []
    for length in (4, 5, 6, 7):
        rollout = random_rollout(length, 2, 3, 0.1, rng)
        written, _, _ = memory.observe(rollout)
        stamps.append(memory.stamps(written))
        remembered.append(rollout.obs.transpose(0, 1).flatten(1))
    every, obs = torch.cat(stamps, 1), torch.cat(remembered, 1)
    assert (every.diff(dim=1) > 0).all()
    positions, held = memory.find(every)
    assert held.tolist() == [[False] * 36 + [True] * 30] * 2
    assert torch.equal(memory.at(positions).obs[held], obs[held])
    assert not memory.find(torch.full((2, 1), -1))[1].any()


def test_slots_that_were_never_written_are_not_held() -> None:
    memory = make_memory(1, 2, 2 * 10)
    memory.observe(random_rollout(3, 1, 2, 0.1, np.random.default_rng(0)))
    held = memory.find(memory.stamps(torch.arange(20)[None]))[1]
    assert held[0].view(2, 10).tolist() == [[True] * 3 + [False] * 7] * 2


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([4, 5])])
def test_vectors_keep_their_shape_and_type(space: spaces.Space) -> None:
    memory = make_memory(2, 3, 3 * 6, space)
    values = torch.from_numpy(np.stack([space.sample() for _ in range(4 * 2 * 3)])).view(4, 2, 3, 2)
    scalar = random_rollout(4, 2, 3, 0.2, np.random.default_rng(0))
    rollout = Transitions(values, scalar.actions, scalar.rewards, values.flip(0), scalar.terminated, scalar.truncated)
    written, _, _ = memory.observe(rollout)
    batch = memory.at(written)
    assert batch.obs.dtype == values.dtype
    assert torch.equal(batch.obs, values.transpose(0, 1).flatten(1, 2))
    assert torch.equal(batch.next_obs, values.flip(0).transpose(0, 1).flatten(1, 2))


def test_uniform_draws_reach_every_held_step_equally_and_no_other() -> None:
    memory = make_memory(2, 3, 3 * 10)
    memory.observe(random_rollout(4, 2, 3, 0.1, np.random.default_rng(0)))
    drawn = memory.sample(12_000, torch.Generator().manual_seed(0))
    counts = torch.stack([row.bincount(minlength=30) for row in drawn]).view(2, 3, 10)
    assert (counts[..., 4:] == 0).all()
    assert ((counts[..., :4] - 1000).abs() < 200).all()  # 6 standard deviations


def test_draws_from_the_newest_steps_know_where_the_ring_turns() -> None:
    memory = make_memory(2, 3, 3 * 10)
    for length in (7, 7):  # of 14 steps the last 10 are held, the newest 5 in slots 9 and 0 to 3
        memory.observe(random_rollout(length, 2, 3, 0.1, np.random.default_rng(0)))
    drawn = memory.sample(9_000, torch.Generator().manual_seed(0), 5)
    counts = torch.stack([row.bincount(minlength=30) for row in drawn]).view(2, 3, 10)
    assert (counts[..., 4:9] == 0).all()
    assert ((counts[..., [9, 0, 1, 2, 3]] - 600).abs() < 150).all()  # 6 standard deviations
    stamps = memory.stamps(drawn)
    assert int(stamps.min()) == (14 - 5) * 3
    everywhere = memory.sample(9_000, torch.Generator().manual_seed(0), 99)
    assert torch.equal(everywhere, memory.sample(9_000, torch.Generator().manual_seed(0)))
    assert len(everywhere.unique()) == 30


def test_a_saved_memory_goes_on_as_if_nothing_had_happened() -> None:
    chunks = [random_rollout(5, 2, 2, 0.2, np.random.default_rng(k)) for k in range(6)]
    whole, first = make_memory(2, 2, 2 * 12), make_memory(2, 2, 2 * 12)
    for chunk in chunks:
        whole.observe(chunk)
    for chunk in chunks[:3]:
        first.observe(chunk)
    second = make_memory(2, 2, 2 * 12)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for chunk in chunks[3:]:
        second.observe(chunk)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_seed_sees_nothing_of_the_others() -> None:
    rng = np.random.default_rng(0)
    both, alone = make_memory(2, 2, 2 * 12), make_memory(1, 2, 2 * 12)
    for _ in range(5):
        rollout = random_rollout(5, 2, 2, 0.2, rng)
        both.observe(rollout)
        alone.observe(rollout.map(lambda x: x[:, 1:]))
    for name in LABELS:
        torch.testing.assert_close(getattr(both, name)[1:], getattr(alone, name))
