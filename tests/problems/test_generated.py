"""The data set and the text that are made on the spot."""

import hashlib

import numpy as np
import torch

import gdflows as gf
from gdflows.problems.generated import gratings, in_words, numerals


def test_the_same_bytes_on_every_machine():
    total = hashlib.sha256(b"".join(a.tobytes() for a in gratings())).hexdigest()
    assert total == "39c5fe93426bbccf901d3d1043d4cb2e4386537f445db1489dd745966ba6512a"


def test_images_are_gratings_at_the_angle_of_their_class():
    """Of each image the largest Fourier coefficient points across its bars."""
    x, y, _, _ = gratings()
    assert x.shape == (1000, 1, 8, 8) and x.dtype == np.uint8
    assert np.bincount(y).tolist() == [100] * 10
    power = np.abs(np.fft.fft2(x[:, 0] - x[:, 0].mean((1, 2), keepdims=True), (32, 32)))
    frequency = np.fft.fftfreq(32)
    i, j = np.unravel_index(power.reshape(1000, -1).argmax(1), (32, 32))
    angle = np.degrees(np.arctan2(frequency[i], frequency[j])) % 180
    off = np.abs((angle - 18 * y + 90) % 180 - 90)
    assert np.median(off) < 6 and (off < 25).mean() > 0.95
    period = 1 / np.hypot(frequency[i], frequency[j])
    assert np.median(np.abs(period - 5)) < 1


def test_loads_without_any_other_package():
    data = gf.problems.load("gratings")
    assert (len(data.x_train), len(data.x_test), len(data.classes)) == (1000, 200, 10)
    assert data.classes[:2] == ("0°", "18°")
    assert abs(float(data.x_train.mean())) < 1e-5 and data.y_train.dtype == torch.int64


def test_the_same_text_on_every_machine():
    made = numerals()
    assert made == gf.problems.text("numerals")
    total = hashlib.sha256(made.encode()).hexdigest()
    assert total == "b81f1a4a809fae76b59c531432f3bdbe7d73508d123b4fe570b573af278fa44e"


def test_numbers_are_read_as_they_are_written():
    """Back from the words by adding up, another way than they were made."""
    small = (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen"
    )
    values = {word: i for i, word in enumerate(small.split())}
    tens = "twenty thirty forty fifty sixty seventy eighty ninety"
    values |= {word: 10 * i for i, word in enumerate(tens.split(), start=2)}

    def read(words):
        total = 0
        for word in words.replace("-", " ").split():
            if word == "thousand":
                total *= 1000
            elif word == "hundred":
                total += 99 * (total % 1000)
            elif word != "and":
                total += values[word]
        return total

    assert [read(in_words(n)) for n in range(1, 10_000)] == list(range(1, 10_000))
    lines = numerals().splitlines()
    assert len(lines) == 8000
    assert all(int(a) == read(b) for a, b in (line.split(" ", 1) for line in lines))


def test_the_text_in_sequences_needs_no_file(tmp_path):
    data = gf.problems.load("numerals-16", folder=tmp_path)
    assert gf.problems.data.at_hand("numerals-16", folder=tmp_path)
    assert data.x_train.shape[1:] == (16,)
    assert torch.equal(data.x_train[0, 1:], data.y_train[0, :-1])
    said = "".join(data.classes[i] for i in data.x_train[:3].flatten())
    assert numerals().startswith(said) and len(data.classes) == int(data.y_train.max()) + 1
