"""Layers and losses whose kernels have no second derivative, or an involved one."""

import torch
import torch.utils.checkpoint
from torch import nn

from hostile.entry import (
    CE,
    F64,
    MSE,
    UNASKED,
    Around,
    batch,
    either,
    inputs,
    labels,
    net,
    refused,
    right,
    right_or_refused,
)

# -- attention and recurrence ----------------------------------------------------------------------


def sequences():
    return torch.randn(4, 3, 2, dtype=F64), labels(4)


@right("multi-head attention")
def attention():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(2, 1, batch_first=True, dtype=F64)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0].mean(1).tanh()

    return Attending(), CE, sequences()


@right("scaled dot-product attention, causal")
def causal_attention():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(2, 6, dtype=F64)

        def forward(self, x):
            q, k, v = (part.unsqueeze(1) for part in self.qkv(x).chunk(3, -1))
            out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return out.squeeze(1).mean(1)

    return Attending(), CE, sequences()


@right_or_refused(
    "attention for which the user has chosen a kernel without a second derivative",
    "attention|second",
    by="hvp",
    rtol=1e-4,
    orders=2,
)
def chosen_kernel():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(2, 6, dtype=F64)

        def forward(self, x):
            q, k, v = (part.unsqueeze(1) for part in self.qkv(x).chunk(3, -1))
            with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
                out = nn.functional.scaled_dot_product_attention(q, k, v)
            return out.squeeze(1).mean(1)

    return Attending(), CE, sequences()


def transformer(**settings):
    layer = nn.TransformerEncoderLayer(2, 1, 3, batch_first=True, dtype=F64, **settings)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(6, 2, dtype=F64))


@right("a layer of a transformer")
def transformer_layer():
    return transformer(dropout=0.0), CE, sequences()


@right("a layer of a transformer in evaluation mode, with its fast path")
def transformer_eval():
    return transformer(dropout=0.1, activation="gelu").eval(), CE, sequences()


@right("an LSTM")
def lstm():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTM(2, 2, batch_first=True, dtype=F64)

        def forward(self, x):
            return self.cell(x)[0][:, -1]

    return Recurrent(), CE, sequences()


@right("a GRU in both directions")
def gru():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRU(2, 1, batch_first=True, bidirectional=True, dtype=F64)

        def forward(self, x):
            return self.cell(x)[0].mean(1)

    return Recurrent(), CE, sequences()


# -- others ----------------------------------------------------------------------------------------


@right("convolutions with pooling of the largest", orders=2)
def max_pool():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(),
                          nn.Linear(8, 2)).to(F64)  # fmt: skip
    return model, CE, (torch.randn(6, 1, 4, 4, dtype=F64), labels(6))


@right("strided and transposed convolutions")
def convolutions():
    model = nn.Sequential(nn.Conv1d(1, 2, 3, stride=2), nn.SiLU(), nn.ConvTranspose1d(2, 1, 3),
                          nn.Flatten(), nn.Linear(5, 2)).to(F64)  # fmt: skip
    return model, CE, (torch.randn(6, 1, 8, dtype=F64), labels(6))


ACTIVATIONS = [
    nn.GELU(), nn.SiLU(), nn.Softplus(), nn.Mish(), nn.ELU(), nn.CELU(), nn.LogSigmoid(),
    nn.Softsign(), nn.Tanhshrink(), nn.GELU("tanh"),
]  # fmt: skip


@right("activations of all smooth kinds")
def activations():
    class Many(Around):
        def forward(self, x):
            h = self.net[0](x)
            return self.net[2](sum(f(h) for f in ACTIVATIONS))

    return Many(), CE, batch()


@right("activations with kinks and parameters", orders=2)
def kinked_activations():
    model = nn.Sequential(nn.Linear(2, 4), nn.PReLU(), nn.GLU(), nn.Linear(2, 2), nn.Hardswish())
    return model.to(F64), CE, batch()


@right("losses of torch: smooth L1, Huber, BCE, KL, Gaussian and Poisson likelihood", orders=2)
def torchs_losses():
    f = nn.functional

    def loss(o, y):
        p = o.sigmoid()
        return (
            f.smooth_l1_loss(o, y) + f.huber_loss(o, y, delta=0.3) + f.binary_cross_entropy(p, y)
            + f.binary_cross_entropy_with_logits(o, y) + f.soft_margin_loss(o, y.sign())
            + f.kl_div(f.log_softmax(o, 1), f.softmax(y, 1), reduction="batchmean")
            + f.gaussian_nll_loss(o, y, p) + f.poisson_nll_loss(o, y)
        )  # fmt: skip

    return net(), loss, (inputs(), torch.rand(12, 2, dtype=F64))


@right("smoothed labels, and class weights")
def smoothed_labels():
    weight = torch.tensor([1.0, 3.0], dtype=F64)
    return net(), nn.CrossEntropyLoss(weight=weight, label_smoothing=0.2), batch()


@right("a determinant and a solve")
def linear_algebra():
    def loss(o, y):
        c = o.T @ o / len(o) + torch.eye(2, dtype=F64)
        return torch.logdet(c) + torch.linalg.solve(c, y.mean(0)) @ y.mean(0)

    return net(), loss, (inputs(), inputs())


@right("eigenvalues, a Cholesky factor and an exponential of a matrix")
def spectral_loss():
    def loss(o, y):
        c = o.T @ o / len(o) + torch.diag(torch.tensor([1.0, 2.0], dtype=F64))
        root = torch.linalg.cholesky(c)
        return torch.linalg.eigvalsh(c)[-1] + root.sum() + torch.linalg.matrix_exp(-c).sum()

    return net(), loss, batch()


@right_or_refused(
    "distances between outputs, of which one kernel has no second derivative",
    "pdist|second",
    by="hvp",
    optimizer=either("pdist|second"),
    rtol=1e-4,
    orders=2,
)
def distances():
    def loss(o, y):
        return torch.nn.functional.pdist(o).mean() + torch.cdist(o[:3], o[3:] + 1).square().mean()

    return net(), loss, batch(6)


@right_or_refused(
    "CTC, whose kernel has no second derivative",
    "second|derivative|ctc|CTC",
    by="hvp",
    optimizer=either("second|derivative"),
    rtol=1e-4,
    orders=2,
)
def ctc():
    def loss(o, y):
        logs = o.view(6, 2, 2).log_softmax(2)
        lengths = torch.tensor([6, 6]), torch.tensor([2, 2])
        return nn.functional.ctc_loss(logs, torch.ones(2, 2, dtype=torch.long), *lengths)

    return net(), loss, batch()


@right("sampling of an image along a grid, and resizing")
def grid_sample():
    class Warped(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(0.1 * torch.randn(6, dtype=F64))

        def forward(self, x):
            theta = (self.shift + torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=F64)).view(1, 2, 3)
            grid = nn.functional.affine_grid(theta.expand(len(x), 2, 3), x.shape, True)
            out = nn.functional.grid_sample(x, grid, mode="bicubic", align_corners=True)
            return nn.functional.interpolate(out, scale_factor=0.5, mode="bilinear").mean((1, 3))

    return Warped(), CE, (torch.randn(4, 1, 4, 4, dtype=F64), labels(4))


@right("sorting and the k largest", orders=2)
def sorting():
    def loss(o, y):
        return o.sort(0).values[:3].square().sum() + o.topk(1).values.exp().mean() + o.amax()

    return net(), loss, batch()


@right("loops and branches that depend on values")
def branches():
    class Branching(Around):
        def forward(self, x):
            rows = [self.net(row) if row.sum() > 0 else self.net(row * 2) ** 2 for row in x]
            return torch.stack(rows)

    return Branching(), CE, batch(6)


@right("an equilibrium layer that iterates until it has converged")
def equilibrium():
    class Equilibrium(Around):
        def forward(self, x):
            z = torch.zeros(len(x), 3, dtype=F64)
            for _ in range(60):
                z = 0.3 * torch.tanh(z + self.net[0](x))
            return self.net[2](z)

    return Equilibrium(), MSE, (inputs(4), inputs(4))


@refused(
    "a kernel without any derivative by the parameters' graph: argmax",
    "graph|detach|gradient|constant|depend",
    optimizer=UNASKED,
)
def argmax():
    return net(), lambda o, y: (o.argmax(1).to(F64) - y).square().mean(), batch()
