"""DVS Gesture: eleven gestures of 29 people before an event camera (Amir et al. 2017)."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import numpy as np

from contract.datasets.archives import DAMAGED, damage, wanted
from contract.datasets.cache import Arrays
from contract.datasets.events import Masks, event_masks
from contract.datasets.info import Archive, DatasetInfo, Source
from contract.datasets.intensities import numbered

SIDE, CELL = 128, 4
"""The sensor's pixels on a side, and how many of them on a side become one input."""
SHAPE = (2, SIDE // CELL, SIDE // CELL)
_RECORDING = re.compile(r"user(\d+)_(\w+)/(\d+)\.npy$")
_ARCHIVES = (
    Archive(
        path="dvs-gesture/ibmGestureTrain.tar.gz",
        url="https://figshare.com/ndownloader/files/38022171",
        md5="3a8f0d4120a166bac7591f77409cb105",
    ),
    Archive(
        path="dvs-gesture/ibmGestureTest.tar.gz",
        url="https://figshare.com/ndownloader/files/38020584",
        md5="56070e45dadaa85fff82e0fbfbc06de5",
    ),
)


def decode() -> Arrays:
    """All recordings in the order of their names, those for training first, as event masks `[N, 2, 32, 32]`.

    The archives are those that tonic (Lenz et al. 2021) reads: `ibmGestureTrain/user01_led/0.npy`, an array `[E, 4]` of
    x, y, polarity and milliseconds; the file's number is the class.
    """
    masks: list[Masks] = []
    labels: list[int] = []
    people: list[int] = []
    for path, archive in zip(wanted("dvs_gesture", _ARCHIVES), _ARCHIVES, strict=True):
        try:
            for (user, _light, label), mask in sorted(_recordings(path).items()):
                masks.append(mask)
                labels.append(label)
                people.append(user)
        except DAMAGED as error:
            raise damage(path, error, archive) from error
    return Arrays(np.array(masks, dtype=np.uint64), np.array(labels, dtype=np.int64), numbered(people))


def _recordings(path: Path) -> dict[tuple[int, str, int], Masks]:
    found = {}
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            match, file = _RECORDING.search(member.name), archive.extractfile(member)
            if match and file is not None:
                events = np.load(io.BytesIO(file.read()), allow_pickle=False)
                found[int(match[1]), match[2], int(match[3])] = gesture_mask(events)
    return found


def gesture_mask(events: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Masks:
    """Event mask `[polarity, y, x]` of one recording, each input 4×4 pixels of the sensor.

    Args:
        events: `[E, 4]`: x, y, polarity and time.

    Raises:
        ValueError: Not such events, or one outside the sensor.
    """
    if events.ndim != 2 or events.shape[1] != 4 or not len(events):
        raise ValueError(f"recording of shape {list(events.shape)}: expected [events, 4], and at least one event")
    x, y, on, times = events.astype(np.int64).T
    if min(x.min(), y.min()) < 0 or max(x.max(), y.max()) >= SIDE or not set(np.unique(on)) <= {0, 1}:
        raise ValueError(f"event outside the sensor of {SIDE}×{SIDE} pixels, or with a polarity other than 0 and 1")
    return event_masks(times, (on, y // CELL, x // CELL), SHAPE)


SOURCE = Source(
    info=DatasetInfo(
        name="dvs_gesture",
        title="DVS Gesture, 1,341 event recordings of 11 gestures, 4×4 pixels to an input",
        shape=SHAPE,
        classes=11,
        samples=1341,
        licence="CC BY 4.0",
        source="Amir et al. 2017, A low power, fully event-based gesture recognition system; as tonic reads it",
        cited=("amir2017low",),
        events=True,
        users=29,
    ),
    decode=decode,
    archives=_ARCHIVES,
)
