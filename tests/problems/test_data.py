"""The loader: real small sets, and fabricated files in the official formats."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from fabricated import idx, labels, pixels, save_cifar

from gdflows.errors import DataError, InputError
from gdflows.problems import Dataset, data, load, text

# -- scikit-learn's sets -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "train", "test", "classes"),
    [
        ("iris", (4,), 120, 30, 3),
        ("breast-cancer", (30,), 456, 113, 2),
        ("wine", (13,), 143, 35, 3),
        ("digits", (1, 8, 8), 1438, 359, 10),
    ],
)
def test_scikit_learns_sets(name, shape, train, test, classes):
    d = load(name, dtype=torch.float64)
    assert d.x_train.shape == (train, *shape) and d.x_test.shape == (test, *shape)
    assert d.x_train.dtype == torch.float64 and d.y_train.dtype == torch.int64
    assert d.y_train.shape == (train,) and d.y_test.shape == (test,)
    assert len(d.classes) == classes
    assert d.y_train.unique().tolist() == list(range(classes))
    assert str(train) in repr(d) and len(repr(d)) < 120


def test_a_third_of_the_wines_is_moved_to_the_next_class():
    plain, moved = load("wine"), load("wine-moved")
    assert torch.equal(plain.x_train, moved.x_train)
    was = torch.cat([plain.y_train, plain.y_test])
    by = (torch.cat([moved.y_train, moved.y_test]) - was) % 3
    assert by.unique().tolist() == [0, 1] and int(by.sum()) == 60  # of 178, 0, 3, 6, …


def test_regression():
    d = load("diabetes", dtype=torch.float64)
    assert d.x_train.shape == (354, 10) and d.y_train.shape == (354, 1) and d.classes == ()
    for t in (d.x_train, d.y_train):
        torch.testing.assert_close(t.mean(0), torch.zeros_like(t[0]), rtol=0, atol=1e-12)
        torch.testing.assert_close(t.std(0, correction=0), torch.ones_like(t[0]))
    raw = load("diabetes", standardise="none", dtype=torch.float64)
    assert 20 < raw.y_train.min() < raw.y_train.max() < 400  # as the authors give it
    by_hand = (raw.y_test - raw.y_train.mean(0)) / raw.y_train.std(0, correction=0)
    torch.testing.assert_close(d.y_test, by_hand)


def test_a_polynomial_to_learn():
    d = load("chebyshev-4", dtype=torch.float64)
    for x, y in ((d.x_train, d.y_train), (d.x_test, d.y_test)):
        torch.testing.assert_close(y, 8 * x**4 - 8 * x**2 + 1)
    assert len(d.x_train) == 20 and len(d.x_test) == 19
    assert not set(d.x_train[:, 0].tolist()) & set(d.x_test[:, 0].tolist())
    with pytest.raises(DataError, match="chebyshev"):
        load("chebyshev-0")


def test_split_is_a_partition_fixed_by_the_seed():
    state = torch.get_rng_state()
    first, again, other = (load("iris", standardise="none", seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.x_train, again.x_train)
    assert not torch.equal(first.x_train, other.x_train)
    sums = [torch.cat([d.x_train, d.x_test]).double().sum(0) for d in (first, other)]
    torch.testing.assert_close(*sums)


def test_standardisation():
    pixel = load("breast-cancer", dtype=torch.float64).x_train
    torch.testing.assert_close(pixel.mean(0), torch.zeros(30).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(pixel.std(0, correction=0), torch.ones(30).double())
    channel = load("digits", dtype=torch.float64).x_train
    assert abs(channel.mean()) < 1e-12 and abs(channel.std(correction=0) - 1) < 1e-12
    raw = load("digits", standardise="none").x_train
    assert raw.min() == 0 and raw.max() == 1
    # the test set is moved and scaled by the training set's numbers
    d, raw = (
        load("iris", dtype=torch.float64),
        load("iris", standardise="none", dtype=torch.float64),
    )
    by_hand = (raw.x_test - raw.x_train.mean(0)) / raw.x_train.std(0, correction=0)
    torch.testing.assert_close(d.x_test, by_hand)


def test_pixels_that_never_vary_become_zero():
    d = load("digits", standardise="pixel")
    constant = load("digits", standardise="none").x_train.std(0) == 0
    assert constant.any()
    assert (d.x_train[:, constant] == 0).all() and torch.isfinite(d.x_test).all()


def test_take():
    d = load("iris")
    few = d.take(7)
    assert torch.equal(few.x_train, d.x_train[:7]) and len(few.y_train) == 7
    assert few.x_test is d.x_test
    with pytest.raises(InputError, match="120 training samples, not n = 121"):
        d.take(121)


# -- CIFAR-10 ----------------------------------------------------------------------------------


def test_cifar10_is_downloaded_verified_and_kept(publish, folder, archive, cifar):
    publish("cifar-10-binary.tar.gz", archive)
    d = load("cifar10", folder=folder, standardise="none")
    x, y = cifar
    torch.testing.assert_close(d.x_train, torch.from_numpy(x[:5000]).float() / 255)
    assert torch.equal(d.y_test, torch.from_numpy(y[5000:]).long())
    assert d.classes[3] == "cat"
    (publish.site / "cifar-10-binary.tar.gz").unlink()
    again = load("cifar10", folder=folder, standardise="none")  # from the folder now
    assert torch.equal(again.x_train, d.x_train)


def test_subsets_are_the_same_from_the_archive_and_from_the_npz(publish, folder, archive, cifar):
    publish("cifar-10-binary.tar.gz", archive)
    y = cifar[1]
    there = folder / "npz"
    there.mkdir()
    save_cifar(there, cifar)
    for name, n in (("cifar10-1k", 1000), ("cifar10-3k", 3000), ("cifar10-5k", 5000)):
        a, b = load(name, folder=folder), load(name, folder=there)
        assert len(a.x_train) == n and len(a.x_test) == 1000
        for part in ("x_train", "y_train", "x_test", "y_test"):
            assert torch.equal(getattr(a, part), getattr(b, part))
    chosen = np.concatenate([y[1000 * i : 1000 * i + 200] for i in range(5)])
    assert load("cifar10-1k", folder=there).y_train.tolist() == chosen.tolist()


def test_environment_variable_names_the_folder(folder, cifar, monkeypatch):
    save_cifar(folder, cifar)
    monkeypatch.setenv("GDFLOWS_DATA", str(folder))
    assert len(load("cifar10-2k").x_train) == 2000


def test_standardised_images(folder, cifar):
    save_cifar(folder, cifar)
    pixel = load("cifar10-1k", folder=folder, dtype=torch.float64).x_train
    torch.testing.assert_close(
        pixel.std(0, correction=0), torch.ones(3, 32, 32).double(), rtol=1e-12, atol=0
    )
    channel = load("cifar10-1k", folder=folder, standardise="channel", dtype=torch.float64).x_train
    torch.testing.assert_close(
        channel.std((0, 2, 3), correction=0), torch.ones(3).double(), rtol=1e-12, atol=0
    )
    assert (pixel - channel).abs().max() > 1e-3


# -- MNIST -------------------------------------------------------------------------------------


def test_mnist_is_read_from_its_four_files(publish, folder):
    arrays = pixels(70, 28, 28), labels(70), pixels(20, 28, 28), labels(20)
    files = [f for f in data.FILES if f.endswith("ubyte.gz")]
    for file, array in zip(files, arrays, strict=True):
        publish(file, idx(array))
    d = load("mnist", folder=folder, standardise="none")
    assert d.x_train.shape == (70, 1, 28, 28) and d.x_test.shape == (20, 1, 28, 28)
    torch.testing.assert_close(d.x_test[:, 0], torch.from_numpy(arrays[2]).float() / 255)
    assert d.y_train.tolist() == arrays[1].tolist()


def test_mnist_subsets_are_the_same_from_the_files_and_from_the_npz(publish, folder):
    x, y = pixels(10_000, 28, 28), labels(10_000)
    publish("t10k-images-idx3-ubyte.gz", idx(x))
    publish("t10k-labels-idx1-ubyte.gz", idx(y))
    there = folder / "npz"
    there.mkdir()
    np.savez(there / "mnist_10k.npz", x=x, y=y)
    a, b = load("mnist-2k", folder=folder), load("mnist-2k", folder=there)
    assert len(a.x_train) == 2000 and len(a.x_test) == 1000
    for part in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.equal(getattr(a, part), getattr(b, part))
    assert a.y_train.tolist() == y[:2000].tolist() and a.y_test.tolist() == y[9000:].tolist()


# -- text --------------------------------------------------------------------------------------


def test_text_is_used_from_the_folder_if_its_sum_is_right(publish, folder):
    publish("tinyshakespeare.txt", b"First Citizen:\n", served=b"not this")
    (folder / "tinyshakespeare.txt").write_bytes(b"First Citizen:\n")
    assert text(folder=folder) == "First Citizen:\n"
    with pytest.raises(DataError, match="hamlet"):
        text("hamlet", folder=folder)


# -- what tells one set from another -------------------------------------------------------------


def by_hand(*arrays):
    """The sum of arrays: of each its dtype and shape, as text, and its bytes in C's order."""
    total = hashlib.sha256()
    for a in arrays:
        total.update(f"{a.dtype.newbyteorder('<').str}{a.shape}".encode() + a.tobytes())
    return total.hexdigest()


def test_a_digest_is_that_of_what_was_read(folder, cifar):
    save_cifar(folder, cifar)
    x, y = cifar
    chosen = np.concatenate([np.arange(1000 * i, 1000 * i + 200) for i in range(5)])
    raw = by_hand(x[chosen], y[chosen], x[5000:], y[5000:])
    assert load("cifar10-1k", folder=folder).digest == raw
    # before it is scaled, so that a machine's rounding does not show
    for options in ({"standardise": "channel"}, {"dtype": torch.float64}):
        assert load("cifar10-1k", folder=folder, **options).digest == raw


def test_digests_are_the_same_everywhere():
    assert load("iris").digest.startswith("e9863169963088e1")
    assert load("digits").digest.startswith("17c08f985b6bec07")
    assert load("iris", seed=1).digest != load("iris").digest


def test_a_part_has_another_digest():
    d = load("iris")
    assert len({d.digest, d.take(7).digest, d.take(8).digest, d.take(8).take(7).digest}) == 4
    assert d.take(7).digest == d.take(7).digest and d.take(120).digest == d.digest


def test_what_was_made_of_a_set_has_the_digest_of_its_own_tensors():
    d = load("iris", dtype=torch.float64)
    other = dataclasses.replace(d, x_train=d.x_train + 1)
    parts = (other.x_train, other.y_train, other.x_test, other.y_test)
    assert other.digest == by_hand(*(t.numpy() for t in parts)) != d.digest
    turned = dataclasses.replace(other, x_train=other.x_train.T.contiguous().T)
    assert not turned.x_train.is_contiguous() and turned.digest == other.digest
    short = Dataset("s", d.x_train.bfloat16(), d.y_train, d.x_test.bfloat16(), d.y_test, d.classes)
    assert len(short.digest) == 64
    assert "_read" not in repr(d) and d.digest not in repr(d)


def test_short_dtypes_are_rounded_after_the_scaling():
    exact = load("breast-cancer", dtype=torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(load("breast-cancer", dtype=dtype).x_train, exact.x_train.to(dtype))
