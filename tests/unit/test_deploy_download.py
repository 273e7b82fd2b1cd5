"""Fetching files from a server on loopback: progress, connections that break off, checksums, what goes wrong."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import numpy as np
import pytest
from rich.console import Console

from contract.datasets import SOURCES, load
from contract.datasets.info import Archive
from contract.errors import ConfigurationError, EnvironmentFaultError
from deploy import data_console, download
from tests.unit.test_contract_dataset_files import fashion, officially

BLOB = np.random.default_rng(5).bytes(300_000)


class Serving:
    """What the server has and does.

    Attributes:
        files: Content by path.
        breaks: Bytes of the body after which each of the next answers breaks off.
        ranges: Whether it goes on where it is asked to.
        asked: `Range` of each request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.ranges = True
        self.status = 200
        self.asked: list[str | None] = []
        self.address = ""


@contextmanager
def serving(state: Serving) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.headers.get("Range"))
            blob = state.files.get(self.path)
            if blob is None or state.status != 200:
                self.send_error(404 if blob is None else state.status)
                return
            at = int(self.headers.get("Range", "bytes=0-")[6:-1]) if state.ranges else 0
            if at >= len(blob):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(blob)}")
                self.end_headers()
                return
            self.send_response(206 if at else 200)
            self.send_header("Content-Length", str(len(blob) - at))
            self.send_header("ETag", f'"{hashlib.md5(blob).hexdigest()}"')
            self.end_headers()
            self.wfile.write(blob[at : at + state.breaks.pop(0)] if state.breaks else blob[at:])

        def log_message(self, *_words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def state(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_S", 0.01)
    found = Serving()
    found.files["/blob.bin"] = BLOB
    with serving(found):
        yield found


def archive(state, **checksum):
    known = checksum or {"md5": hashlib.md5(BLOB).hexdigest()}
    return Archive(path="some/blob.bin", url=f"{state.address}/blob.bin", **known)


def fetched(state, folder, told=None, **checksum):
    target = folder / "some" / "blob.bin"
    tell = (lambda *_: None) if told is None else lambda *figures: told.append(figures)
    download.download(archive(state, **checksum), target, progress=tell)
    return target.read_bytes()


def test_a_file_comes_whole_with_its_progress(state, tmp_path):
    told: list[tuple[int, int | None]] = []
    assert fetched(state, tmp_path, told) == BLOB
    assert told[-1] == (len(BLOB), len(BLOB))
    assert [at for at, _ in told] == sorted(at for at, _ in told)
    assert [p.name for p in (tmp_path / "some").iterdir()] == ["blob.bin"]


def test_a_connection_that_breaks_off_is_taken_up(state, tmp_path):
    state.breaks = [100_000, 1, 50_000]
    assert fetched(state, tmp_path) == BLOB
    assert state.asked == [None, "bytes=100000-", "bytes=100001-", "bytes=150001-"]


def test_a_later_call_goes_on_where_the_former_ended(state, tmp_path):
    state.breaks = [200_000, *[0] * download.TRIES]
    with pytest.raises(EnvironmentFaultError, match=r"broke off at byte 200000 of 300000, 5 times in a row.*goes on"):
        fetched(state, tmp_path)
    assert (tmp_path / "some" / "blob.bin.part").read_bytes() == BLOB[:200_000]
    state.asked.clear()
    assert fetched(state, tmp_path) == BLOB
    assert state.asked == ["bytes=200000-"]


def test_a_server_that_does_not_go_on_gives_it_from_the_start(state, tmp_path):
    state.ranges, state.breaks = False, [100_000]
    assert fetched(state, tmp_path) == BLOB


def test_what_is_whole_already_is_not_fetched_again(state, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "blob.bin.part").write_bytes(BLOB)
    assert fetched(state, tmp_path) == BLOB
    (tmp_path / "some" / "blob.bin.part").write_bytes(BLOB + b"more")
    assert fetched(state, tmp_path) == BLOB


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_another_file_is_refused_and_not_left_behind(state, tmp_path, kind):
    known = hashlib.new(kind, b"else").hexdigest()
    with pytest.raises(EnvironmentFaultError, match=rf"{state.address}/blob.bin: {kind} is .*publisher's is {known}"):
        fetched(state, tmp_path, **{kind: known})
    assert not list((tmp_path / "some").iterdir())


def test_without_a_checksum_nothing_old_is_built_upon(state, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "blob.bin.part").write_bytes(b"of an earlier version")
    assert fetched(state, tmp_path, md5="") == BLOB
    assert state.asked == [None]


def test_what_the_server_says_is_told(state, tmp_path):
    del state.files["/blob.bin"]
    with pytest.raises(EnvironmentFaultError, match=r"answers 404.*--source"):
        fetched(state, tmp_path)
    state.files["/blob.bin"], state.status = BLOB, 503
    with pytest.raises(EnvironmentFaultError, match=r"answers 503.*5 times in a row"):
        fetched(state, tmp_path)


def test_nobody_at_the_address(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    none = Archive(path="some/blob.bin", url="http://127.0.0.1:9/blob.bin", md5="0" * 32)
    with pytest.raises(EnvironmentFaultError, match=r"127\.0\.0\.1:9.*connection fails.*refused"):
        download.download(none, tmp_path / "blob.bin", progress=lambda *_: None)


def test_a_folder_that_cannot_be_written(state, tmp_path):
    (tmp_path / "some").write_text("in the way")
    with pytest.raises(EnvironmentFaultError, match=r"blob.bin.part: .*make room"):
        fetched(state, tmp_path)


def test_a_copy_is_named_by_source(tmp_path):
    one = Archive(path="uci-har/UCI HAR Dataset.zip", url="https://example.org/x")
    assert download.address(one, None) == "https://example.org/x"
    assert download.address(one, "http://127.0.0.1:8/d/") == "http://127.0.0.1:8/d/UCI%20HAR%20Dataset.zip"
    assert download.address(one, str(tmp_path)) == (tmp_path / "UCI HAR Dataset.zip").as_uri()
    with pytest.raises(ConfigurationError, match=r"--source ftp://.*http, https, file"):
        download.address(one, "ftp://example.org")


def test_fetch_brings_decodes_and_verifies(state, tmp_path, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    monkeypatch.setenv("SPIKELEAK_DATA", str(there))
    images, _ = fashion(there)
    officially(monkeypatch, there, "fashion_mnist")
    files = SOURCES["fashion_mnist"].archives
    state.files = {f"/{a.path.rpartition('/')[2]}": (there / a.path).read_bytes() for a in files}
    state.breaks = [100]
    monkeypatch.setenv("SPIKELEAK_DATA", str(here))
    text = io.StringIO()
    console = Console(file=text, width=200)
    data_console.fetch_dataset(console, "fashion_mnist", state.address)
    data_console.verify_dataset(console, "fashion_mnist")
    data_console.list_datasets(console)
    told = text.getvalue()
    assert "fashion_mnist: MIT; Xiao" in told
    assert "train-images-idx3-ubyte.gz: " in told
    assert "fashion_mnist: 5 samples in" in told
    assert "4 of 4 files by their publisher's checksum; content as it was first decoded here" in told
    assert "decoded, files" in told
    np.testing.assert_array_equal(np.rint(255 * load("fashion_mnist").x[:, 0]), images)
    (here / files[0].path).write_bytes(b"damaged")
    with pytest.raises(EnvironmentFaultError, match=r"train-images.*md5 is"):
        data_console.verify_dataset(console, "fashion_mnist")


def test_a_folder_serves_as_well(tmp_path, monkeypatch):
    there = tmp_path / "there"
    monkeypatch.setenv("SPIKELEAK_DATA", str(there))
    fashion(there)
    officially(monkeypatch, there, "fashion_mnist")
    monkeypatch.setenv("SPIKELEAK_DATA", str(tmp_path / "here"))
    data_console.fetch_dataset(Console(file=io.StringIO()), "fashion_mnist", str(there / "fashion-mnist"))
    assert len(load("fashion_mnist").y) == 5
    monkeypatch.setenv("SPIKELEAK_DATA", str(tmp_path / "other"))
    with pytest.raises(EnvironmentFaultError, match=r"train-images.*no such file; name another --source"):
        data_console.fetch_dataset(Console(file=io.StringIO()), "fashion_mnist", str(tmp_path))
    with pytest.raises(ConfigurationError, match="'digits' comes in package scikit-learn"):
        data_console.fetch_dataset(Console(file=io.StringIO()), "digits", str(tmp_path))


def test_every_set_is_listed_with_licence_size_and_source(monkeypatch, tmp_path):
    monkeypatch.setenv("SPIKELEAK_DATA", str(tmp_path))
    text = io.StringIO()
    data_console.list_datasets(Console(file=text, width=240))
    told = text.getvalue()
    for source in SOURCES.values():
        assert source.info.licence in told
        assert all(archive.url in told.replace("\n", "") for archive in source.archives)
    assert msgspec.structs.asdict(SOURCES["mnist"].info)["samples"] == 70000
    assert "219.5" in told  # MNIST: 70,000 times 784 float32
