"""The networks: shapes, initialisation, determinism, derivatives, and that they train."""

import math

import pytest
import torch

from gdflows import Objective, problems
from gdflows.errors import InputError
from gdflows.problems import conv, deep_linear, mlp, resnet18, vgg11, vit

F64 = torch.float64

# Small versions of everything, all for images of 3x32x32 and 10 classes.
NETWORKS = {
    "mlp": lambda **k: mlp([3072, 8, 10], "tanh", **k),
    "deep_linear": lambda **k: deep_linear([3072, 8, 10], **k),
    "balanced": lambda **k: deep_linear([3072, 12, 10], init="balanced", **k),
    "conv": lambda **k: conv([4, 4], **k),
    "conv-max": lambda **k: conv([4, 4], "relu", pooling="max", **k),
    "vgg11": lambda **k: vgg11(1 / 32, **k),
    "vgg11-batch": lambda **k: vgg11(1 / 32, norm="batch", **k),
    "vgg11-group": lambda **k: vgg11(1 / 32, norm="group", **k),
    "resnet18-group": lambda **k: resnet18(1 / 16, norm="group", **k),
    "resnet18-batch": lambda **k: resnet18(1 / 16, norm="batch", **k),
    "vit": lambda **k: vit(1 / 8, depth=2, heads=2, patch=8, **k),
}
# At twice the width.
WIDER = {
    "vgg11": (lambda **k: vgg11(1 / 32, **k), lambda **k: vgg11(1 / 16, **k)),
    "resnet18": (lambda **k: resnet18(1 / 32, **k), lambda **k: resnet18(1 / 16, **k)),
    "vit": (lambda **k: vit(1 / 8, **k), lambda **k: vit(1 / 4, **k)),
}
HOLOMORPHIC = ("mlp", "deep_linear", "balanced", "conv")


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


def images(n, dtype=F64, seed=1):
    return torch.randn(n, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def flat(network):
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()])


def test_output_has_one_number_a_class(name):
    for dtype in (torch.float32, F64):
        output = NETWORKS[name](dtype=dtype)(images(2, dtype))
        assert output.shape == (2, 10)
        assert output.dtype == dtype
        assert torch.isfinite(output).all()


def test_seed_fixes_the_network_and_global_state_is_untouched(name):
    state = torch.get_rng_state()
    first, again, other = (flat(NETWORKS[name](seed=s, dtype=F64)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)  # and it is not read either
    assert torch.equal(flat(NETWORKS[name](seed=0, dtype=F64)), first)


def test_precision_changes_the_network_by_rounding_only(name):
    single, double = NETWORKS[name](dtype=torch.float32), NETWORKS[name](dtype=F64)
    assert torch.equal(flat(single), flat(double).float())


def test_a_few_steps_of_gradient_descent_bring_the_loss_down(name):
    y = torch.arange(12) % 10
    network = NETWORKS[name](dtype=F64)
    objective = Objective.from_module(network, problems.cross_entropy, (images(12), y))
    theta = objective.theta0
    start = objective.value(theta)
    for _ in range(10):
        theta = theta - 0.02 * objective.grad(theta)
    assert objective.value(theta) < 0.99 * start


SMOOTH = {
    "mlp": NETWORKS["mlp"],
    "balanced": NETWORKS["balanced"],
    "conv": NETWORKS["conv"],
    "resnet18-group": lambda **k: resnet18(1 / 32, norm="group", activation="tanh", **k),
    "resnet18-batch": lambda **k: resnet18(1 / 32, norm="batch", activation="tanh", **k),
    "vit": NETWORKS["vit"],
}


@pytest.mark.parametrize("smooth", SMOOTH)
def test_second_derivative_is_that_of_the_gradient(smooth):
    y = torch.arange(6)
    network = SMOOTH[smooth](dtype=F64)
    objective = Objective.from_module(network, problems.squared_error, (images(6), y))
    theta, generator = objective.theta0, torch.Generator().manual_seed(2)
    v = torch.randn(objective.dim, dtype=F64, generator=generator)
    v = v / v.norm()
    h = 1e-4
    numerical = (objective.grad(theta + h * v) - objective.grad(theta - h * v)) / (2 * h)
    exact = objective.hvp(theta, v)
    assert (numerical - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("kind", HOLOMORPHIC)
@pytest.mark.parametrize("loss", [problems.squared_error, problems.cross_entropy])
def test_complex_parameters_are_taken_where_promised(kind, loss):
    objective = Objective.from_module(NETWORKS[kind](dtype=F64), loss, (images(3), torch.arange(3)))
    theta, generator = objective.theta0, torch.Generator().manual_seed(3)
    v = torch.randn(objective.dim, dtype=F64, generator=generator)
    v = (v / v.norm()).to(torch.complex128)
    at_real = objective.grad(theta.to(torch.complex128))
    torch.testing.assert_close(at_real.real, objective.grad(theta), rtol=1e-9, atol=1e-12)
    assert at_real.imag.abs().max() < 1e-12
    # off the real axis: one derivative, whichever way the difference is taken
    theta = theta + 0.01j
    derivative = objective.grad(theta) @ v
    for h in (1e-4, 1e-4j):
        numerical = (objective.value(theta + h * v) - objective.value(theta - h * v)) / (2 * h)
        torch.testing.assert_close(numerical, derivative, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", WIDER)
def test_width_scales_the_number_of_parameters(kind):
    narrow, wide = (sum(p.numel() for p in f().parameters()) for f in WIDER[kind])
    assert 1.5 * narrow < wide < 4.5 * narrow


def test_resnet_halves_the_image_at_every_stage_but_the_first():
    network, x, sides = resnet18(1 / 16, dtype=F64), images(1), []
    for name, part in network.named_children():
        x = part(x)
        if name.startswith(("stem", "stage")):
            sides.append(x.shape[-1])
    assert sides == [32, 32, 16, 8, 4]


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (lambda: mlp([3072, 200, 200, 10]), 656_810),
        (lambda: conv([32, 32]), 896 + 9_248 + 2_048 * 10 + 10),
        (vgg11, 9_750_922),  # 9,220,480 in convolutions; 2 x 262,656 + 5,130 in linear layers
        (lambda: resnet18(norm="batch"), 11_173_962),  # as counted for ResNet-18 on CIFAR-10
        (lambda: resnet18(norm="group"), 11_173_962),
    ],
)
def test_full_size_networks_have_the_known_number_of_parameters(build, parameters):
    assert sum(p.numel() for p in build().parameters()) == parameters


def test_average_pool_is_torchs():
    x = images(2)[..., :31, :30]  # an odd side loses its last row
    torch.testing.assert_close(
        problems.networks.AveragePool()(x), torch.nn.functional.avg_pool2d(x, 2)
    )


def test_attention_is_torchs():
    ours = problems.vision.Attention(8, 2).double()
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True, dtype=F64)
    with torch.no_grad():
        for mine, his in zip(
            (ours.qkv.weight, ours.qkv.bias, ours.out.weight, ours.out.bias),
            (theirs.in_proj_weight, theirs.in_proj_bias)
            + (theirs.out_proj.weight, theirs.out_proj.bias),
            strict=True,
        ):
            mine.copy_(his)
    x = images(1)[0, :, :5, :8]
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


# -- initialisation ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "std"),
    [
        ("default", 1 / math.sqrt(3 * 400)),
        ("xavier", math.sqrt(2 / (400 + 300))),
        ("he", math.sqrt(2 / 400)),
        ("normal", 1.0),
    ],
)
def test_initialisation_has_the_documented_spread(init, std):
    network = mlp([400, 300, 2], init=init, scale=0.5, dtype=F64)
    weight = network.linear1.weight
    # the standard error of a spread from 120,000 numbers is 0.2 %
    assert weight.std().item() == pytest.approx(0.5 * std, rel=0.01)
    assert abs(weight.mean().item()) < 4 * 0.5 * std / math.sqrt(120_000)
    assert (network.linear1.bias.abs().max() > 0) == (init == "default")


def test_orthogonal_and_identity():
    w = mlp([6, 9, 4], init="orthogonal", dtype=F64).linear1.weight
    torch.testing.assert_close(w.T @ w, torch.eye(6, dtype=F64))
    w = deep_linear([3, 5], init="identity", scale=0.1, dtype=F64).linear1.weight
    torch.testing.assert_close(w, 0.1 * torch.eye(5, 3, dtype=F64))


def test_normalisation_layers_start_neutral():
    network = resnet18(1 / 16, norm="batch")
    layer = network.stem[1]
    assert torch.equal(layer.weight, torch.ones(4)) and torch.equal(layer.bias, torch.zeros(4))
    assert torch.equal(layer.running_mean, torch.zeros(4))
    assert torch.equal(layer.running_var, torch.ones(4))
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("widths", [[4, 6, 5, 3], [3, 3, 4], [2, 7, 7, 7, 2], [5, 1]])
def test_balanced_initialisation_is_balanced(widths):
    weights = list(deep_linear(widths, init="balanced", scale=0.3, dtype=F64).parameters())
    for low, high in zip(weights, weights[1:], strict=False):
        torch.testing.assert_close(high.T @ high, low @ low.T, rtol=0, atol=1e-15)
    assert [tuple(w.shape) for w in weights] == [
        (b, a) for a, b in zip(widths, widths[1:], strict=False)
    ]


def test_balanced_product_does_not_depend_on_the_depth_but_for_the_scale():
    def product(*widths, scale):
        network = deep_linear(widths, init="balanced", scale=scale, dtype=F64)
        return network(torch.eye(widths[0], dtype=F64)).T

    shallow = product(4, 3, scale=1.0)
    torch.testing.assert_close(product(4, 5, 6, 3, scale=0.5), shallow / 8)


def test_layers_have_readable_names():
    assert [n for n, _ in mlp([2, 3, 1]).named_parameters()] == [
        "linear1.weight",
        "linear1.bias",
        "linear2.weight",
        "linear2.bias",
    ]


def test_group_normalisation_keeps_samples_apart_and_batch_normalisation_does_not():
    x = images(4)
    for norm, apart in (("group", True), ("batch", False)):
        network = resnet18(1 / 16, norm=norm, dtype=F64)
        alone = torch.cat([network(x[:2]), network(x[2:])])
        assert torch.allclose(network(x), alone, rtol=1e-10) == apart


@pytest.mark.parametrize(
    ("call", "culprit"),
    [
        (lambda: mlp([3]), "at least two"),
        (lambda: mlp([3, 0, 2]), r"\[3, 0, 2\]"),
        (lambda: mlp([3, 2.5, 2]), "whole numbers"),
        (lambda: mlp([3, 2, 1], "tanhh"), "tanhh"),
        (lambda: mlp([3, 2], init="glorot"), "glorot"),
        (lambda: mlp([3, 2], init="balanced"), "balanced"),
        (lambda: deep_linear([4, 2, 3], init="balanced"), "at least 3"),
        (lambda: conv([8], pooling="mean"), "mean"),
        (lambda: conv([8] * 4, image_size=8), "fewer widths"),
        (lambda: vgg11(0.0), "width"),
        (lambda: vgg11(norm="layer"), "layer"),
        (lambda: resnet18(norm=None), "norm"),
        (lambda: vit(patch=5), "5 pixels"),
        (lambda: vit(heads=0), "heads"),
    ],
)
def test_bad_arguments_are_named(call, culprit):
    with pytest.raises(InputError, match=culprit):
        call()
