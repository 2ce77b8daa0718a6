"""The loader: real small sets, fabricated files in the official formats, and what goes wrong.

Downloads come from a server on this machine; no test needs a network.
"""

import functools
import gzip
import hashlib
import http.server
import io
import sys
import tarfile
import threading

import numpy as np
import pytest
import torch

from gdflows.errors import DataError, InputError
from gdflows.problems import data, load, text

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def labels(n):
    return RNG.integers(0, 10, n, dtype=np.uint8)


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(header + array.tobytes(), compresslevel=1)


@pytest.fixture(scope="module")
def cifar():
    """Arrays of CIFAR-10's layout, but with 1,000 images a batch."""
    return pixels(6000, 3, 32, 32), labels(6000)


@pytest.fixture(scope="module")
def archive(cifar):
    """The bytes of an archive of those arrays, in the format of the binary version."""
    x, y = cifar
    records = np.concatenate([y[:, None], x.reshape(6000, -1)], axis=1).reshape(6, 1000, -1)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for i, batch in enumerate(records, start=1):
            name = f"data_batch_{i}.bin" if i < 6 else "test_batch.bin"
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = batch.nbytes
            tar.addfile(member, io.BytesIO(batch.tobytes()))
    return buffer.getvalue()


def save_cifar(folder, cifar):
    x, y = cifar
    np.savez(
        folder / "cifar10_5k.npz",
        x_train=x[:5000],
        y_train=y[:5000],
        x_test=x[5000:],
        y_test=y[5000:],
    )


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Serve bytes as one of the pinned files; ``served=`` sends other bytes than were pinned."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=site)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def publish(file, content, served=None):
        (site / file).write_bytes(content if served is None else served)
        url = f"http://127.0.0.1:{server.server_port}/{file}"
        monkeypatch.setitem(data.FILES, file, (url, hashlib.sha256(content).hexdigest()))

    publish.site = site
    yield publish
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_network(monkeypatch):
    """All addresses are of a port of this machine where nobody listens."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for file, (_, sha256) in list(data.FILES.items()):
        monkeypatch.setitem(data.FILES, file, (f"http://127.0.0.1:9/{file}", sha256))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    return path


# -- scikit-learn's sets -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "train", "test", "classes"),
    [
        ("iris", (4,), 120, 30, 3),
        ("breast-cancer", (30,), 456, 113, 2),
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
    x, y = cifar
    np.savez(
        folder / "cifar10_5k.npz",
        x_train=x[:5000],
        y_train=y[:5000],
        x_test=x[5000:],
        y_test=y[5000:],
    )
    monkeypatch.setenv("GDFLOWS_DATA", str(folder))
    assert len(load("cifar10-2k").x_train) == 2000


def test_standardised_images(folder, cifar):
    x, y = cifar
    np.savez(
        folder / "cifar10_5k.npz",
        x_train=x[:5000],
        y_train=y[:5000],
        x_test=x[5000:],
        y_test=y[5000:],
    )
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


# -- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("served", ["truncated", "changed"])
def test_bad_download_is_refused_and_leaves_nothing(publish, folder, archive, served):
    wrong = archive[: len(archive) // 2] if served == "truncated" else archive[:-9] + b"x" * 9
    publish("cifar-10-binary.tar.gz", archive, served=wrong)
    with pytest.raises(DataError, match="cifar-10-binary.tar.gz is missing, and downloading"):
        load("cifar10", folder=folder)
    assert list(folder.iterdir()) == []
    publish("cifar-10-binary.tar.gz", archive)  # and the next attempt is not in its way
    assert len(load("cifar10", folder=folder).x_train) == 5000


def test_damaged_file_is_downloaded_again(publish, folder, archive):
    publish("cifar-10-binary.tar.gz", archive)
    (folder / "cifar-10-binary.tar.gz").write_bytes(archive[:1000])
    assert len(load("cifar10", folder=folder).x_train) == 5000


def test_damaged_file_without_a_network_is_named(no_network, folder):
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"half an image")
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.gz is damaged .*SHA-256"):
        load("mnist-1k", folder=folder)


def test_missing_network_names_file_folder_and_remedy(no_network, folder):
    with pytest.raises(DataError) as caught:
        load("cifar10", folder=folder)
    for word in (str(folder), "cifar-10-binary.tar.gz", "http://127.0.0.1:9", "by hand"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "npz", "remedy"),
    [("mnist", "mnist_10k.npz", "'mnist-1k'"), ("cifar10", "cifar10_5k.npz", "'cifar10-5k'")],
)
def test_whole_set_without_a_network_points_to_what_the_npz_can_do(
    no_network, folder, name, npz, remedy
):
    (folder / npz).touch()
    with pytest.raises(DataError, match=f"{npz}.*{remedy}"):
        load(name, folder=folder)


def good_mnist():
    return {"x": pixels(10_000, 28, 28), "y": labels(10_000)}


@pytest.mark.parametrize(
    ("spoil", "culprit"),
    [
        (lambda a: a.pop("y"), "y is not a file"),
        (lambda a: a.update(x=a["x"][:9_999]), r"x is uint8 \(9999, 28, 28\)"),
        (lambda a: a.update(x=a["x"] / 255), "x is float64"),
        (lambda a: a.update(y=a["y"] + 1), "class 10"),
    ],
)
def test_wrong_npz_is_named(folder, spoil, culprit):
    arrays = good_mnist()
    spoil(arrays)
    np.savez(folder / "mnist_10k.npz", **arrays)
    with pytest.raises(DataError, match=f"mnist_10k.npz is damaged .*{culprit}"):
        load("mnist-1k", folder=folder)


@pytest.mark.parametrize("keep", [0, 1000, -1000])
def test_truncated_npz_is_named(folder, keep):
    path = folder / "mnist_10k.npz"
    np.savez(path, **good_mnist())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="mnist_10k.npz is damaged .*Delete it or replace it"):
        load("mnist-1k", folder=folder)


def test_files_with_the_right_sum_and_the_wrong_content_are_named(publish, folder):
    publish("t10k-images-idx3-ubyte.gz", gzip.compress(b"\0\0\x08\x03nothing"))
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte.gz is damaged"):
        load("mnist-1k", folder=folder)
    publish("cifar-10-binary.tar.gz", b"no archive")
    with pytest.raises(DataError, match="cifar-10-binary.tar.gz is damaged"):
        load("cifar10-1k", folder=folder)


@pytest.mark.parametrize("name", ["cifar", "mnist-0k", "mnist-10k", "cifar10-50k", "mnist-1", ""])
def test_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(DataError, match=f"no data set '{name}'.*iris.*cifar10-49k"):
        load(name)


@pytest.mark.parametrize(("module", "name"), [("sklearn.datasets", "iris"), ("pooch", "mnist-1k")])
def test_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, module, name):
    monkeypatch.delenv("GDFLOWS_DATA", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=r"pip install 'gdflows\[data\]'"):
        load(name)


def test_bad_options_are_named():
    with pytest.raises(InputError, match="'pixels'"):
        load("iris", standardise="pixels")
    with pytest.raises(InputError, match="int64"):
        load("iris", dtype=torch.int64)


def test_pinned_sums_are_sums():
    for url, sha256 in data.FILES.values():
        assert url.startswith("https://") and len(bytes.fromhex(sha256)) == 32
