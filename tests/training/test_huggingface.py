"""The callback in the Trainer of transformers, on a GPT-2 of a few thousand parameters."""

import pytest
import torch
import transformers

import gdflows as gf
from gdflows.adapters.huggingface import SharpnessCallback
from gdflows.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers have their own


def tiny():
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def batch():
    ids = torch.randint(11, (12, 8), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids.clone()}


def train(callbacks, folder, **settings):
    model, whole = tiny(), batch()
    rows = [{name: part[i] for name, part in whole.items()} for i in range(12)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=6, per_device_train_batch_size=4, learning_rate=1e-2,
        lr_scheduler_type="constant", use_cpu=True, report_to=[], save_strategy="no", seed=0,
        disable_tqdm=True, logging_strategy="no", **settings,
    )  # fmt: skip
    transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, callbacks=callbacks
    ).train()
    return model


def test_it_sees_the_preconditioned_sharpness_of_the_model_s_own_loss(tmp_path):
    watch = SharpnessCallback(batch(), every=2, tol=1e-3)
    model = train([watch], tmp_path)
    history = watch.monitor.history
    assert list(history.step) == [2, 4, 6]
    edge = gf.optim.thresholds.adam(0.9, 6)
    assert history.edge.iloc[-1] == pytest.approx(edge)
    # Against a dense Hessian of the model's own loss.
    optimizer = watch.monitor.optimizer
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    parameters = dict(model.named_parameters())
    scale = gf.optim.preconditioner(optimizer, [parameters[n] for n in names]).sqrt()

    def loss(theta):
        parts = theta.split([parameters[n].numel() for n in names])
        named = {n: p.view_as(parameters[n]) for n, p in zip(names, parts, strict=True)}
        return torch.func.functional_call(model, named, (), batch())["loss"]

    theta = torch.cat([parameters[n].detach().flatten() for n in names])
    assert history.loss.iloc[-1] == pytest.approx(float(loss(theta)), rel=1e-5)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hessian = gf.Objective(loss, len(theta)).hessian(theta)
    top = torch.linalg.eigvalsh(scale[:, None] * hessian * scale)[-1]
    assert history.h_lambda.iloc[-1] == pytest.approx(float(top), rel=2e-3)


def test_training_is_left_as_it_was(tmp_path):
    watched, alone = train([SharpnessCallback(batch(), every=1)], tmp_path), train([], tmp_path)
    for a, b in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)


def test_in_chunks_it_is_the_same(tmp_path):
    whole, parts = SharpnessCallback(batch(), every=3), SharpnessCallback(batch(), every=3, chunk=4)
    train([whole, parts], tmp_path)
    for column in ("loss", "h_lambda"):
        a, b = (w.monitor.history[column] for w in (whole, parts))
        assert list(a) == pytest.approx(list(b), rel=1e-3)


def test_batches_that_cannot_be_used():
    with pytest.raises(InputError, match="no 'labels'"):
        SharpnessCallback({"input_ids": torch.zeros(2, 3)})
    with pytest.raises(InputError, match="different lengths"):
        SharpnessCallback({"input_ids": torch.zeros(2, 3), "labels": torch.zeros(3)})
