"""The callback in Lightning's own Trainer."""

import warnings

import lightning.pytorch as L
import pytest
import torch

import gdflows as gf
from gdflows.adapters.lightning import SharpnessCallback
from gdflows.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning has advice on loaders and workers
LOSS = torch.nn.MSELoss()


class Regression(L.LightningModule):
    def __init__(self, optimizers=1):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        )
        self.optimizers_wanted = optimizers
        self.automatic_optimization = optimizers == 1

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        x, y = batch
        return LOSS(self(x), y)

    def configure_optimizers(self):
        made = [torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)]
        return made * self.optimizers_wanted


def data():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    return x, x[:, :1] ** 2


def train(callback, folder, *, epochs=3, module=None, checkpoint=None, **settings):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=10)
    trainer = L.Trainer(
        max_epochs=epochs, callbacks=[callback], accelerator="cpu", default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, logger=False,
        enable_checkpointing=False, **settings,
    )  # fmt: skip
    module = module or Regression()
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return trainer, module


def test_it_sees_the_sharpness_in_units_of_the_edge(tmp_path):
    watch = SharpnessCallback(LOSS, data(), every=4)
    trainer, module = train(watch, tmp_path)
    history = watch.monitor.history
    assert list(history.step) == [4, 8, 12]
    E = gf.Objective.from_module(module, LOSS, data())
    sharpness = float(gf.curvature.top_eigenpairs(E, E.theta0, tol=1e-8).values[0])
    assert history.ratio.iloc[-1] == pytest.approx(0.1 * sharpness / 3.8, rel=0.05)
    assert float(trainer.callback_metrics["sharpness/ratio"]) == pytest.approx(
        history.ratio.iloc[-1], rel=1e-6
    )


def test_training_is_left_as_it_was(tmp_path):
    watched = train(SharpnessCallback(LOSS, data(), every=1), tmp_path)[1]
    alone = train(L.Callback(), tmp_path)[1]
    for a, b in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)


def test_accumulated_gradients_count_once(tmp_path):
    watch = SharpnessCallback(LOSS, data(), every=1)
    train(watch, tmp_path, accumulate_grad_batches=2)
    assert list(watch.monitor.history.step) == [1, 2, 3, 4, 5, 6]


def test_it_goes_on_from_a_checkpoint(tmp_path):
    whole = SharpnessCallback(LOSS, data(), every=2)
    train(whole, tmp_path, epochs=4)
    first = SharpnessCallback(LOSS, data(), every=2)
    trainer, _ = train(first, tmp_path, epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = SharpnessCallback(LOSS, data(), every=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(second, tmp_path, epochs=4, checkpoint=tmp_path / "half.ckpt")
    assert second.monitor.history.equals(whole.monitor.history)


def test_two_optimisers_have_no_one_edge(tmp_path):
    with pytest.raises(InputError, match="2 optimisers"):
        train(SharpnessCallback(LOSS, data()), tmp_path, module=Regression(optimizers=2))
