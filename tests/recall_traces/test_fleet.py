import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from recall_traces.fleet import FleetAdam, FleetEmbedding, FleetMLP, NarrowProduct, backward, clip_scale

SEEDS = 3
BOX, DISCRETE, MULTI = spaces.Box(-1, 1, (4,)), spaces.Discrete(6), spaces.MultiDiscrete([3, 5, 2])


def network(seeds: int, inputs: list[spaces.Space], seed: int = 0) -> FleetMLP:
    return FleetMLP(seeds, inputs, (16, 8), 2, "tanh", 0.1, torch.Generator().manual_seed(seed))


def values(space: spaces.Space, seeds: int, batch: int, generator: torch.Generator) -> Tensor:
    if isinstance(space, spaces.Box):
        return torch.randn(seeds, batch, *space.shape, generator=generator)
    sizes = torch.tensor(space.nvec if isinstance(space, spaces.MultiDiscrete) else [space.n])
    drawn = (torch.rand(seeds, batch, len(sizes), generator=generator) * sizes).long()
    return drawn if isinstance(space, spaces.MultiDiscrete) else drawn[..., 0]


@pytest.mark.parametrize("inputs", [[BOX], [DISCRETE], [MULTI], [MULTI, BOX], [DISCRETE, DISCRETE, MULTI]])
def test_a_fleet_trains_exactly_as_its_members_alone(inputs: list[spaces.Space]) -> None:
    generator = torch.Generator().manual_seed(1)
    fleet = network(SEEDS, inputs)
    singles = [network(1, inputs, seed=9) for _ in range(SEEDS)]
    for s, single in enumerate(singles):
        single.load_state_dict({name: value[s : s + 1] for name, value in fleet.state_dict().items()})
    optimizer, alone = FleetAdam(fleet.parameters()), [FleetAdam(single.parameters()) for single in singles]
    active = [True, True, False]
    for step in range(5):
        batch = [values(space, SEEDS, 7, generator) for space in inputs]
        if step == 3:
            active = [True] * SEEDS
        loss = fleet(*batch).square().mean((1, 2)) * 50
        backward(loss, optimizer)
        optimizer.step(0.01, active, clip_scale(0.5, optimizer))
        for s, single in enumerate(singles):
            loss_alone = single(*(x[s : s + 1] for x in batch)).square().mean((1, 2)) * 50
            torch.testing.assert_close(loss[s : s + 1], loss_alone)
            backward(loss_alone, alone[s])
            alone[s].step(0.01, active[s : s + 1], clip_scale(0.5, alone[s]))
    for s in range(SEEDS):
        torch.testing.assert_close(optimizer.values[s], alone[s].values[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", [DISCRETE, MULTI])
def test_an_embedding_is_the_product_with_one_hot_vectors(space: spaces.Space) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [int(n) for n in (space.nvec if isinstance(space, spaces.MultiDiscrete) else [space.n])]
    layer = FleetEmbedding(SEEDS, sizes, 4, 1.0, generator)
    nn.init.normal_(layer.bias, generator=generator)
    x = values(space, SEEDS, 9, generator)
    factors = x.view(SEEDS, 9, -1)
    hot = torch.cat([nn.functional.one_hot(factors[..., k], size) for k, size in enumerate(sizes)], -1).float()
    weight, bias = (p.detach().clone().requires_grad_() for p in (layer.weight, layer.bias))
    expected = hot @ weight + bias
    torch.testing.assert_close(layer(x), expected)
    direction = torch.randn(expected.shape, generator=generator)
    ours = torch.autograd.grad((layer(x) * direction).sum(), [layer.weight, layer.bias])
    torch.testing.assert_close(ours, torch.autograd.grad((expected * direction).sum(), [weight, bias]))


@pytest.mark.parametrize("space", [BOX, DISCRETE, MULTI])
def test_a_batch_may_lie_in_memory_in_any_order(space: spaces.Space) -> None:
    mlp = network(SEEDS, [space])
    x = values(space, SEEDS, 7, torch.Generator().manual_seed(0))
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    torch.testing.assert_close(mlp(strided), mlp(x))


def test_weights_are_orthogonal_with_their_gain_and_different_in_every_seed() -> None:
    mlp = FleetMLP(2, [BOX], (16,), 3, "relu", 0.1, torch.Generator().manual_seed(0))
    first, last = mlp.first[0].weight, mlp.later[0].weight
    for s in range(2):
        torch.testing.assert_close(first[s] @ first[s].T, 2 * torch.eye(4))
        torch.testing.assert_close(last[s].T @ last[s], 0.01 * torch.eye(3))
    assert not torch.allclose(first[0], first[1])


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_adam_is_torchs_for_every_seed(max_norm: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mine = [nn.Parameter(torch.randn(SEEDS, *shape, generator=generator)) for shape in ((4, 5), (1, 5), (2, 3))]
    theirs = [[nn.Parameter(p[s].detach().clone()) for p in mine] for s in range(SEEDS)]
    optimizer = FleetAdam(mine, eps=1e-5)
    references = [torch.optim.Adam(ps, lr=1.0, eps=1e-5) for ps in theirs]
    for step in range(30):
        learning_rate = 0.1 / (1 + step)
        scales = torch.tensor([0.01, 1.0, 30.0])
        noise = [torch.randn(p.shape, generator=generator) for p in mine]
        active = (torch.rand(SEEDS, generator=generator) < 0.7).tolist()
        loss = sum(((p * x).flatten(1).sum(1) + p.flatten(1).square().sum(1)) * scales for p, x in zip(mine, noise, strict=True))
        backward(loss, optimizer)
        optimizer.step(learning_rate, active, clip_scale(max_norm, optimizer))
        for s, reference in enumerate(references):
            if not active[s]:
                continue
            reference.zero_grad()
            sum(((p * x[s]).sum() + p.square().sum()) * scales[s] for p, x in zip(theirs[s], noise, strict=True)).backward()
            nn.utils.clip_grad_norm_(theirs[s], max_norm)
            reference.param_groups[0]["lr"] = learning_rate
            reference.step()
    for k, p in enumerate(mine):
        torch.testing.assert_close(p.detach(), torch.stack([ps[k].detach() for ps in theirs]), rtol=2e-5, atol=2e-6)


def test_the_norm_that_is_clipped_is_that_of_all_optimizers_together() -> None:
    one, two = (FleetAdam([nn.Parameter(torch.zeros(2, 2))]) for _ in range(2))
    one.grads, two.grads = torch.tensor([[3.0, 0.0], [0.1, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 0.1]])
    torch.testing.assert_close(clip_scale(1.0, one, two), torch.tensor([0.2, 1.0]))


def test_a_seed_left_out_keeps_everything_even_with_a_gradient_that_is_not_finite() -> None:
    p = nn.Parameter(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)))
    optimizer = FleetAdam([p])
    backward(p.square().sum((1, 2)), optimizer)
    optimizer.step(0.1)
    before = {name: value.clone() for name, value in optimizer.state_dict().items()} | {"p": p.detach().clone()}
    for bad in (1.0, torch.nan, torch.inf):
        backward(p.square().sum((1, 2)) * torch.tensor([1.0, bad]), optimizer)
        optimizer.step(0.1, [True, False], clip_scale(0.5, optimizer))
        for name, value in (optimizer.state_dict() | {"p": p.detach()}).items():
            assert torch.equal(value[1], before[name][1]), name
            assert not torch.equal(value[0], before[name][0])


def test_a_saved_optimizer_goes_on_as_if_nothing_had_happened() -> None:
    results = []
    for interrupted in (False, True):
        p = nn.Parameter(torch.ones(2, 3))
        optimizer = FleetAdam([p])
        for step in range(6):
            if interrupted and step == 3:
                saved = {name: value.clone() for name, value in optimizer.state_dict().items()}
                p = nn.Parameter(p.detach().clone())
                optimizer = FleetAdam([p])
                optimizer.load_state_dict(saved)
            backward((p * torch.arange(6.0).view(2, 3)).square().sum(1), optimizer)
            optimizer.step(0.1)
        results.append(p.detach())
    assert torch.equal(*results)


@pytest.mark.parametrize(("seeds", "outputs"), [(1, 2), (3, 1), (3, 5)])
def test_a_narrow_product_is_a_product_and_has_its_gradients(seeds: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(seeds, 7, 4), (seeds, 4, outputs), (seeds, 1, outputs)]
    x, weight, bias = (torch.randn(shape, generator=generator, dtype=torch.double, requires_grad=True) for shape in shapes)
    product = NarrowProduct.apply(x, weight, bias)
    torch.testing.assert_close(product, torch.einsum("sbi,sio->sbo", x, weight) + bias)
    assert product.is_contiguous()
    assert torch.equal(torch.relu_(NarrowProduct.apply(x, weight, bias)), product.relu())  # which activations do
    assert torch.autograd.gradcheck(NarrowProduct.apply, (x, weight, bias))
