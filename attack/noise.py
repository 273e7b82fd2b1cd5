"""The negative control that every run carries: the ladder on an update in which nothing is to be found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from attack.threat import Array32, Observation
from contract.codecs import decode_tensors, encode_tensors
from contract.messages import TensorRecord


def noise_observation(observation: Observation, rng: np.random.Generator) -> Observation:
    """The same observation with Gaussian noise in place of the update.

    Each tensor keeps its shape, its Euclidean norm and its codec, so that no attack can tell the control by its size.
    Whatever an attack certifies on it is a false certificate.

    Args:
        observation: A real update; only its tensors' shapes, norms and codecs are used.
        rng: Draws the noise.
    """
    drawn = {name: _of_norm(tensor, rng) for name, tensor in observation.update.items()}
    records = dict(observation.records) if "codec" in observation.known else {}
    sent, remade = _through_codecs(drawn, records, rng)
    return dataclasses.replace(observation, update=sent, _records=remade)


def _of_norm(tensor: Array32, rng: np.random.Generator) -> Array32:
    noise = rng.standard_normal(tensor.shape)
    norm = float(np.linalg.norm(noise))
    return (noise * (np.linalg.norm(tensor.astype(np.float64)) / norm if norm else 0.0)).astype(np.float32)


def _through_codecs(
    tensors: Mapping[str, Array32], records: Mapping[str, TensorRecord], rng: np.random.Generator
) -> tuple[dict[str, Array32], dict[str, TensorRecord]]:
    """What arrives when the noise is sent as the update was."""
    sent, remade = dict(tensors), dict(records)
    for name, record in records.items():
        made, buffers = encode_tensors(record.codec, {name: tensors[name]}, rng)
        views = [memoryview(b if isinstance(b, bytes) else b.tobytes()) for b in buffers]
        sent[name] = decode_tensors(made, views)[name]
        remade[name] = made[0]
    return sent, remade
