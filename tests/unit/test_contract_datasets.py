"""Data sets, their cache, the held-out split and the partitions."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.datasets import (
    DATASETS,
    archives,
    cache,
    check_encoding,
    data_dir,
    dataset_info,
    held_out_split,
    load,
    load_part,
    partition,
)
from contract.datasets.sets.nmnist import event_mask
from contract.datasets.sources import SOURCES
from contract.encodings import encode, intensities
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.task import EncodingSpec, PartitionSpec, TaskSpec


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKELEAK_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def without_library(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A data folder of the test's own with links to the archives in `SPIKELEAK_DATA`."""
    given = data_dir()

    def link(name):
        if not archives.present(SOURCES[name]):
            pytest.skip(f"SPIKELEAK_DATA holds no archives of {name!r}")
        (tmp_path / "official").mkdir()
        folder = SOURCES[name].archives[0].path.partition("/")[0]
        (tmp_path / "official" / folder).symlink_to(given / folder)
        monkeypatch.setenv("SPIKELEAK_DATA", str(tmp_path / "official"))

    return link


def test_families_agree():
    assert set(DATASETS) == set(SOURCES)
    assert set(DATASETS) >= {"mnist", "cifar10", "nmnist", "fsdd", "uci_har", "ecg5000"}
    assert all(info.name == name for name, info in DATASETS.items())
    assert all(source.archives or source.info.package for source in SOURCES.values())
    assert all(source.info.sha256 or source.archives for source in SOURCES.values())
    assert all(info.licence and info.source and info.title for info in DATASETS.values())


FROM_FILES = sorted(name for name, source in SOURCES.items() if source.archives)


@pytest.mark.parametrize("name", sorted(name for name, info in DATASETS.items() if info.sha256))
def test_content_is_as_announced(name, official, tmp_path, monkeypatch):
    if name in FROM_FILES:
        official(name)
    else:
        monkeypatch.setenv("SPIKELEAK_DATA", str(tmp_path))  # decoded here, and not what somebody kept there
    info, data = dataset_info(name), load(name)
    assert data.x.shape == (info.samples, *info.shape)
    if not info.events:
        assert data.x.dtype == np.float32
        assert data.x.min() >= 0.0
        assert data.x.max() <= 1.0
        assert info.series or (data.x.min(), data.x.max()) == (0.0, 1.0)
    assert (data.users is not None) == bool(info.users)
    if data.users is not None:
        assert set(data.users.tolist()) == set(range(info.users))
    assert data.y.dtype == np.int64
    assert set(data.y.tolist()) == set(range(info.classes))
    assert not data.x.flags.writeable


def test_recordings_are_of_mnist_digits_in_mnist_order(official):
    official("nmnist")
    data = load("nmnist")
    assert data.x.dtype == np.uint64
    assert data.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.y[1000:1005].tolist() == [7, 2, 1, 0, 4]
    image = intensities(EncodingSpec(kind="events", steps=16), data.x[:1])
    assert 0.02 < image.mean() < 0.1


def test_official_archives_give_the_small_archive_s_recordings(empty_cache, monkeypatch):
    folder = empty_cache / "nmnist"
    folder.mkdir(parents=True)
    blobs = {("Train", 3, 1): event(1, 2, 0, 0) + event(1, 2, 0, 63), ("Test", 4, 2): event(33, 0, 1, 7)}
    for split in ("Train", "Test"):
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
            for (where, digit, index), blob in blobs.items():
                if where == split:
                    archive.writestr(f"{split}/{digit}/{index:05d}.bin", blob)
            archive.writestr(f"{split}/9/01001.bin", event(0, 0, 0, 0))
            archive.writestr("README.txt", b"not a recording")
    x, y, _ = SOURCES["nmnist"].decode()
    assert y.tolist() == [3, 4]
    assert (int(x[0, 0, 2, 1]), int(x[1, 1, 0, 33])) == (1 | 1 << 63, 1)
    assert np.count_nonzero(x) == 2


def event(x, y, on, time_us):
    return bytes([x, y]) + (on << 23 | time_us).to_bytes(3, "big")


@pytest.mark.parametrize(("blob", "match"), [
    (b"", "0 bytes"), (bytes(7), "7 bytes"), (event(34, 0, 0, 0), r"\(34, 0\)"), (event(0, 240, 0, 0), r"\(0, 240\)"),
])  # fmt: skip
def test_broken_recordings_are_refused(blob, match):
    with pytest.raises(ValueError, match=match):
        event_mask(blob)


@pytest.mark.parametrize("name", FROM_FILES)
def test_absent_archives_name_their_official_source(empty_cache, name):
    with pytest.raises(ConfigurationError) as error:
        load(name)
    for archive in SOURCES[name].archives:
        assert archive.url in str(error.value)
        assert archive.checksum in str(error.value)
    assert str(empty_cache) in str(error.value)


@pytest.mark.parametrize(
    "blob", [b"", b"no gzip", gzip.compress(b"not idx", mtime=0), gzip.compress(b"\0\0\x08\x01\0\0\0\x09a", mtime=0)]
)
def test_damaged_archives_are_named(empty_cache, blob):
    (empty_cache / "mnist").mkdir(parents=True)
    for archive in SOURCES["mnist"].archives:
        (empty_cache / archive.path).write_bytes(blob)
    with pytest.raises(EnvironmentFaultError, match=r"train-labels.*damaged.*md5 must be d53e105"):
        load("mnist")
    (empty_cache / SOURCES["mnist"].archives[1].path).write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01a", mtime=0))
    (empty_cache / SOURCES["mnist"].archives[3].path).write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01a", mtime=0))
    for whole in (load, lambda name: load_part(name, lambda y, _: np.arange(len(y)))):
        with pytest.raises(EnvironmentFaultError, match=r"train-images.*damaged.*md5 must be f68b3c"):
            whole("mnist")


def every_third(y, _users):
    return np.arange(1, len(y), 3)


def test_a_part_is_what_the_whole_has_there_cached_or_not(empty_cache):
    whole = load("digits")
    for _ in range(2):
        part = load_part("digits", every_third)
        np.testing.assert_array_equal(part.x, whole.x[1::3])
        np.testing.assert_array_equal(part.y, whole.y[1::3])
        assert not isinstance(part.x, np.memmap)
        for path in empty_cache.iterdir():
            path.unlink()


@pytest.mark.parametrize("name", sorted(n for n, info in DATASETS.items() if info.levels and info.sha256))
def test_levels_lose_nothing(name, official):
    if name in FROM_FILES:
        official(name)
    part, whole = load_part(name, every_third), load(name)
    assert part.x.dtype == np.uint8
    assert part.x.shape == whole.x[1::3].shape
    for spec in (EncodingSpec(), EncodingSpec(kind="rate", steps=2), EncodingSpec(kind="latency", steps=3)):
        few = slice(0, 500)
        one, other = (encode(spec, x[few], np.random.default_rng(1)) for x in (part.x, whole.x[1::3]))
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(intensities(EncodingSpec(), part.x), whole.x[1::3])


def test_a_part_of_a_damaged_copy_is_decoded_anew(empty_cache):
    whole = load("digits")
    x = np.array(whole.x)
    x[5] += 1
    np.save(empty_cache / "digits.x.npy", x)
    np.testing.assert_array_equal(load_part("digits", every_third).x, whole.x[1::3])


def test_a_part_of_the_archives_is_read_in_little_memory_and_not_cached(official):
    official("mnist")
    program = (
        "import resource, numpy as np; from contract.datasets import load_part;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "part = load_part('mnist', lambda y, _: np.arange(7, len(y), 20));"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before;"
        "print(part.x.shape, part.y[:3].tolist(), grown // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    shape, labels, grown_mb = done.stdout.replace(") ", ")|").replace("] ", "]|").split("|")
    assert (shape, labels) == ("(3500, 1, 28, 28)", "[3, 3, 5]")
    assert int(grown_mb) < 50  # all images would take 220
    assert not list(data_dir().glob("*.npy"))


def test_damaged_recordings_are_named(empty_cache):
    (empty_cache / "nmnist").mkdir(parents=True)
    (empty_cache / "nmnist" / "nmnist_small.zip").write_bytes(b"no zip")
    with pytest.raises(EnvironmentFaultError, match=r"nmnist_small\.zip is damaged"):
        load("nmnist")


def test_other_content_of_an_archive_names_its_source(empty_cache, monkeypatch):
    monkeypatch.setitem(SOURCES, "mnist", replaced("mnist", SOURCES["digits"].decode))
    with pytest.raises(EnvironmentFaultError, match="fetch it again: https://ossci"):
        load("mnist")


def replaced(name, decode):
    return msgspec.structs.replace(SOURCES[name], decode=decode)


def test_faces_are_class_one():
    faces = load("faces")
    assert faces.y.tolist() == [1] * 100 + [0] * 100


def test_second_load_needs_no_library(empty_cache, monkeypatch):
    first = load("faces")
    assert sorted(p.name for p in empty_cache.iterdir()) == ["faces.x.npy", "faces.y.npy"]
    without_library(monkeypatch, "skimage.data")
    second = load("faces")
    assert isinstance(second.x, np.memmap)
    assert (first.x == second.x).all()


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "other"])
def test_damaged_copy_is_replaced(empty_cache, damage):
    good = load("digits")
    path = empty_cache / "digits.x.npy"
    blob = bytearray(path.read_bytes())
    blob[5000] ^= 1
    path.write_bytes({"truncated": blob[:1000], "changed": blob, "empty": b"", "other": b"not an array"}[damage])
    assert (load("digits").x == good.x).all()
    assert cache.content_sha256(*cache.read("digits")) == DATASETS["digits"].sha256


def test_missing_library_names_the_extra(empty_cache, monkeypatch):
    without_library(monkeypatch, "sklearn.datasets")
    with pytest.raises(ConfigurationError, match=r"'digits' needs scikit-learn.*pip install 'spikeleak\[lab\]'"):
        load("digits")


def test_library_with_other_content_is_refused(empty_cache, monkeypatch):
    x, y, _ = SOURCES["digits"].decode()
    monkeypatch.setitem(SOURCES, "digits", replaced("digits", lambda: cache.Arrays(x * np.float32(0.5), y)))
    with pytest.raises(EnvironmentFaultError, match="SHA-256"):
        load("digits")
    assert not empty_cache.exists()


def test_unwritable_folder_only_costs_the_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPIKELEAK_DATA", str(tmp_path / "file"))
    assert len(load("digits").x) == 1797
    assert cache.read("digits") is None


def load_sha256(name):
    data = load(name)
    return cache.content_sha256(data.x, data.y, data.users)


def test_processes_load_at_the_same_time(empty_cache):
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert set(pool.map(load_sha256, ["faces"] * 8)) == {DATASETS["faces"].sha256}
    assert sorted(p.name for p in empty_cache.iterdir()) == ["faces.x.npy", "faces.y.npy"]


def test_data_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SPIKELEAK_DATA", str(tmp_path))
    assert data_dir() == tmp_path
    monkeypatch.delenv("SPIKELEAK_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_dir() == tmp_path / "cache" / "spikeleak"


def test_images_are_not_encoded_as_events():
    events = EncodingSpec(kind="events", steps=8)
    with pytest.raises(ConfigurationError, match="'digits' holds images; event data sets: nmnist"):
        check_encoding(events, dataset_info("digits"))
    check_encoding(events, dataset_info("nmnist"))
    check_encoding(EncodingSpec(kind="latency"), dataset_info("nmnist"))


def test_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigurationError, match="did you mean 'mnist5k'"):
        dataset_info("mnist5")


labels = st.lists(st.integers(0, 5), min_size=12, max_size=200).map(lambda y: np.array([*y, 0, 0], dtype=np.int64))


@given(y=labels, seed=st.integers(0, 99), held_out=st.floats(0.05, 0.95))
def test_split_is_stratified_and_disjoint(y, seed, held_out):
    task = TaskSpec(seed=seed, partition=PartitionSpec(held_out=held_out))
    train, test = held_out_split(task, y)
    assert sorted([*train, *test]) == list(range(len(y)))
    assert (train.dtype, test.dtype) == (np.int64, np.int64)
    for label in set(y.tolist()):
        there, out = (y == label).sum(), (y[test] == label).sum()
        assert (1 <= out <= there - 1) if there > 1 else out == 0
        assert abs(out - held_out * there) <= 1 or there == 1
    again = held_out_split(task, y)
    assert (again[0] == train).all()


def test_split_of_singletons_is_refused():
    with pytest.raises(ConfigurationError, match="at least 2 samples"):
        held_out_split(TaskSpec(), np.arange(5))


@given(y=labels, parts=st.integers(1, 14), seed=st.integers(0, 99), alpha=st.sampled_from([None, 1e-3, 0.1, 10.0]))
def test_parts_are_disjoint_complete_and_not_empty(y, parts, seed, alpha):
    spec = PartitionSpec() if alpha is None else PartitionSpec(kind="dirichlet", alpha=alpha)
    task = TaskSpec(seed=seed, partition=spec)
    dealt = partition(task, y, parts)
    assert len(dealt) == parts
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(y)))
    assert all(len(part) for part in dealt)
    assert all((a == b).all() for a, b in zip(dealt, partition(task, y, parts), strict=True))


def test_iid_parts_are_of_equal_size_and_dirichlet_is_skewed():
    y = np.repeat(np.arange(10), 400)
    assert {len(p) for p in partition(TaskSpec(), y, 8)} == {500}

    def largest_share(spec):
        dealt = partition(TaskSpec(partition=spec), y, 8)
        return np.mean([np.bincount(y[p], minlength=10).max() / len(p) for p in dealt])

    assert largest_share(PartitionSpec()) < 0.2
    assert largest_share(PartitionSpec(kind="dirichlet", alpha=100.0)) < 0.2
    assert largest_share(PartitionSpec(kind="dirichlet", alpha=0.05)) > 0.5


@pytest.mark.parametrize("parts", [0, 13])
def test_impossible_numbers_of_parts_name_the_limit(parts):
    with pytest.raises(ConfigurationError, match="between 1 and 12"):
        partition(TaskSpec(), np.zeros(12, dtype=np.int64), parts)
