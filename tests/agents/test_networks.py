import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from recall_traces.agents.networks import Categorical, DiagonalGaussian, Policy

SPACES = {
    "box": spaces.Box(-1, 1, (3,)),
    "discrete": spaces.Discrete(5),
    "multi-discrete": spaces.MultiDiscrete([3, 4]),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_categorical_is_torchs():
    logits = 3 * torch.randn(2, 50, 4, generator=generator())
    actions = torch.randint(4, (2, 50), generator=generator(1))
    ours, reference = Categorical(logits), torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(ours.log_prob(actions), reference.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), reference.entropy())
    assert torch.equal(ours.mode(), logits.argmax(-1))


def test_gaussian_is_torchs_and_its_width_is_per_seed():
    mean, log_std = torch.randn(2, 50, 3, generator=generator()), torch.tensor([[[-1.0, 0.0, 0.5]], [[0.3, 1.0, -2.0]]])
    actions = torch.randn(2, 50, 3, generator=generator(1))
    ours, reference = DiagonalGaussian(mean, log_std), torch.distributions.Normal(mean, log_std.exp())
    torch.testing.assert_close(ours.log_prob(actions), reference.log_prob(actions).sum(-1))
    torch.testing.assert_close(ours.entropy(), reference.entropy().sum(-1))
    assert torch.equal(ours.mode(), mean)


def test_categorical_samples_have_their_probabilities():
    policy = Policy(2, SPACES["discrete"], spaces.Discrete(3), (), "tanh", generator())
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]])
    logits = probabilities.log()[:, None].expand(2, 40_000, 3) + 7.0  # a constant changes nothing
    noise = policy.noise((2, 40_000), generator())
    assert bool(noise.isfinite().all())
    actions = Categorical(logits).sample(noise)
    for s in range(2):
        shares = torch.bincount(actions[s], minlength=3) / 40_000
        # Four standard errors of a share are at most 0.01.
        assert shares.tolist() == pytest.approx(probabilities[s].tolist(), abs=0.01)


def test_gaussian_samples_have_their_moments():
    policy = Policy(2, SPACES["box"], spaces.Box(-1, 1, (2,)), (), "tanh", generator())
    mean, log_std = torch.tensor([[[1.0, -2.0]], [[0.0, 5.0]]]), torch.tensor([[[0.0, -1.0]], [[0.5, -2.0]]])
    actions = DiagonalGaussian(mean, log_std).sample(policy.noise((2, 40_000), generator()))
    torch.testing.assert_close(actions.mean(1, keepdim=True), mean, atol=0.04, rtol=0.0)
    torch.testing.assert_close(actions.std(1, keepdim=True), log_std.exp(), atol=0.03, rtol=0.0)


def test_noise_is_the_generators_alone():
    for action_space in (spaces.Discrete(3), spaces.Box(-1, 1, (2,))):
        policy = Policy(1, SPACES["box"], action_space, (4,), "tanh", generator())
        assert torch.equal(policy.noise((1, 9), generator(3)), policy.noise((1, 9), generator(3)))
        assert not torch.equal(policy.noise((1, 9), generator(3)), policy.noise((1, 9), generator(4)))


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("action_space", [spaces.Discrete(4), spaces.Box(-2, 2, (2,))], ids=["discrete-actions", "box-actions"])
def test_a_new_policy_is_almost_the_same_everywhere_and_seeds_differ(name, action_space):
    policy = Policy(3, SPACES[name], action_space, (64, 64), "tanh", generator())
    obs = torch.stack([torch.as_tensor(SPACES[name].sample()) for _ in range(20)]).expand(3, 20, *SPACES[name].shape)
    distribution = policy(obs)
    outputs = distribution.logits if policy.discrete else distribution.mean
    assert 0 < outputs.detach().abs().max() < 0.1  # the last layer's gain is 0.01
    assert not torch.allclose(outputs[0], outputs[1])


@pytest.mark.parametrize("name", SPACES)
def test_initial_weights_have_the_norms_of_stable_baselines3(name):
    space, actions = SPACES[name], spaces.Box(-1, 1, (2,))
    ours = Policy(1, space, actions, (16, 8), "tanh", generator())
    theirs = ActorCriticPolicy(space, actions, lambda _: 1e-3, net_arch=[16, 8])
    layers = [ours.mlp.first[0], *ours.mlp.later]
    references = [theirs.mlp_extractor.policy_net[0], theirs.mlp_extractor.policy_net[2], theirs.action_net]
    for layer, reference in zip(layers, references, strict=True):
        # Orthogonal matrices of one shape and gain have the same singular values.
        singular, expected = torch.linalg.svdvals(layer.weight[0]), torch.linalg.svdvals(reference.weight)
        torch.testing.assert_close(singular, expected, atol=1e-5, rtol=0.0)
        assert not layer.bias.any()
    assert torch.equal(ours.log_std[0, 0], theirs.log_std)
