"""Speech Commands 0.02: 35 words by 2,618 people (Warden 2018, arXiv 1804.03209), as cochleagrams."""

from __future__ import annotations

import re
import tarfile

import numpy as np

from contract.cochlea import BANDS, FRAMES, cochleagram, read_wav
from contract.cochlea import CITED as COCHLEA
from contract.datasets.archives import DAMAGED, damage, wanted
from contract.datasets.cache import Arrays
from contract.datasets.info import Archive, DatasetInfo, Source
from contract.datasets.intensities import numbered, of_levels

_RECORDING = re.compile(r"(?:^|/)([a-z]+)/([0-9a-f]{8})_nohash_(\d+)\.wav$")
_ARCHIVES = (
    Archive(
        path="speech-commands/speech_commands_v0.02.tar.gz",
        url="https://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    ),
)


def decode() -> Arrays:
    """All recordings by word, speaker and number, as cochleagrams `[105829, 32, 64]` in whole 255ths.

    The noises of the folder `_background_noise_` are left out. Classes are the words in alphabetical order.
    """
    (path,) = wanted("speech_commands", _ARCHIVES)
    found: dict[tuple[str, str, int], np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                match, file = _RECORDING.search(member.name), archive.extractfile(member)
                if match and file is not None:
                    heard = cochleagram(*read_wav(file.read()))
                    found[match[1], match[2], int(match[3])] = np.rint(255 * heard).astype(np.uint8)
        keys = sorted(found)
        x = np.stack([found[key] for key in keys])
    except DAMAGED as error:
        raise damage(path, error, _ARCHIVES[0]) from error
    labels, users = (numbered([key[axis] for key in keys]) for axis in (0, 1))
    return Arrays(of_levels(x), labels, users)


SOURCE = Source(
    info=DatasetInfo(
        name="speech_commands",
        title="Speech Commands 0.02, 105,829 spoken words as cochleagrams: 32 bands over 64 moments",
        shape=(BANDS, FRAMES),
        classes=35,
        samples=105829,
        licence="CC BY 4.0",
        source="Warden 2018, arXiv 1804.03209",
        cited=("warden2018speech", *COCHLEA),
        levels=True,
        series=True,
        users=2618,
    ),
    decode=decode,
    archives=_ARCHIVES,
)
