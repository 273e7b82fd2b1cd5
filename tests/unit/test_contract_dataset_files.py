"""Loaders of official files, on small archives built here in the official formats."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile

import msgspec
import numpy as np
import pytest

from contract.datasets import SOURCES, load, load_part
from contract.datasets.cache import first_seen
from contract.datasets.sets import uci_har
from contract.encodings import encode
from contract.errors import EnvironmentFaultError
from contract.task import EncodingSpec
from tests.unit.test_contract_cochlea import tone, wav

RNG = np.random.default_rng(3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKELEAK_DATA", str(tmp_path))
    return tmp_path


def put(folder, name, index, blob):
    path = folder / SOURCES[name].archives[index].path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(blob)


def tar(files):
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return blob.getvalue()


def zipped(files):
    blob = io.BytesIO()
    with zipfile.ZipFile(blob, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return blob.getvalue()


def npy(array):
    blob = io.BytesIO()
    np.save(blob, array)
    return blob.getvalue()


def fashion(folder):
    """Three training images and two test images in the idx format."""
    images = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    labels = np.array([9, 0, 3, 3, 1], dtype=np.uint8)
    for at, rows in ((0, slice(0, 3)), (2, slice(3, 5))):
        count = len(labels[rows])
        head = [bytes([0, 0, 8, axes]) + count.to_bytes(4, "big") for axes in (3, 1)]
        size = (28).to_bytes(4, "big") * 2
        put(folder, "fashion_mnist", at, gzip.compress(head[0] + size + images[rows].tobytes()))
        put(folder, "fashion_mnist", at + 1, gzip.compress(head[1] + labels[rows].tobytes()))
    return images, labels


def officially(monkeypatch, folder, name):
    """Takes the files that lie there for the publisher's."""
    source = SOURCES[name]
    archives = tuple(
        msgspec.structs.replace(a, md5=hashlib.md5((folder / a.path).read_bytes()).hexdigest(), sha256="")
        for a in source.archives
    )
    monkeypatch.setitem(SOURCES, name, msgspec.structs.replace(source, archives=archives))


def test_fashion_mnist(folder):
    images, labels = fashion(folder)
    found = SOURCES["fashion_mnist"].decode()
    np.testing.assert_array_equal(np.rint(255 * found.x[:, 0]), images)
    assert found.y.tolist() == labels.tolist()


def test_files_that_are_not_the_publishers_are_refused(folder):
    fashion(folder)
    for whole in (load, lambda name: load_part(name, lambda y, _: np.arange(len(y)))):
        with pytest.raises(EnvironmentFaultError, match=r"train-images.*md5 is .*publisher's is 8d4fb7e6c68d591"):
            whole("fashion_mnist")


def second_and_fifth(_labels, _users):
    return np.array([1, 4])


def test_a_content_nobody_pinned_is_kept_to_as_first_seen(folder, monkeypatch):
    fashion(folder)
    officially(monkeypatch, folder, "fashion_mnist")
    part = load_part("fashion_mnist", second_and_fifth)  # straight from the files, nothing is kept
    assert first_seen("fashion_mnist") == ""
    whole = load("fashion_mnist")
    assert first_seen("fashion_mnist")
    np.testing.assert_array_equal(np.rint(255 * whole.x[[1, 4]]), part.x)
    x = np.array(whole.x)
    x[0] = 0.5
    np.save(folder / "fashion_mnist.x.npy", x)  # the copy is damaged: the files are decoded again
    np.testing.assert_array_equal(load("fashion_mnist").x, whole.x)
    np.testing.assert_array_equal(load_part("fashion_mnist", second_and_fifth).x, part.x)


def cifar():
    records = RNG.integers(0, 256, (6, 2, 3073), dtype=np.uint8)
    records[:, :, 0] %= 10
    names = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
    files = {f"cifar-10-batches-bin/{name}": records[i].tobytes() for i, name in enumerate(names)}
    return records.reshape(12, 3073), {"cifar-10-batches-bin/readme.html": b"<p>", **dict(reversed(files.items()))}


def test_cifar10(folder):
    records, files = cifar()
    put(folder, "cifar10", 0, tar(files))
    found = SOURCES["cifar10"].decode()
    assert found.y.tolist() == records[:, 0].tolist()
    red, green, blue = np.rint(255 * found.x[7])
    np.testing.assert_array_equal(np.concatenate([c.ravel() for c in (red, green, blue)]), records[7, 1:])


def test_cifar10_without_a_batch_is_damaged(folder):
    files = cifar()[1]
    files.pop("cifar-10-batches-bin/data_batch_3.bin")
    put(folder, "cifar10", 0, tar(files))
    with pytest.raises(EnvironmentFaultError, match=r"cifar-10-binary.*damaged.*data_batch_3"):
        SOURCES["cifar10"].decode()


def test_dvs_gesture(folder):
    def events(*rows):
        return npy(np.array(rows, dtype=np.float64))

    train = {
        "ibmGestureTrain/user02_led/10.npy": events([0, 0, 1, 0], [127, 3, 0, 63]),
        "ibmGestureTrain/user02_led/3.npy": events([5, 9, 0, 7]),
        "ibmGestureTrain/user01_lab/0.npy": events([4, 4, 1, 0], [4, 4, 1, 640]),
        "ibmGestureTrain/readme.txt": b"-",
    }
    put(folder, "dvs_gesture", 0, tar(train))
    put(folder, "dvs_gesture", 1, tar({"ibmGestureTest/user29_natural/7.npy": events([8, 8, 0, 1])}))
    found = SOURCES["dvs_gesture"].decode()
    assert found.y.tolist() == [0, 3, 10, 7]
    assert found.users.tolist() == [0, 1, 1, 2]
    assert found.x.shape == (4, 2, 32, 32)
    assert int(found.x[0, 1, 1, 1]) == 1 | 1 << 63
    assert (int(found.x[2, 1, 0, 0]), int(found.x[2, 0, 0, 31])) == (1, 1 << 63)
    assert np.count_nonzero(found.x) == 5
    put(folder, "dvs_gesture", 1, tar({"ibmGestureTest/user29_natural/7.npy": events([128, 8, 0, 1])}))
    with pytest.raises(EnvironmentFaultError, match="outside the sensor of 128×128"):
        SOURCES["dvs_gesture"].decode()


def test_shd(folder):
    h5py = pytest.importorskip("h5py")
    for at, (times, units, labels, speakers) in enumerate(
        [([[0.0, 0.64], [0.1]], [[5, 699], [7]], [19, 3], [4, 11]), ([[0.2]], [[0]], [0], [4])]
    ):
        blob = io.BytesIO()
        with h5py.File(blob, "w") as file:
            for name, rows, kind in (("times", times, np.float16), ("units", units, np.uint16)):
                made = file.create_dataset(f"spikes/{name}", (len(rows),), dtype=h5py.vlen_dtype(kind))
                for i, row in enumerate(rows):
                    made[i] = np.array(row, dtype=kind)
            file["labels"] = np.array(labels, dtype=np.uint16)
            file["extra/speaker"] = np.array(speakers, dtype=np.uint16)
        name = SOURCES["shd"].archives[at].path.rpartition("/")[2].removesuffix(".zip")
        put(folder, "shd", at, zipped({name: blob.getvalue()}))
    found = SOURCES["shd"].decode()
    assert (found.y.tolist(), found.users.tolist()) == ([19, 3, 0], [0, 1, 0])
    assert found.x.shape == (3, 700)
    assert (int(found.x[0, 5]), int(found.x[0, 699]), int(found.x[1, 7])) == (1, 1 << 63, 1)
    frames = encode(EncodingSpec(kind="events", steps=4), found.x, RNG)
    assert frames[:, 0, 699].tolist() == [0, 0, 0, 1]


def test_speech_commands(folder):
    files = {
        f"./{name}": wav(tone(hertz, 0.1), rate=16000)
        for name, hertz in (
            ("yes/0a7c2a8d_nohash_1.wav", 500.0),
            ("yes/0a7c2a8d_nohash_0.wav", 600.0),
            ("bed/ffd2ba2f_nohash_0.wav", 700.0),
            ("_background_noise_/pink_noise.wav", 50.0),
        )
    }
    put(folder, "speech_commands", 0, tar({"./README.md": b"-", **files}))
    found = SOURCES["speech_commands"].decode()
    assert (found.y.tolist(), found.users.tolist()) == ([0, 1, 1], [1, 0, 0])
    assert found.x.shape == (3, 32, 64)
    assert found.x[1, :, 10:40].mean(1).argmax() >= found.x[2, :, 10:40].mean(1).argmax()  # 600 Hz before 500 Hz
    assert not np.array_equal(found.x[1], found.x[2])


def test_spoken_digits_from_the_whole_repository(folder):
    files = {"free-spoken-digit-dataset-master/recordings/3_theo_10.wav": wav(tone(500.0, 0.1))}
    files |= {"free-spoken-digit-dataset-master/recordings/0_theo_2.wav": wav(tone(500.0, 0.1)), "x/acquire.py": b"-"}
    files |= {"free-spoken-digit-dataset-master/recordings/9_george_0.wav": wav(tone(500.0, 0.1))}
    put(folder, "fsdd", 0, zipped(files))
    found = SOURCES["fsdd"].decode()
    assert (found.y.tolist(), found.users.tolist()) == ([9, 0, 3], [0, 1, 1])


def har(split, people):
    rows = len(people)
    files = {}
    for sensor, axis in uci_har.CHANNELS:
        values = RNG.uniform(-1, 1, (rows, 128))
        text = "\n".join(" ".join(f"{v: .7e}" for v in row) for row in values)
        files[f"UCI HAR Dataset/{split}/Inertial Signals/{sensor}_{axis}_{split}.txt"] = text
        files[f"__MACOSX/UCI HAR Dataset/{split}/Inertial Signals/._{sensor}_{axis}_{split}.txt"] = "\0"
    files[f"UCI HAR Dataset/{split}/y_{split}.txt"] = "".join(f"{1 + i % 6}\n" for i in range(rows))
    files[f"UCI HAR Dataset/{split}/subject_{split}.txt"] = "".join(f"{p}\n" for p in people)
    return files


def test_uci_har(folder):
    files = har("train", [1, 1, 30]) | har("test", [2, 4])
    put(folder, "uci_har", 0, zipped(files))
    found = SOURCES["uci_har"].decode()
    assert found.x.shape == (5, 9, 128)
    assert (found.y.tolist(), found.users.tolist()) == ([0, 1, 2, 0, 1], [0, 0, 29, 1, 3])
    first = np.array(files["UCI HAR Dataset/test/Inertial Signals/total_acc_z_test.txt"].split("\n")[1].split(), float)
    np.testing.assert_allclose(found.x[4, 8], first / 5 + 0.5, atol=1e-6)
    test = SOURCES["uci_har_test"].decode()
    np.testing.assert_array_equal(test.x, found.x[3:])
    assert test.users.tolist() == [0, 1]


def test_ecg5000(folder):
    beats = RNG.standard_normal((5, 140))
    lines = ["  ".join(f"{v:.7e}" for v in (1 + i % 5, *beat)) for i, beat in enumerate(beats)]
    files = {"ECG5000_TRAIN.txt": "\n".join(lines[:2]), "ECG5000_TEST.txt": "\n".join(lines[2:]), "ECG5000.jpg": b""}
    put(folder, "ecg5000", 0, zipped(files))
    found = SOURCES["ecg5000"].decode()
    assert found.y.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(found.x[:, 0], np.clip(beats / 16 + 0.5, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(SOURCES["ecg5000_train"].decode().x, found.x[:2])
    put(folder, "ecg5000", 0, zipped({"ECG5000_TRAIN.txt": "1 2 3"}))
    with pytest.raises(EnvironmentFaultError, match="rows of 3 numbers"):
        SOURCES["ecg5000_train"].decode()
    put(folder, "ecg5000", 0, zipped({"other.txt": "1 2 3"}))
    with pytest.raises(EnvironmentFaultError, match="holds no ECG5000_TRAIN"):
        SOURCES["ecg5000"].decode()


@pytest.mark.parametrize("name", sorted(n for n, s in SOURCES.items() if s.archives))
def test_files_that_are_none_are_damaged(folder, name):
    for index in range(len(SOURCES[name].archives)):
        put(folder, name, index, b"neither")
    with pytest.raises(EnvironmentFaultError, match=r"damaged|fetch it again"):
        SOURCES[name].decode()
