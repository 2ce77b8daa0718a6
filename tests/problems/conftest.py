"""Fabricated data files, served from this machine; no test needs a network."""

import functools
import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest
from fabricated import labels, pixels

from gdflows.problems import data


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
