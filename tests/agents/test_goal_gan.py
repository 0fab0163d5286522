"""The Goal GAN: what it counts, labels, learns, proposes, and leaves alone."""

import copy
import math

import pytest
import torch
from gymnasium import spaces

import recall_traces.cli.recorder as recorder
from recall_traces.agents.arms import ArmConfigs, make_learner, make_seams
from recall_traces.agents.goal_gan import GoalGAN, GoalGANConfig, LeastSquaresGAN
from recall_traces.agents.ppo import PPO, PPOConfig
from recall_traces.agents.sac import SACConfig
from recall_traces.cli import main
from recall_traces.envs import make
from recall_traces.envs.interface import Step
from recall_traces.recall import RecallConfig, RecallTraces

TINY = GoalGANConfig(iteration_steps=6, goals=2, tries=2, updates=2, batch_size=8)
SMALL_RECALL = RecallConfig(
    imitation_batch_size=32, trace_length=8, traces_per_update=4, search="sample", search_length=8, candidates=2
)


class Scripted:
    """Copies whose episodes end when the test says so; the position is the number of steps taken, the same everywhere."""

    goal_radius, success_return = 0.5, 1.0
    position_columns, goal_columns = slice(0, 1), slice(1, 2)
    device = torch.device("cpu")
    observation_space = spaces.Box(-10, 10, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, num_envs):
        self.num_envs, self.steps = num_envs, 0
        self.goal_low, self.goal_high = torch.tensor([-8.0]), torch.tensor([8.0])
        self.propose = None
        self.own_goals = torch.full((num_envs, 1), -7.5)

    def next_goals(self):
        return self.own_goals if self.propose is None else self.propose(self.num_envs)

    def reset(self):
        self.goals = self.next_goals()
        return self.observe()

    def observe(self):
        return torch.cat([torch.full((self.num_envs, 1), float(self.steps)), self.goals], 1)

    def step(self, actions):
        """Action 0 goes on, 1 reaches the goal, 2 is cut off."""
        self.steps += 1
        final_obs, terminated, truncated = self.observe(), actions == 1, actions == 2
        self.goals = torch.where((actions > 0)[:, None], self.next_goals(), self.goals)
        self.last = Step(self.observe(), terminated.float(), terminated, truncated, final_obs)
        return self.last


def second_iteration(num_envs=2, num_seeds=1, **changes):
    """A Goal GAN that has just proposed goals, with an episode of the first iteration going on in every copy."""
    env = Scripted(num_envs)
    gan = GoalGAN(env, GoalGANConfig(**{**vars(TINY), **changes}), num_seeds=num_seeds)
    gan.reset()
    for _ in range(gan.config.iteration_steps):
        gan.step(torch.zeros(num_envs, dtype=torch.int64))
    return env, gan


# Bookkeeping


def test_episodes_are_counted_for_the_goal_that_they_had():
    _, gan = second_iteration(iteration_steps=20)
    goals = gan.goals[0, :, :, 0].tolist()
    # Copy 0 ends at every step, copy 1 goes on with its old goal for two steps. 0: goes on, 1: reached, 2: cut off.
    script = [(1, 0), (1, 0), (2, 2), (2, 1), (2, 0), (1, 0), (1, 1)]
    #          old   a0     a0     a1      a1     a0 again
    expected_goals = [(-7.5, -7.5), (goals[0][0], -7.5), (goals[0][0], -7.5), (goals[0][1], goals[1][0])]
    expected_goals += [(goals[0][1], goals[1][0]), (goals[0][0], goals[1][0]), (goals[0][0], goals[1][0])]
    for actions, had in zip(script, expected_goals, strict=True):
        step = gan.step(torch.tensor(actions))
        assert step.final_obs[:, 1].tolist() == pytest.approx(had)
    assert gan.tries[0].tolist() == [[4, 2], [2, 0]]
    assert gan.successes[0].tolist() == [[3, 0], [2, 0]]
    good, tried = gan.labels()
    assert tried[0].tolist() == [[True, True], [True, False]]
    assert good[0].tolist() == [[True, False], [False, False]]  # three of four; too hard; too easy; nobody knows


@pytest.mark.parametrize(
    ("tries", "successes", "good"),
    [(10, 0, False), (10, 1, True), (10, 5, True), (10, 9, True), (10, 10, False), (2, 1, False), (3, 1, True)],
)
def test_labels(tries, successes, good):
    _, gan = second_iteration(tries=3)
    gan.tries[0, 1, 1], gan.successes[0, 1, 1] = tries, successes
    assert gan.labels()[0].tolist() == [[[False, False], [False, good]]]
    assert gan.labels()[1].sum().item() == (tries >= 3)


def test_a_reset_ends_the_episodes_uncounted():
    _, gan = second_iteration(iteration_steps=20)
    first = gan.goals[0, :, 0]
    for _ in range(2):
        assert torch.equal(gan.reset()[:, 1:], first)
    assert gan.tries.sum() == 0
    gan.step(torch.tensor([1, 2]))
    assert gan.tries.sum() == 2
    assert gan.successes.sum() == 1


def test_everything_passes_through_unchanged():
    env, gan = second_iteration()
    assert gan.step(torch.tensor([0, 1])) is env.last
    inner = make("PointMaze-U", num_envs=4, random_goal=True, inertia=True)
    outer = GoalGAN(inner, num_seeds=2)
    for name in (
        "observation_space",
        "action_space",
        "num_envs",
        "device",
        "success_return",
        "goal_radius",
        "options",
        "horizon",
    ):
        assert getattr(outer, name) == getattr(inner, name)
    assert outer.render().shape == inner.render().shape
    assert not hasattr(outer, "predecessors")
    assert copy.copy(outer).horizon == inner.horizon


def test_each_environment_step_is_that_of_the_environment_with_these_goals():
    goals, generator = [], torch.Generator().manual_seed(0)
    outer = GoalGAN(make("PointMass-3", num_envs=4, seed=3), TINY, num_seeds=2)
    inner = make("PointMass-3", num_envs=4, seed=3)
    assert torch.equal(outer.reset(), inner.reset())
    for t in range(250):
        # What the wrapped environment was offered, the bare one is offered too.
        offered = None if outer.goals is None else outer.propose(4)
        inner.propose = None if offered is None else lambda _, offered=offered: offered
        goals.append(outer.goals)
        actions = torch.rand(4, 3, generator=generator) * 2 - 1
        left, right = outer.step(actions), inner.step(actions)
        for name in ("obs", "rewards", "terminated", "truncated", "final_obs"):
            assert torch.equal(getattr(left, name), getattr(right, name)), (t, name)
    assert (goals[5] is None, goals[6] is None) == (True, False)


def test_the_first_iteration_is_the_environments_own_and_teaches_where_it_got_to():
    env, gan = second_iteration(num_envs=16, num_seeds=4, iteration_steps=4, updates=400)
    # Positions 1 to 4 were seen, of -8 to 8.
    x = gan.generate(500)[..., 0]
    assert env.propose is not None
    assert ((x > 0) & (x < 5)).float().mean() > 0.7
    assert gan._visited == []


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_noise_on_generated_goals_has_its_length(noise):
    gan = GoalGAN(make("PointMass-2", num_envs=8), GoalGANConfig(**{**vars(TINY), "goals": 400, "goal_noise": noise}))
    gan.goals, gan.generate = torch.zeros(1, 8, 400, 2), lambda count: torch.full((1, count, 2), 1.5)
    gan._next_iteration()
    assert gan.goals.shape == (1, 8, 400, 2)
    assert (gan.goals - 1.5).square().sum(-1).mean().sqrt().item() == pytest.approx(noise * gan.env.goal_radius, rel=0.05)


def test_goals_stay_in_the_box():
    _, gan = second_iteration(num_envs=8, goals=50, goal_noise=100.0)
    assert (gan.goals.min().item(), gan.goals.max().item()) == (-8.0, 8.0)


# Replay


def test_only_good_goals_that_are_apart_are_kept():
    gan = GoalGAN(Scripted(4), GoalGANConfig(replay_size=3, replay_distance=2.0), num_seeds=2)  # a metre apart
    goals = torch.tensor([[0.0, 0.5, 1.0, 3.0], [0.0, 0.5, 1.75, 3.0]])[..., None]
    good = torch.tensor([[True, True, True, False], [False, True, True, True]])
    gan._keep(goals, good)
    assert gan.num_old.tolist() == [2, 3]
    assert gan.old_goals[..., 0].tolist() == [[0.0, 1.0, math.inf], [0.5, 1.75, 3.0]]
    gan._keep(torch.tensor([[5.0], [6.0]])[..., None], torch.tensor([[True], [True]]))
    assert gan.old_goals[..., 0].tolist() == [[0.0, 1.0, 5.0], [6.0, 1.75, 3.0]]  # the oldest makes way
    drawn = gan._draw_old(200)[..., 0]
    assert [set(row) for row in drawn.tolist()] == [{0.0, 1.0, 5.0}, {6.0, 1.75, 3.0}]


def test_a_share_of_the_goals_is_replayed():
    gan = GoalGAN(Scripted(8), GoalGANConfig(goals=500, replay_share=0.25, updates=1), num_seeds=2)
    gan.goals = torch.zeros(2, 4, 500, 1)
    gan.tries.fill_(0)
    gan._keep(torch.tensor([[4.25]]).expand(2, 1)[..., None], torch.tensor([[True], [False]]))
    gan._next_iteration()
    shares = (gan.goals == 4.25).float().mean((1, 2, 3))
    assert shares[0].item() == pytest.approx(0.25, abs=0.04)
    assert shares[1] == 0


def test_what_was_kept_goes_on_with_the_same_goal():
    env, gan = second_iteration(iteration_steps=20)
    for actions in ((1, 1), (1, 2), (2, 1)):
        gan.step(torch.tensor(actions))
    other_env = Scripted(2)
    other = GoalGAN(other_env, gan.config)
    other.load_state_dict(copy.deepcopy(gan.state_dict()))
    other_env.steps, other_env.goals = env.steps, env.goals
    for k in range(12):
        for one in (gan, other):
            one.step(torch.tensor([1 + k % 2, k % 3]))
        assert torch.equal(env.last.obs, other_env.last.obs)
    assert torch.equal(gan.tries, other.tries)
    assert torch.equal(gan.successes, other.successes)


# GAN


def ring(points):
    return (points.norm(dim=-1) - 0.5).abs() < 0.1


def blob(points):
    return (points - torch.tensor([0.5, 0.3])).norm(dim=-1) < 0.3


@pytest.mark.parametrize(("region", "least"), [(ring, 0.35), (blob, 0.7)])
def test_the_generator_learns_where_the_good_goals_are(region, least):
    generator, shares = torch.Generator().manual_seed(0), []
    gan = LeastSquaresGAN(6, 2, GoalGANConfig(), 0, "cpu")
    for _ in range(8):
        points = torch.rand(6, 64, 2, generator=generator) * 2 - 1
        gan.fit(points, region(points), torch.ones(6, 64))
        shares.append(region(gan.generate(gan.noise(6, 500))).float().mean())
    chance = region(torch.rand(100_000, 2, generator=generator) * 2 - 1).float().mean()
    assert sum(shares[4:]) / 4 > least > 2 * chance


def test_one_step_is_down_the_gradients_of_the_least_squares_losses():
    """Of the discriminator D with labels of 1 and -1, of the generator G by D(G(z)) = 0 after that."""
    gan = LeastSquaresGAN(1, 2, TINY, 0, "cpu")
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, 8, 2, generator=generator) * 2 - 1
    good, noise = (torch.arange(8) < 3)[None], torch.randn(2, 1, 8, 4, generator=generator)

    def gradient(loss, network):
        return torch.cat([x.flatten(1) for x in torch.autograd.grad(loss, list(network.parameters()))], 1)

    y, d = good.float(), gan.discriminator(points)[..., 0]
    loss = (y * (d - 1) ** 2 + (1 - y) * (d + 1) ** 2).mean() + ((gan.discriminator(gan.generate(noise[0])) + 1) ** 2).mean()
    expected = gradient(loss, gan.discriminator)
    gan.update(points, good, noise[0], noise[1], [True])
    torch.testing.assert_close(gan.discriminator_optimizer.grads, expected)
    other = LeastSquaresGAN(1, 2, TINY, 0, "cpu")  # before the generator's step
    other.discriminator_optimizer.values.copy_(gan.discriminator_optimizer.values)
    expected = gradient((other.discriminator(other.generate(noise[1])) ** 2).mean(), other.generator)
    torch.testing.assert_close(gan.generator_optimizer.grads, expected)


def test_goals_that_were_not_tried_are_not_learnt_from():
    _, gan = second_iteration(iteration_steps=20)
    fitted, goals = [], gan.goals.clone()
    gan.gan.fit = lambda *arguments: fitted.append(arguments)
    for k in range(20):
        gan.step(torch.tensor([k % 2 + 1, 0]))  # copy 1's first goal is never tried to the end
    [(points, good, weights)] = fitted
    torch.testing.assert_close(points, goals.flatten(1, 2) / 8)
    assert weights.tolist() == [[1.0, 1.0, 0.0, 0.0]]
    assert good.tolist() == [[True, True, False, False]]


def test_goals_without_weight_teach_nothing():
    left, right = (LeastSquaresGAN(2, 2, TINY, 0, "cpu") for _ in range(2))
    points = torch.rand(2, 16, 2, generator=torch.Generator().manual_seed(0))
    good, weights = blob(points), torch.arange(16).expand(2, 16) < 8
    left.fit(points, good, weights.float())
    right.fit(torch.where(weights[..., None], points, torch.nan), good & weights, weights.float())
    assert torch.equal(left.generator_optimizer.values, right.generator_optimizer.values)


def test_a_seed_without_labelled_goals_keeps_its_networks_and_others_do_not_notice():
    both, alone = (LeastSquaresGAN(2, 2, TINY, 0, "cpu") for _ in range(2))
    points = torch.rand(2, 16, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    good = torch.tensor([[True], [True]]).expand(2, 16)
    both.fit(points, good, torch.ones(2, 16))
    before = [x.values.clone() for x in (alone.generator_optimizer, alone.discriminator_optimizer)]
    # Seed 0 broke: it has nothing but NaN, and none of it counts.
    points[0] = torch.nan
    weights = torch.stack([torch.zeros(16), torch.ones(16)])
    alone.fit(points, good & (weights > 0), weights)
    for k, optimizer in enumerate((alone.generator_optimizer, alone.discriminator_optimizer)):
        assert torch.equal(optimizer.values[0], before[k][0])
        assert torch.equal(optimizer.values[1], (both.generator_optimizer, both.discriminator_optimizer)[k].values[1])
        assert not torch.equal(optimizer.values[1], before[k][1])


def test_goals_of_which_none_is_good_drive_the_generator_away():
    gan = LeastSquaresGAN(4, 2, GoalGANConfig(), 0, "cpu")
    noise = gan.noise(4, 500)
    before = gan.generate(noise)
    for _ in range(4):
        points = gan.generate(gan.noise(4, 64)).detach()
        gan.fit(points, torch.zeros(4, 64, dtype=torch.bool), torch.ones(4, 64))
    moved = (gan.generate(noise) - before).norm(dim=2).mean(1)
    assert (moved > 0.05).all()
    assert float(gan.discriminator(points).detach().mean()) < -0.5  # as bad as whatever the generator makes


def test_a_fleet_is_as_good_as_fleets_of_one():
    fleet = LeastSquaresGAN(3, 2, TINY, 0, "cpu")
    singles = [LeastSquaresGAN(1, 2, TINY, 0, "cpu") for _ in range(3)]
    pairs = [(x.generator_optimizer, x.discriminator_optimizer) for x in (fleet, *singles)]
    for s in range(3):
        for k in range(2):
            pairs[1 + s][k].values.copy_(pairs[0][k].values[s : s + 1])
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        points = torch.rand(3, 8, 2, generator=generator) * 2 - 1
        noise = torch.randn(2, 3, 8, 4, generator=generator)
        fleet.update(points, blob(points), *noise, active=[True, False, True])
        for s in (0, 2):
            one = slice(s, s + 1)
            singles[s].update(points[one], blob(points[one]), *noise[:, one], active=[True])
    for s in range(3):
        for k in range(2):
            torch.testing.assert_close(pairs[1 + s][k].values[0], pairs[0][k].values[s], rtol=1e-4, atol=1e-5)


def test_nothing_is_drawn_from_the_global_generator():
    before = torch.get_rng_state()
    _, gan = second_iteration()
    gan.states(5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("broken", ["goal", "position"])
def test_a_broken_seed_does_not_disturb_the_others(broken):
    class Breaks(Scripted):
        def observe(self):
            obs = super().observe()
            obs[2:, 1 if broken == "goal" else 0] = torch.nan
            return obs

    found = []
    for kind in (Scripted, Breaks):
        env = kind(4)
        gan = GoalGAN(env, TINY, num_seeds=2)
        gan.reset()
        for t in range(30):
            gan.step(torch.tensor([t % 3, (t + 1) % 3, t % 3, t % 2]))
        found.append((gan.goals[0], gan.tries[0], gan.old_goals[0], gan.gan.generator_optimizer.values[0]))
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))


# States


def test_states_are_observations_at_generated_goals():
    env = make("PointMaze-U", num_envs=4, random_goal=True, inertia=True)
    gan = GoalGAN(env, TINY, num_seeds=2)
    assert gan.states(5).shape == (2, 5, 6)
    assert bool(gan.states(5).isnan().all())
    gan.reset()
    for _ in range(6):
        gan.step(torch.zeros(4, 2))
    states = gan.states(50)
    assert torch.equal(states[..., :2], states[..., 4:])
    assert bool((states[..., 2:4] == 0).all())
    low, high = torch.as_tensor(env.observation_space.low), torch.as_tensor(env.observation_space.high)
    assert bool(((states >= low) & (states <= high)).all())


def test_positions_of_states_are_where_a_point_can_be():
    env = make("PointMass-2", num_envs=1)
    gan = GoalGAN(env, TINY)
    gan.goals = torch.zeros(1, 1, 2, 2)
    gan.gan.generate = lambda noise: torch.tensor([[[0.5, 0.8]]])
    assert gan.states(1)[0, 0].tolist() == pytest.approx([2.5, 1.0, 2.5, 4.0])


# Learners


@pytest.mark.parametrize("arm", ["goal-gan", "recall+goal-gan"])
@pytest.mark.parametrize("agent", ["ppo", "sac"])
@pytest.mark.parametrize("env_id", ["PointMass-2", "PointMaze-U"])
def test_arms_train(arm, agent, env_id):
    options = {"goals": "all"} if env_id == "PointMass-2" else {"random_goal": True}
    env = make(env_id, num_envs=4, **options)
    configs = ArmConfigs(recall=SMALL_RECALL, goal_gan=GoalGANConfig(iteration_steps=180, goals=4, tries=1, updates=2))
    ppo = PPOConfig(n_steps=60, batch_size=60, n_epochs=1, net_arch=(16,))
    sac = SACConfig(buffer_size=500, batch_size=16, learning_starts=20, n_steps=60, train_freq=10, net_arch=(16,))
    learner = make_learner(agent, arm, env, ppo if agent == "ppo" else sac, configs, num_seeds=2)
    logged = []
    learner.learn(5 * 120, lambda learner, metrics: logged.append(metrics))
    assert not learner.failures
    assert isinstance(learner.env, GoalGAN)
    assert learner.env.tries.sum() > 0
    if "recall" in arm:
        assert learner.recall.config.source == "generated"
        assert logged[1]["recall/traces"].tolist() == [0, 0]  # no goals yet
        assert logged[-1]["recall/traces"].tolist() == [4, 4]
        assert "imitation_loss" in logged[-1]
    assert all(bool(optimizer.values.isfinite().all()) for optimizer in learner.optimizers)


def test_goals_move_on_and_the_policy_with_them():
    """Most goals of the whole square are out of reach; those that the GAN proposes are not, and are learnt."""
    config = PPOConfig(learning_rate=1e-3, n_steps=256, batch_size=256, n_epochs=4)
    env = make("PointMass-4", num_envs=16, seed=0, goals="all")
    gan = GoalGAN(env, num_seeds=2)
    PPO(gan, config, num_seeds=2).learn(30_000)
    reachable = (gan.goals.abs() - env.reach).clamp(min=0).norm(dim=-1) < env.goal_radius
    drawn = torch.cat([env._draw_goals(50) for _ in range(4)])
    chance = ((drawn.abs() - env.reach).clamp(min=0).norm(dim=-1) < env.goal_radius).float().mean()
    assert chance < 0.05
    assert reachable.float().mean((1, 2)).min() > 0.5
    assert gan.num_old.min() > 3


def test_the_same_seed_gives_the_same():
    def weights(seed):
        gan = GoalGAN(
            make("PointMass-2", num_envs=4, seed=0), GoalGANConfig(iteration_steps=50, updates=5), num_seeds=2, seed=seed
        )
        config = PPOConfig(n_steps=60, batch_size=60, n_epochs=1, net_arch=(16,))
        return PPO(gan, config, num_seeds=2, seed=0).learn(480).policy_optimizer.values

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_evaluation_has_the_environments_own_goals(tmp_path, monkeypatch):
    seen = []

    def evaluate(act, env, num_seeds):
        assert not isinstance(env, GoalGAN)
        seen.append((env.propose, env.options.goals))
        return real(act, env, num_seeds)

    real = recorder.evaluate
    monkeypatch.setattr(recorder, "evaluate", evaluate)
    command = "train ppo PointMass-2 --arm goal-gan --env.goals all --eval-env.goals feasible --steps 2048 --seeds 2"
    small = "--eval-every 1024 --eval-episodes 2 --agent.n-steps 64 --goal-gan.iteration-steps 100 --goal-gan.updates 2 --quiet"
    assert main([*command.split(), *small.split(), "--out", str(tmp_path / "run")]) == 0
    assert len(seen) >= 2
    assert set(seen) == {(None, "feasible")}
    assert (tmp_path / "run" / "policies").exists() or any((tmp_path / "run").rglob("*.safetensors"))


# Refusals


@pytest.mark.parametrize(
    ("env_id", "options"), [("FourRooms-7", {}), ("CartPole-v1", {}), ("PointMaze-U", {}), ("Pendulum-v1", {})]
)
@pytest.mark.parametrize("arm", ["goal-gan", "recall+goal-gan"])
def test_environments_without_goals_are_refused(env_id, options, arm):
    env = make(env_id, num_envs=1, **options)
    with pytest.raises(ValueError, match=r"environment with goals: PointMass-<n>, or PointMaze with --env\.random-goal"):
        make_learner("ppo", arm, env, PPOConfig(n_steps=8, batch_size=8), ArmConfigs())


def test_copies_must_be_shared_equally():
    with pytest.raises(ValueError, match="5 environments cannot be shared equally by 2 seeds"):
        GoalGAN(make("PointMass-2", num_envs=5), num_seeds=2)


def test_generated_states_need_what_generates_them():
    env = make("PointMass-2", num_envs=2)
    with pytest.raises(ValueError, match=r"recall\+goal-gan"):
        make_seams("recall", env, 1, 0, ArmConfigs(recall=RecallConfig(source="generated")))
    gan = GoalGAN(env)
    recall = make_seams("recall+goal-gan", gan, 1, 0, ArmConfigs(recall=SMALL_RECALL)).recall
    assert isinstance(recall, RecallTraces)
    assert recall.states.generated == gan.states


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"goals": 0}, "goals must be at least 1, not 0"),
        ({"tries": 0}, "tries must be at least 1"),
        ({"generator_learning_rate": 0.0}, "generator_learning_rate must be positive"),
        ({"goal_noise": -1.0}, "goal_noise must not be negative"),
        ({"goal_noise": math.nan}, "goal_noise must not be negative"),
        ({"replay_share": 1.5}, r"replay_share must lie in \[0, 1\], not 1.5"),
        ({"least_success": 0.8, "most_success": 0.5}, r"least_success must be at most most_success, 0.5, not 0.8"),
        ({"hidden": (64, 0)}, "hidden must hold positive numbers"),
    ],
)
def test_configurations_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GoalGANConfig(**changes)
