"""All data sets, as one literal list."""

from __future__ import annotations

from contract.datasets.info import DatasetInfo, Source
from contract.datasets.sets import (
    breast_cancer,
    cifar10,
    digits,
    dvs_gesture,
    ecg5000,
    faces,
    fashion_mnist,
    fsdd,
    mnist,
    mnist5k,
    nmnist,
    shd,
    speech_commands,
    uci_har,
)

SOURCES: dict[str, Source] = {
    source.info.name: source
    for source in (
        mnist5k.SOURCE,
        faces.SOURCE,
        digits.SOURCE,
        breast_cancer.SOURCE,
        mnist.SOURCE,
        fashion_mnist.SOURCE,
        cifar10.SMALL,
        cifar10.SOURCE,
        nmnist.SOURCE,
        dvs_gesture.SOURCE,
        fsdd.SOURCE,
        speech_commands.SOURCE,
        shd.SOURCE,
        uci_har.TEST,
        uci_har.SOURCE,
        ecg5000.TRAIN,
        ecg5000.SOURCE,
    )
}
DATASETS: dict[str, DatasetInfo] = {name: source.info for name, source in SOURCES.items()}
