"""What goes wrong with data: networks, disks, folders, packages, arguments; files are next door."""

import errno
import sys

import numpy as np
import pytest
import torch

from gdflows.errors import DataError, InputError
from gdflows.problems import Dataset, data, load, text

# -- downloads -----------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Make room on the disk"),
        (errno.EDQUOT, "Make room on the disk"),
        (errno.EACCES, "writable"),
        (errno.EROFS, "writable"),
    ],
)
def test_a_full_or_closed_disk_is_not_told_as_a_missing_network(
    publish, folder, archive, monkeypatch, number, remedy
):
    import pooch

    def retrieve(*_, **__):
        raise OSError(number, "the disk says no")

    publish("cifar-10-binary.tar.gz", archive)
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(DataError, match=f"the disk says no.*{remedy}") as caught:
        load("cifar10", folder=folder)
    assert "network" not in str(caught.value)


def test_a_file_that_is_there_needs_no_pooch(publish, folder, monkeypatch):
    publish("tinyshakespeare.txt", b"First Citizen:\n")
    (folder / "tinyshakespeare.txt").write_bytes(b"First Citizen:\n")
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert text(folder=folder) == "First Citizen:\n"


# -- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["argument", "environment"])
@pytest.mark.parametrize("what", ["does not exist", "is a file"])
def test_a_folder_that_is_none_is_named_and_not_made(tmp_path, monkeypatch, by, what):
    wrong = tmp_path / "typed"
    if what == "is a file":
        wrong.touch()
    there = sorted(tmp_path.iterdir())
    if by == "environment":
        monkeypatch.setenv("GDFLOWS_DATA", str(wrong))
        arguments = {}
    else:
        arguments = {"folder": wrong}
    words = f"{'GDFLOWS_DATA' if by == 'environment' else 'folder='} names {wrong}, which {what}"
    for name in ("mnist-1k", "cifar10", "shakespeare-8"):
        with pytest.raises(DataError, match=words):
            load(name, **arguments)
        with pytest.raises(DataError, match=words):
            data.at_hand(name, **arguments)
    assert sorted(tmp_path.iterdir()) == there


def test_a_mistyped_folder_is_told_where_it_is_not_needed(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load("iris", folder=tmp_path / "typed")
    with pytest.raises(InputError, match="folder must be a path"):
        load("iris", folder=5)


def test_what_is_at_hand(folder, publish):
    assert data.at_hand("digits")
    assert not any(data.at_hand(n, folder=folder) for n in ("mnist", "mnist-1k", "shakespeare-8"))
    (folder / "cifar10_5k.npz").touch()  # damaged, but there
    assert data.at_hand("cifar10-5k", folder=folder)
    assert not data.at_hand("cifar10-6k", folder=folder)
    (folder / "t10k-images-idx3-ubyte.gz").touch()
    assert not data.at_hand("mnist-1k", folder=folder)
    (folder / "t10k-labels-idx1-ubyte.gz").touch()
    assert data.at_hand("mnist-1k", folder=folder)
    with pytest.raises(DataError, match="no data set 'mnist-12k'"):
        data.at_hand("mnist-12k", folder=folder)


# -- packages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "name"), [("sklearn.datasets", "iris"), ("pooch", "mnist-1k")])
def test_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, module, name):
    monkeypatch.delenv("GDFLOWS_DATA", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=r"not installed: pip install 'gdflows\[data\]'"):
        load(name)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ImportError("libgomp.so.1: cannot open shared object file"),
        ModuleNotFoundError("No module named 'joblib'", name="joblib"),
        ValueError("numpy.dtype size changed"),
    ],
    ids=["disk", "library", "its own peer", "versions"],
)
def test_a_package_that_fails_is_not_told_as_one_that_is_missing(monkeypatch, error):
    class Broken:
        def find_spec(self, name, *_):
            if name == "sklearn":
                raise error

    for module in [m for m in sys.modules if m.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(DataError, match="scikit-learn, which is installed but cannot") as caught:
        load("iris")
    assert str(error) in str(caught.value) and "not installed" not in str(caught.value)


def test_a_damaged_scikit_learn_is_named(monkeypatch):
    import sklearn.datasets

    def load_digits():
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")

    monkeypatch.setattr(sklearn.datasets, "load_digits", load_digits)
    with pytest.raises(DataError, match="own files of 'digits'.*Compressed.*Install it anew"):
        load("digits")


# -- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar", "mnist-0k", "mnist-10k", "cifar10-50k", "mnist-1", ""])
def test_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(DataError, match=f"no data set '{name}'.*iris.*cifar10-49k"):
        load(name)


def test_bad_options_are_named():
    with pytest.raises(InputError, match="'pixels'"):
        load("iris", standardise="pixels")
    with pytest.raises(InputError, match="int64"):
        load("iris", dtype=torch.int64)
    with pytest.raises(InputError, match="'float32'"):
        load("iris", dtype="float32")
    with pytest.raises(InputError, match="seed must be .* 1.5"):
        load("iris", seed=1.5)
    with pytest.raises(InputError, match="known by its name.* 7"):
        load(7)


def test_pinned_sums_are_sums():
    for url, sha256 in data.FILES.values():
        assert url.startswith("https://") and len(bytes.fromhex(sha256)) == 32


# -- a set of one's own --------------------------------------------------------------------------


def own(**changes):
    parts = {
        "name": "own", "x_train": torch.zeros(4, 3), "y_train": torch.tensor([0, 1, 1, 0]),
        "x_test": torch.zeros(2, 3), "y_test": torch.tensor([0, 1]), "classes": ("a", "b"),
    }  # fmt: skip
    return Dataset(**parts | changes)


NAN = torch.zeros(4, 3).index_fill(0, torch.tensor(2), float("nan"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.zeros((4, 3))}, "x_train is a ndarray.*torch.as_tensor"),
        ({"x_train": NAN}, "x_train holds .*NaN, first in sample 2"),
        ({"x_test": torch.full((2, 3), torch.inf)}, "x_test holds infinite"),
        ({"x_train": torch.zeros(3, 3)}, "x_train has 3 samples and y_train 4"),
        ({"x_train": torch.zeros(4, 2)}, r"x_train is .* \(2,\).*x_test .* \(3,\)"),
        ({"x_train": torch.zeros(4, 3).double()}, "float64 .*float32"),
        ({"x_train": torch.zeros(4, 3, dtype=torch.uint8)}, "x_train is torch.uint8: convert"),
        ({"x_train": torch.zeros(4, 3, dtype=torch.complex64)}, "x_train is torch.complex64"),
        ({"x_train": torch.tensor(1.0)}, "x_train is a single number"),
        ({"y_train": torch.tensor([0, 1, 2, 0])}, "y_train holds .* 0 to 2.* 2 classes"),
        ({"y_test": torch.tensor([0, -100])}, "y_test holds .* -100 to 0"),
        ({"y_train": torch.tensor([1, 1, 0, 0]) > 0}, "y_train is torch.bool"),
        ({"y_train": torch.tensor([0.0, torch.nan, 0, 0])}, "y_train holds .*sample 1"),
        ({"y_train": torch.zeros(4)}, "y_train is torch.float32"),
        ({"classes": 2}, "classes must be a tuple of names, got 2"),
        ({"x_train": torch.zeros(0, 3), "y_train": torch.zeros(0).long()}, "no training samples"),
    ],
)
def test_what_cannot_be_a_data_set_is_refused(changes, words):
    with pytest.raises(InputError, match=f"own.*{words}"):
        own(**changes)


@pytest.mark.parametrize("n", [0, 5, 2.0, True, "2"])
def test_take_refuses_other_numbers(n):
    with pytest.raises(InputError, match="n "):
        own().take(n)
