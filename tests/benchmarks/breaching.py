"""IG and DLG against the breaching package, in one process, on the same network, image and settings.

python -m tests.benchmarks.breaching [--restarts R ...] [--iterations N]

breaching 0.1.2 is no dependency. It runs beside this project's torch when it is put into a folder of its own:

    pip install --no-deps --target build/breaching breaching hydra-core omegaconf "antlr4-python3-runtime==4.9.3"
    PYTHONPATH=build/breaching python -m tests.benchmarks.breaching

It imports torchvision, of which the attacks use nothing: an empty module of that name is put in its place.

Both attack the same float32 gradients with the label known: three convolutions of 12 channels, kernel 5, stride 2,
sigmoid, and a linear readout (LeNetZhu but for the third stride), weights uniform in ±0.5, one MNIST image.
IG: cosine, total variation, signed Adam, step 0.1 with the same decay, box [0, 1], as many iterations and restarts.
DLG: squared distance, L-BFGS with 100 pairs from standard normal noise; one of breaching's steps is 20 iterations.
Both in float32; DLG64 is the same in float64, as the ladder runs it.
A gradient evaluation is one restart's objective with its derivative. Processor seconds; the two take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import statistics
import sys
import time
import types
import warnings
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attack.methods.cosine import COSINE
from attack.methods.dlg import DLG
from attack.optimisation.descent import Descent
from attack.optimisation.matching import Matching
from attack.threat import Observation
from contract.datasets import load
from contract.metrics import psnr
from contract.models.layout import parameter_shapes
from contract.task import TaskSpec
from tests.science.image_updates import observe, task_of

TV = 1e-4
PRECISIONS = {"IG": (COSINE, torch.float32), "DLG": (DLG, torch.float32), "DLG64": (DLG, torch.float64)}
INSTALL = (
    'pip install --no-deps --target build/breaching breaching hydra-core omegaconf "antlr4-python3-runtime==4.9.3", '
    "then PYTHONPATH=build/breaching python -m tests.benchmarks.breaching"
)


class _Empty(type):
    """A class without behaviour, as is every name in it."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name, (), {})


class _Nothing(types.ModuleType):
    """A module of such classes: enough for base classes and annotations."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name, (), {})


def breaching() -> Any:
    """The package.

    Raises:
        ImportError: It is not at hand.
    """
    if find_spec("breaching") is None:
        raise ImportError("no package of that name")
    names = ("torchvision", *(f"torchvision.{part}" for part in ("transforms", "datasets", "models")))
    names = (*names, "torchvision.datasets.utils", "torchvision.models.resnet", "torchvision.transforms.functional")
    try:
        import_module("torchvision")
    except ImportError:
        for name in names:
            module = _Nothing(name)
            module.__path__ = []
            sys.modules[name] = module
            if "." in name:
                parent, _, child = name.rpartition(".")
                setattr(sys.modules[parent], child, module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("breaching")


class Twin(nn.Module):
    """The task's network as a plain torch module."""

    def __init__(self, parameters: dict[str, NDArray[np.float32]]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k in range(3):
            outputs, inputs, kernel, _ = parameters[f"layers.{k}.weight"].shape
            layers += [nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2), nn.Sigmoid()]
        outputs, inputs = parameters["layers.3.weight"].shape
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, outputs))
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), parameters.values(), strict=True):
                parameter.copy_(torch.from_numpy(value))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found


@dataclass
class Case:
    """One image's update, for both."""

    seed: int
    task: TaskSpec = field(init=False)
    x: NDArray[np.float32] = field(init=False)
    y: NDArray[np.int64] = field(init=False)
    parameters: dict[str, NDArray[np.float32]] = field(init=False)
    observation: Observation = field(init=False)

    def __post_init__(self) -> None:
        self.task = task_of(family="ann", kind="conv", channels=(12, 12, 12), hidden=(), seed=self.seed)
        rng, data = np.random.default_rng(self.seed), load("mnist5k")
        chosen = rng.integers(0, len(data.x), 1)
        self.x, self.y = np.array(data.x[chosen]), np.array(data.y[chosen])
        shapes = parameter_shapes(self.task, self.x.shape[1:], 10)
        self.parameters = {n: rng.uniform(-0.5, 0.5, shape).astype(np.float32) for n, shape in shapes.items()}
        self.observation, _ = observe(self.task, self.x, self.y, parameters=self.parameters, seed=self.seed)


Outcome = tuple[float, float]
"""PSNR in dB and gradient evaluations per processor second."""


def ours(case: Case, matching: Matching) -> Outcome:
    """This project's attack."""
    evaluations, kept = 0, Descent.evaluate

    def counted(self: Descent, x: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += len(x)
        return kept(self, x)

    Descent.evaluate = counted  # type: ignore[method-assign]
    try:
        began = time.process_time()
        finding = matching.run(case.observation, 3600.0, np.random.default_rng(case.seed))
        spent = time.process_time() - began
    finally:
        Descent.evaluate = kept  # type: ignore[method-assign]
    assert finding.images is not None
    return psnr(finding.images[0], case.x[0]), evaluations / spent


def theirs(package: Any, case: Case, kind: str, restarts: int, iterations: int) -> Outcome:
    """breaching's, configured as in its own files but for what the module's docstring names."""
    omegaconf = import_module("omegaconf")
    steps = iterations if kind == "IG" else iterations // 20
    overrides = {"restarts": {"num_trials": restarts}, "optim": {"max_iterations": steps, "callback": 10**9}}
    name = "invertinggradients" if kind == "IG" else "deepleakage"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        config = omegaconf.OmegaConf.merge(package.get_attack_config(name), overrides)
    if kind == "IG":
        config.init = "rand"
        config.regularization.total_variation.scale = TV
    else:
        config.attack_type, config.label_strategy = "optimization", "iDLG"
        config.objective.scale = 1.0
    loss, model = nn.CrossEntropyLoss(), Twin(case.parameters)
    evaluations = 0

    def counting(module: Any) -> None:
        inner = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal evaluations
            evaluations += 1
            return inner(*args, **kwargs)

        module.forward = forward

    setup = {"dtype": torch.float, "device": torch.device("cpu")}
    attacker = package.attacks.prepare_attack(model, loss, config, setup)
    counting(attacker.objective)
    attacker.objective.initialize(loss, config.impl, None)
    for regularizer in attacker.regularizers:
        # its weights are written for three channels
        regularizer.groups, regularizer.weight = 1, regularizer.weight[:2]
    meta = types.SimpleNamespace(shape=case.x.shape[1:], modality="vision", mean=[0.0], std=[1.0])
    payload = [{"parameters": list(model.parameters()), "buffers": None, "metadata": meta}]
    shared_meta = {"num_data_points": 1, "labels": torch.from_numpy(case.y), "local_hyperparams": None}
    gradients = [torch.from_numpy(case.observation.update[n].copy()) for n in case.parameters]
    shared = [{"gradients": gradients, "buffers": None, "metadata": shared_meta}]
    torch.manual_seed(case.seed)
    began = time.process_time()
    found, _ = attacker.reconstruct(payload, shared, {})
    spent = time.process_time() - began
    image = found["data"].detach().numpy().clip(0, 1).astype(np.float32)
    return psnr(image[0], case.x[0]), evaluations / spent


def _as_breaching(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Its `rand`: uniform in ±1."""
    return 2 * rng.random(shape) - 1


def compare(package: Any, kind: str, *, restarts: int, iterations: int, images: int) -> None:
    """Prints medians of both over images, taken in turn."""
    method, dtype = PRECISIONS[kind]
    matching = msgspec.structs.replace(method, restarts=restarts, iterations=iterations, dtype=dtype, enough=0.0)
    if kind == "IG":
        matching = msgspec.structs.replace(matching, start=_as_breaching)
    brief = msgspec.structs.replace(matching, iterations=5)
    ours(Case(0), brief)
    theirs(package, Case(0), kind, 1, 20)
    rows = []
    for seed in range(images):
        case = Case(seed)
        rows.append((ours(case, matching), theirs(package, case, kind, restarts, iterations)))
    line = f"{kind:5} {restarts} restarts × {iterations} iterations, n={images}:"
    for who, column in (("here", 0), ("breaching", 1)):
        db = statistics.median(row[column][0] for row in rows)
        rate = statistics.median(row[column][1] for row in rows)
        line += f" {who} {db:.1f} dB, {rate:.0f} evaluations/s;"
    ratio = statistics.median(row[0][1] / row[1][1] for row in rows)
    rise = statistics.median(row[0][0] - row[1][0] for row in rows)
    print(f"{line} median of the pairs: {ratio:.1f}×, {rise:+.1f} dB", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Compares, or says how to install breaching."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, nargs="+", default=(1, 8))
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--attacks", nargs="+", choices=PRECISIONS, default=tuple(PRECISIONS))
    asked = parser.parse_args(arguments)
    try:
        package = breaching()
    except ImportError as error:
        print(f"breaching: skipped ({error}); it is optional: {INSTALL}")
        return
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    for kind in asked.attacks:
        for restarts in asked.restarts:
            compare(package, kind, restarts=restarts, iterations=asked.iterations, images=asked.images)


if __name__ == "__main__":
    main()
