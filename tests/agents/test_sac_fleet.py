"""The seeds of a fleet learn as if each were alone, and one that breaks leaves the others as they are."""

import math
from dataclasses import replace

import pytest
import torch
from ppo_helpers import Drift, Spaces, tensors
from sac_helpers import Given, assert_same_seed, copy_seed, of_seed, random_batch, state

from recall_traces.agents.arms import ArmConfigs, make_learner
from recall_traces.agents.bonus import BonusConfig
from recall_traces.agents.replay import PrioritizedConfig, PrioritizedSampling, UniformSampling
from recall_traces.agents.sac import SAC, Batch, SACConfig
from recall_traces.data import Traces

ROWS = [0, 1, 2, 3, 4, 5]  # two environments of each of three seeds


def only(fields, seed):
    return [x[seed : seed + 1] for x in fields]


# Together and one by one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ent_coef", [None, 0.3])
@pytest.mark.parametrize("imitating", [(), (0, 2)])
def test_updates_of_a_fleet_are_those_of_fleets_of_one(imitating, ent_coef):
    """Seed 1 has no traces; alone it is not even asked for any."""
    config = SACConfig(net_arch=(16, 8), learning_rate=1e-2, tau=0.1, gamma=0.9, ent_coef=ent_coef, buffer_size=8)
    generator = torch.Generator().manual_seed(0)
    recall = Given(torch.randn(3, 16, 3, generator=generator), torch.randn(3, 16, 2, generator=generator).tanh(), imitating)
    fleet = SAC(Spaces(num_envs=6), config, recall=recall, num_seeds=3)
    singles = [SAC(Spaces(num_envs=2), config, recall=recall, seed=s + 1) for s in range(3)]
    for s, single in enumerate(singles):
        copy_seed(fleet, single, s)
    traces = recall.traces if imitating else None
    for round_ in range(4):
        batch, noise = random_batch(3, 32, round_)
        metrics, errors = fleet.learn_from(batch, noise, traces)
        for s, single in enumerate(singles):
            own = Traces(*only(vars(traces).values(), s)) if s in imitating else None
            its_metrics, its_errors = single.learn_from(Batch(*only(batch, s)), noise[s : s + 1], own)
            torch.testing.assert_close(its_errors[0], errors[s], atol=1e-4, rtol=1e-4)
            for name, value in its_metrics.items():
                torch.testing.assert_close(value[0], metrics[name][s], atol=1e-4, rtol=1e-4)
    for s, single in enumerate(singles):
        assert_same_seed(fleet, single, s)
    if imitating:
        assert metrics["imitation_loss"][1] == 0
    assert (len(fleet.ent_coef.unique()) == 3) == (ent_coef is None)


class Remembering:
    """Uniform draws that can be drawn once more, by one seed alone."""

    def __init__(self, num_seeds):
        self.uniform, self.drawn = UniformSampling(num_seeds), []

    def added(self, first, end):
        pass

    def draw(self, held, batch_size, generator):
        self.drawn.append(self.uniform.draw(held, batch_size, generator))
        return self.drawn[-1]

    def learned(self, columns, errors):
        pass


class Repeating(Remembering):
    def __init__(self, remembered, seed):
        self.drawn = [tuple(only(draw, seed)) for draw in remembered.drawn]

    def draw(self, held, batch_size, generator):
        columns, weights = self.drawn.pop(0)
        assert bool((columns < held).all())
        return columns, weights


def test_learning_as_a_fleet_is_learning_alone(monkeypatch):
    """Whole training: with the same noise and minibatches, three seeds together are three seeds one by one."""
    config = SACConfig(
        n_steps=10, batch_size=16, learning_rate=3e-3, tau=0.1, learning_starts=12, train_freq=2, net_arch=(8,),
        buffer_size=30, normalize_observations=True,
    )  # fmt: skip
    fleet = SAC(Drift(ROWS, True), config, sampling=Remembering(3), num_seeds=3)
    starts = [SAC(Drift(ROWS[2 * s : 2 * s + 2], True), config, seed=s + 1) for s in range(3)]
    for s, single in enumerate(starts):
        copy_seed(fleet, single, s)
    normal, uniform = [], []
    draw, rand = fleet.policy.noise, torch.rand

    def remember(shape, generator):
        normal.append(draw(shape, generator))
        return normal[-1]

    def remember_uniform(shape, **options):
        uniform.append(rand(shape, **options))
        return uniform[-1]

    monkeypatch.setattr(fleet.policy, "noise", remember, raising=False)
    monkeypatch.setattr(torch, "rand", remember_uniform)
    fleet.learn(80)
    assert fleet.env_steps == 80
    assert len(uniform) == 6
    assert fleet.policy_optimizer.steps.tolist() == [17] * 3
    for s, single in enumerate(starts):
        single.sampling = Repeating(fleet.sampling, s)
        left, left_uniform = ([x[s : s + 1] for x in drawn] for drawn in (normal, uniform))
        monkeypatch.setattr(single.policy, "noise", lambda shape, generator, left=left: left.pop(0), raising=False)
        monkeypatch.setattr(torch, "rand", lambda shape, left=left_uniform, **_: left.pop(0))
        single.learn(80)
        assert not left
        assert not left_uniform
        assert not single.sampling.drawn
        assert_same_seed(fleet, single, s, atol=1e-4, rtol=1e-4)


class Episodes(Drift):
    """Drift whose episodes last as long as is said of each row."""

    def __init__(self, lengths):
        super().__init__(list(range(len(lengths))), True)
        self.lengths, self.age = torch.tensor(lengths), torch.zeros(len(lengths), dtype=torch.int64)

    def step(self, actions):
        step = super().step(actions)
        self.age += 1
        ended = self.age >= self.lengths
        self.age[ended] = 0
        return replace(step, terminated=ended, truncated=torch.zeros_like(ended))


@pytest.mark.parametrize("arm", ["sil", "sil+bonus"])
def test_how_long_the_episodes_of_other_seeds_are_does_not_matter(arm):
    """Self-imitation values the steps of all seeds at once, as many as the longest episode calls for."""
    config = SACConfig(n_steps=10, batch_size=16, learning_rate=3e-3, tau=0.1, learning_starts=12, net_arch=(8,), buffer_size=300)
    configs = ArmConfigs(bonus=BonusConfig(updates=1))
    runs = {
        length: make_learner("sac", arm, Episodes([7, 33, length, length]), config, configs, 2).learn(200) for length in (5, 80)
    }
    assert torch.equal(state(runs[80], 0), state(runs[5], 0))
    assert torch.equal(runs[80].replay.steps.actions[0], runs[5].replay.steps.actions[0])
    assert not torch.equal(state(runs[80], 1), state(runs[5], 1))


# Seeds that are left out ----------------------------------------------------------------------------------------------------


def test_a_frozen_seed_keeps_everything_and_the_others_do_not_notice():
    config = SACConfig(net_arch=(8,), learning_rate=1e-2, buffer_size=8)
    fleet, reference = (SAC(Spaces(num_envs=3), config, num_seeds=3) for _ in range(2))
    batch, noise = random_batch(3, 16)
    for sac in (fleet, reference):
        sac.learn_from(batch, noise)  # so that there is momentum
    fleet.alive[1] = False
    before = {name: of_seed(value, 3, 1).clone() for name, value in tensors(fleet).items()}
    reference.learn_from(batch, noise)
    batch.rewards[1] = math.nan
    fleet.learn_from(batch, noise)
    for name, value in tensors(fleet).items():
        assert "target" in name or torch.equal(of_seed(value, 3, 1), before[name]), name
    assert torch.equal(state(fleet, 0), state(reference, 0))
    assert torch.equal(state(fleet, 2), state(reference, 2))


def test_the_target_critics_of_a_frozen_seed_stay_as_they_are():
    fleet = SAC(Spaces(num_envs=3), SACConfig(net_arch=(8,), learning_rate=1e-2, buffer_size=8), num_seeds=3)
    batch, noise = random_batch(3, 16)
    fleet.learn_from(batch, noise)  # so that the critics are away from their targets
    fleet.alive[1] = False
    before = of_seed(fleet.target_values, 3, 1).clone()
    fleet.learn_from(batch, noise)
    assert torch.equal(of_seed(fleet.target_values, 3, 1), before)


# Seeds that break -----------------------------------------------------------------------------------------------------------


BREAKING = SACConfig(
    n_steps=8, batch_size=8, learning_starts=4, net_arch=(8,), buffer_size=40, learning_rate=1e-2, tau=0.1,
    normalize_observations=True,
)  # fmt: skip


def learned(steps=80, config=BREAKING, sampling=None, **breaks):
    return SAC(Drift(ROWS, True, **breaks), config, sampling=sampling, num_seeds=3).learn(steps)


@pytest.fixture(scope="module")
def unbroken():
    return learned()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["rewards", "obs"])
def test_a_broken_environment_stops_its_seed_alone(value, what, unbroken):
    # Environment 1 of seed 1 is row 3; the 13th step of each environment is the 5th of the second rollout.
    sac = learned(broken=[3], breaks_at=13, what=what, value=value)
    assert sac.env_steps == 80
    assert sac.alive == [True, False, True]
    assert sac.failures == {1: "seed 1: environment 1 gave a value that is not finite at step 26"}  # 13 steps of two environments
    for s in (0, 2):
        assert torch.equal(state(sac, s), state(unbroken, s))
        for theirs, its in zip(sac.obs_normalizer.buffers(), unbroken.obs_normalizer.buffers(), strict=True):
            assert torch.equal(theirs[s], its[s])
    assert bool(sac.act(torch.zeros(3, 1, 2), greedy=True).isfinite().all())
    assert bool(sac.value(torch.zeros(3, 1, 2)).isfinite().all())
    for optimizer in sac.optimizers:
        assert bool(optimizer.values.isfinite().all())


@pytest.fixture(scope="module")
def broken():
    return learned(broken=[3], breaks_at=13, value=math.nan)


PARTS = {
    "policy", "critics", "target_critics", "temperature", "obs_normalizer", "policy_optimizer", "critic_optimizer",
    "ent_coef_optimizer",
}  # fmt: skip


@pytest.mark.parametrize("part", sorted(PARTS))
def test_nothing_that_is_kept_of_a_broken_seed_is_nan(part, broken):
    assert set(broken.parts()) == PARTS
    for name, value in broken.parts()[part].state_dict().items():
        assert bool(value.isfinite().all()), name


def test_a_seed_that_broke_learns_no_more():
    at_the_end_of_its_rollout, later = (learned(steps, broken=[3], breaks_at=13, value=math.inf) for steps in (32, 80))
    for ours, theirs in zip(later.optimizers, at_the_end_of_its_rollout.optimizers, strict=True):
        assert torch.equal(of_seed(ours.values, 3, 1), of_seed(theirs.values, 3, 1))
        assert torch.equal(of_seed(ours.steps, 3, 1), of_seed(theirs.steps, 3, 1))
        assert not torch.equal(of_seed(ours.values, 3, 0), of_seed(theirs.values, 3, 0))


def test_priorities_of_a_broken_seed_do_not_reach_the_others():
    def prioritized():
        return PrioritizedSampling(PrioritizedConfig(), 3, 40, "cpu")

    sac = learned(sampling=prioritized(), broken=[3], breaks_at=13)
    reference = learned(sampling=prioritized())
    assert sac.alive == [True, False, True]
    for s in (0, 2):
        assert torch.equal(state(sac, s), state(reference, s))
        assert torch.equal(sac.sampling.levels[0][s], reference.sampling.levels[0][s])


def test_learning_stops_when_every_seed_is_broken():
    sac = learned(broken=ROWS, breaks_at=3)
    assert sac.env_steps == 16
    assert sorted(sac.failures) == [0, 1, 2]


@pytest.mark.parametrize(
    ("which", "row"), [("policy_optimizer", 1), ("critic_optimizer", 1), ("critic_optimizer", 4), ("ent_coef_optimizer", 1)]
)
def test_weights_that_are_not_finite_stop_their_seed_alone(which, row):
    sac, reference = learned(32), learned(32)
    getattr(sac, which).values[row, 0] = math.nan
    sac.learn(32)
    reference.learn(32)
    assert sac.alive == [True, False, True]
    assert sac.failures == {1: "seed 1: the weights were no longer finite at step 48"}
    for s in (0, 2):
        assert torch.equal(state(sac, s), state(reference, s))
    assert bool(sac.act(torch.zeros(3, 1, 2), greedy=True).isfinite().all())


# Random numbers -------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run_and_another_another():
    first, again, other = (SAC(Drift([0, 1, 2, 3], True), BREAKING, num_seeds=2, seed=seed).learn(32) for seed in (3, 3, 4))
    for name, value in tensors(first).items():
        assert torch.equal(value, tensors(again)[name]), name
    assert torch.equal(first.replay.steps.actions, again.replay.steps.actions)
    assert not torch.equal(first.policy_optimizer.values, other.policy_optimizer.values)
    # The random actions of the beginning too, and within a fleet.
    assert not torch.equal(first.replay.steps.actions[:, :4], other.replay.steps.actions[:, :4])
    assert not torch.equal(first.replay.steps.actions[0, :4], first.replay.steps.actions[1, :4])
    assert not torch.equal(first.policy_optimizer.values[0], first.policy_optimizer.values[1])


def test_torchs_global_generator_is_left_alone():
    before = torch.get_rng_state()
    sac = learned(48)
    sac.predict(torch.zeros(3, 2))
    sac.value(torch.zeros(3, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
