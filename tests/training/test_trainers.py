"""DAL, CDAT and AdaEoS inside Lightning, transformers and accelerate, by the recipes."""

import accelerate
import lightning.pytorch as L
import pytest
import torch
import transformers

from gdflows.adapters.huggingface import ClosureTrainer, SharpnessCallback
from gdflows.errors import InputError
from gdflows.optim import CDAT, DAL, AdaEoS

pytestmark = pytest.mark.filterwarnings("ignore")  # all three have advice
LOSS = torch.nn.functional.mse_loss
MAKERS = {
    "DAL": lambda p, **k: DAL(p, scale=1.0, **k),
    "CDAT": CDAT,
    "AdaEoS": AdaEoS,
    "AdaEoS-free": lambda p, **k: AdaEoS(p, "schedule-free", **k),
}
EVERY = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def data():
    x = torch.randn(48, 3, generator=torch.Generator().manual_seed(1))
    return x, x[:, :1] ** 2


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def by_hand(make, parts):
    """The same training without a trainer: batches of 16, in so many microbatches."""
    model = net()
    optimizer = make(model.parameters())
    for x, y in zip(*(part.split(16) for part in data()), strict=True):
        pairs = zip(x.chunk(parts), y.chunk(parts), strict=True)
        optimizer.step([lambda a=a, b=b: LOSS(model(a), b) for a, b in pairs])
    return flat(model)


# -- Lightning -------------------------------------------------------------------------------------


class Module(L.LightningModule):
    def __init__(self, make, manual, parts=1):
        super().__init__()
        self.net, self.make, self.parts = net(), make, parts
        self.automatic_optimization = not manual

    def training_step(self, batch, _):
        x, y = batch
        if self.automatic_optimization:
            return LOSS(self.net(x), y)
        if self.parts == 1:
            self.optimizers().step(lambda: LOSS(self.net(x), y))
        else:
            pairs = list(zip(x.chunk(self.parts), y.chunk(self.parts), strict=True))
            self.optimizers().step(
                lambda: [lambda a=a, b=b: LOSS(self.net(a), b) for a, b in pairs]
            )

    def configure_optimizers(self):
        return self.make(self.net.parameters())


def fit(module, folder, checkpoint=None, epochs=1):
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=16)
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return trainer


@EVERY
@pytest.mark.parametrize("parts", [1, 2])
def test_lightning_s_manual_optimisation(make, parts, tmp_path):
    module = Module(make, manual=True, parts=parts)
    trainer = fit(module, tmp_path)
    assert torch.equal(flat(module.net), by_hand(make, parts))
    assert trainer.global_step == 3


@EVERY
def test_lightning_s_automatic_optimisation_is_named(make, tmp_path):
    module = Module(make, manual=False)
    before = flat(module.net)
    with pytest.raises(InputError, match="automatic_optimization = False"):
        fit(module, tmp_path)
    assert torch.equal(flat(module.net), before)


def test_lightning_s_checkpoints_hold_the_optimiser(tmp_path):
    whole = Module(AdaEoS, manual=True)
    fit(whole, tmp_path, epochs=4)
    first = Module(AdaEoS, manual=True)
    fit(first, tmp_path, epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    second = Module(AdaEoS, manual=True)
    fit(second, tmp_path, tmp_path / "half.ckpt", epochs=4)
    assert torch.equal(flat(second.net), flat(whole.net))
    other = Module(lambda p: AdaEoS(p, rho=0.5), manual=True)
    with pytest.raises(InputError, match="rho is 0.8 there, 0.5 here"):
        fit(other, tmp_path, tmp_path / "half.ckpt", epochs=4)


# -- accelerate ------------------------------------------------------------------------------------


def accelerator(steps=1):
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()
    return accelerate.Accelerator(cpu=True, gradient_accumulation_steps=steps)


@EVERY
@pytest.mark.parametrize("parts", [1, 2])
def test_accelerate(make, parts):
    acc, model = accelerator(), net()
    model, optimizer = acc.prepare(model, make(model.parameters()))
    for x, y in zip(*(part.split(16) for part in data()), strict=True):
        pairs = zip(x.chunk(parts), y.chunk(parts), strict=True)
        optimizer.step([lambda a=a, b=b: LOSS(model(a), b) for a, b in pairs])
        optimizer.zero_grad()
    assert torch.equal(flat(model), by_hand(make, parts))


def test_microbatches_that_accelerate_would_drop_are_named():
    acc, model = accelerator(2), net()
    model, optimizer = acc.prepare(model, DAL(model.parameters()))
    before, (x, y) = flat(model), data()
    with pytest.raises(InputError, match="gradient_accumulation_steps=2 accelerate drops"):
        for _ in range(2):
            with acc.accumulate(model):
                optimizer.step(lambda: LOSS(model(x), y))
    assert torch.equal(flat(model), before)
    DAL(model.parameters()).step(lambda: LOSS(model(x), y))  # one that it does not hold


# -- transformers ----------------------------------------------------------------------------------


def tiny():
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def rows():
    ids = torch.randint(11, (12, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in ids]


def arguments(folder, **settings):
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()
    return transformers.TrainingArguments(
        output_dir=str(folder),
        **{
            "max_steps": 3, "per_device_train_batch_size": 4, "lr_scheduler_type": "constant",
            "use_cpu": True, "report_to": [], "save_strategy": "no", "seed": 0,
            "disable_tqdm": True, "logging_strategy": "no", "max_grad_norm": 0.0,
        } | settings,
    )  # fmt: skip


@EVERY
@pytest.mark.parametrize("parts", [1, 2])
def test_transformers(make, parts, tmp_path):
    """Against the same batches by hand, in one piece, with transformers' count of labels."""
    seen, settled = [], {} if make is MAKERS["DAL"] else {"eps": 1e-3}  # Adam divides by roundings

    class Watched(ClosureTrainer):
        def training_step(self, model, inputs, *args):
            seen.append(inputs["input_ids"].clone())
            return super().training_step(model, inputs, *args)

    model = tiny()
    settings = arguments(
        tmp_path, per_device_train_batch_size=4 // parts, gradient_accumulation_steps=parts
    )
    trainer = Watched(
        model,
        settings,
        train_dataset=rows(),
        optimizers=(make(model.parameters(), **settled), None),
    )
    loss = trainer.train().training_loss
    other, losses = tiny().train(), []
    optimizer = make(other.parameters(), **settled)
    batches = [torch.cat(seen[k : k + parts]) for k in range(0, 3 * parts, parts)]
    for ids in batches:
        counted = {"labels": ids, "num_items_in_batch": torch.tensor(ids.numel())}
        losses.append(
            float(optimizer.step(lambda ids=ids, c=counted: other(input_ids=ids, **c).loss))
        )
    torch.testing.assert_close(flat(model), flat(other), rtol=1e-3, atol=2e-5)
    assert loss == pytest.approx(sum(losses) / 3, rel=1e-4)


def test_transformers_clips_by_the_optimiser_s_max_norm(tmp_path):
    ends = []
    for most, own in ((1e-3, None), (0.0, 1e-3), (0.0, None)):
        model = tiny()
        ClosureTrainer(
            model, arguments(tmp_path, max_grad_norm=most), train_dataset=rows(),
            optimizers=(DAL(model.parameters(), max_norm=own), None),
        ).train()  # fmt: skip
        ends.append(flat(model))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_the_monitor_goes_with_it(tmp_path):
    model = tiny()
    ids = torch.stack([row["input_ids"] for row in rows()])
    watch = SharpnessCallback({"input_ids": ids, "labels": ids}, every=1)
    ClosureTrainer(
        model, arguments(tmp_path, max_steps=12), train_dataset=rows(), callbacks=[watch],
        optimizers=(AdaEoS(model.parameters()), None),
    ).train()  # fmt: skip
    history = watch.monitor.history
    assert len(history) == 12
    assert 0.2 < history.ratio.iloc[-1] < 2


def test_transformers_own_trainer_is_named(tmp_path):
    model = tiny()
    before = flat(model)
    with pytest.raises(InputError, match="needs a closure.*recipes"):
        transformers.Trainer(
            model, arguments(tmp_path), train_dataset=rows(),
            optimizers=(AdaEoS(model.parameters()), None),
        ).train()  # fmt: skip
    assert torch.equal(flat(model), before)
    with pytest.raises(InputError, match="ClosureTrainer needs an optimiser of gdflows.optim"):
        ClosureTrainer(model, arguments(tmp_path), train_dataset=rows())
