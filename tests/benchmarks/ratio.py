"""The ratio attack on direct-coded single samples: every surrogate of snntorch, T of 1 to 100, untrained and trained.

python -m tests.benchmarks.ratio [CELL ...] [--seeds N] [--short]

A cell is SURROGATE-T or SURROGATE-T-trained, for instance `atan-25-trained`, or one of the artificial twins
`ann-sigmoid` and `ann-relu`. Gradients come from snntorch's own neurons, stepped in time as its tutorials do:
784-256-10 on MNIST, beta 0.9, mean membrane. Training is 100 steps of Adam. A failed attack ranks below every figure:
none is left out. 200 dB stands for identical arrays.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import snntorch
import torch
from snntorch import surrogate
from torch import Tensor, nn

from attack.certificate import certified
from attack.method import Finding
from attack.methods.ratio import Ratio
from attack.module_network import ModuleNetwork
from attack.threat import Observation, ThreatModel
from contract.datasets import load
from contract.metrics import psnr
from contract.task import EncodingSpec, RoundPlan, TaskSpec


def softened(u: Tensor, gradient: Tensor, _spikes: Tensor) -> Tensor:
    """A surrogate that no library has, for `custom_surrogate`."""
    return gradient / (1 + u**2)


SURROGATES: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "atan": surrogate.atan,
    "fast_sigmoid": surrogate.fast_sigmoid,
    "sigmoid": surrogate.sigmoid,
    "straight_through_estimator": surrogate.straight_through_estimator,
    "triangular": surrogate.triangular,
    "heaviside": surrogate.heaviside,
    "spike_rate_escape": surrogate.spike_rate_escape,
    "SSO": surrogate.SSO,
    "LSO": surrogate.LSO,
    "SFS": surrogate.SFS,
    "SFS(B=-1)": lambda: surrogate.SFS(B=-1),
    "custom_surrogate": lambda: surrogate.custom_surrogate(softened),
}
"""All of `snntorch.surrogate` at its defaults; SFS, which is silent there, also with a threshold that lets through."""
STEPS = (1, 2, 5, 10, 25, 50, 100)
ARTIFICIAL: dict[str, Callable[[], nn.Module]] = {"ann-sigmoid": nn.Sigmoid, "ann-relu": nn.ReLU}
CELLS = tuple(
    [f"{name}-{steps}{end}" for name in SURROGATES for end in ("", "-trained") for steps in STEPS]
    + [f"{name}{end}" for name in ARTIFICIAL for end in ("", "-trained")]
)
SHORT = ("atan-10", "triangular-25", "SSO-5", "SFS-10", "ann-relu")
LEAST_DB, MOST_MS = 100.0, 50.0
_INPUTS, _HIDDEN, _CLASSES = 784, 256, 10


class Trial(NamedTuple):
    """One update, attacked. `db` is minus infinity and `reason` says why when nothing was reconstructed."""

    db: float
    attack_ms: float
    verdict: str
    reason: str


class Stack(nn.Module):
    """Dense layers of several networks side by side: `[S, B, inputs]` to `[S, B, outputs]`."""

    def __init__(self, inputs: int, outputs: int, seeds: list[int]) -> None:
        super().__init__()
        drawn = []
        for seed in seeds:
            torch.manual_seed(1000 * seed + outputs)
            drawn.append(nn.Linear(inputs, outputs))
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in drawn]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in drawn]))

    def forward(self, x: Tensor) -> Tensor:
        """``W x + b``, network by network."""
        return torch.baddbmm(self.bias[:, None], x, self.weight.mT)


class Spiking(nn.Module):
    """A step loop with two dense layers. `once` computes the first current, the same at each step, a single time."""

    def __init__(self, first: nn.Module, last: nn.Module, name: str) -> None:
        super().__init__()
        self.first, self.last, self.once = first, last, False
        spike_grad = SURROGATES[name]()
        self.lif = snntorch.Leaky(beta=0.9, spike_grad=spike_grad)
        self.read = snntorch.Leaky(beta=0.9, spike_grad=spike_grad, reset_mechanism="none")
        snntorch.SpikingNeuron.init()  # its class list of instances would grow for ever

    def forward(self, frames: Tensor) -> Tensor:
        """Logits `[..., B, 10]` of frames `[T, ..., B, 784]`."""
        hidden, out = self.lif.reset_mem(), self.read.reset_mem()
        current, membranes = self.first(frames[0]), []
        for t, frame in enumerate(frames):
            if t and not self.once:
                current = self.first(frame)
            spikes, hidden = self.lif(current, hidden)
            _, out = self.read(self.last(spikes), out)
            membranes.append(out)
        return torch.stack(membranes).mean(0)


class Artificial(nn.Module):
    """The twin: an activation in place of the neuron, no time."""

    def __init__(self, first: nn.Module, last: nn.Module, name: str) -> None:
        super().__init__()
        self.first, self.last, self.activation = first, last, ARTIFICIAL[name]()

    def forward(self, frames: Tensor) -> Tensor:
        """Logits of the first frame."""
        return self.last(self.activation(self.first(frames[0])))


def networks(cell: str, seeds: list[int]) -> list[nn.Module]:
    """One network a seed, trained side by side where the cell says so."""
    name, steps, trained = parts(cell)
    build = Artificial if name in ARTIFICIAL else Spiking
    first, last = Stack(_INPUTS, _HIDDEN, seeds), Stack(_HIDDEN, _CLASSES, seeds)
    if trained:
        together = build(first, last, name)
        together.once = True
        train(together, steps, seeds)
    return [build(_row(first, k), _row(last, k), name) for k in range(len(seeds))]


def _row(stack: Stack, k: int) -> nn.Linear:
    layer = nn.Linear(stack.weight.shape[2], stack.weight.shape[1])
    layer.load_state_dict({"weight": stack.weight[k].detach(), "bias": stack.bias[k].detach()})
    return layer


def train(module: nn.Module, steps: int, seeds: list[int], *, updates: int = 100) -> None:
    """Adam, 1e-3, batches of 16, each network's own; it works entry by entry, so that none acts on another."""
    data = load("mnist5k")
    draws = [np.random.default_rng([seed, 5]) for seed in seeds]
    solver = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(updates):
        chosen = np.stack([rng.choice(len(data.x), 16, replace=False) for rng in draws])
        frames = torch.from_numpy(data.x[chosen]).flatten(2).expand(steps, -1, -1, -1)
        solver.zero_grad()
        losses = nn.functional.cross_entropy(
            module(frames).flatten(0, 1), torch.from_numpy(data.y[chosen]).flatten(), reduction="sum"
        )
        (losses / 16).backward()
        solver.step()


def observe(module: nn.Module, x: np.ndarray, y: np.ndarray, steps: int, seed: int) -> Observation:
    """The attacker's view of the module's gradient of one sample `[1, 784]`."""
    frames = torch.from_numpy(x).expand(steps, *x.shape)
    loss = nn.functional.cross_entropy(module(frames), torch.from_numpy(y))
    parameters = dict(module.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()))
    names = {name: name for name in parameters}
    return Observation(
        threat=ThreatModel(),
        shape=x.shape[1:],
        classes=_CLASSES,
        samples=1,
        update={name: g.numpy() for name, g in zip(parameters, found, strict=True)},
        seed=seed,
        _task=TaskSpec(encoding=EncodingSpec(kind="direct", steps=steps)),
        _plan=RoundPlan(kind="audit", algorithm="fedsgd", batch_size=1),
        _parameters={name: p.detach().numpy() for name, p in parameters.items()},
        _network=ModuleNetwork(module, names=names, steps=steps, first="first", reason="a step loop of snntorch's"),
    )


def trials(cell: str, seeds: int) -> list[Trial]:
    """One network, one sample and one attack a seed."""
    try:
        modules = networks(cell, list(range(seeds)))
    except (TypeError, RuntimeError) as error:
        return [Trial(-np.inf, 0.0, "failed", f"snntorch raises {type(error).__name__}")] * seeds
    return [trial(module, parts(cell)[1], seed) for seed, module in enumerate(modules)]


def trial(module: nn.Module, steps: int, seed: int) -> Trial:
    """One sample, one attack."""
    data = load("mnist5k")
    chosen = np.random.default_rng([seed, 7]).choice(len(data.x), 1)
    x = data.x[chosen].reshape(1, -1)
    try:
        observation = observe(module, x, data.y[chosen], steps, seed)
    except (TypeError, RuntimeError) as error:
        return Trial(-np.inf, 0.0, "failed", f"snntorch raises {type(error).__name__}")
    if not all(np.isfinite(tensor).all() for tensor in observation.update.values()):
        return Trial(-np.inf, 0.0, "failed", "snntorch's gradient is not finite")
    began = time.process_time()
    finding = Ratio().run(observation, 1.0, np.random.default_rng(seed))
    attack_ms = 1e3 * (time.process_time() - began)
    return scored(certified(observation, finding), x, attack_ms)


def scored(finding: Finding, x: np.ndarray, attack_ms: float) -> Trial:
    """The trial's figures."""
    if finding.images is None:
        return Trial(-np.inf, attack_ms, finding.verdict, finding.reason.partition(":")[0])
    return Trial(psnr(finding.images, x), attack_ms, finding.verdict, "")


def parts(cell: str) -> tuple[str, int, bool]:
    """Name, steps and whether trained."""
    stem, trained = cell.removesuffix("-trained"), cell.endswith("-trained")
    if stem in ARTIFICIAL:
        return stem, 1, trained
    name, _, steps = stem.rpartition("-")
    return name, int(steps), trained


def interval(values: np.ndarray) -> tuple[float, float]:
    """Bootstrap interval (95 %) of the median; failures rank lowest."""
    draws = np.sort(np.random.default_rng(0).choice(values, (2000, len(values))), axis=1)
    medians = draws[:, (len(values) - 1) // 2]
    low, high = np.sort(medians)[[49, 1949]]
    return float(low), float(high)


def line(rows: list[Trial]) -> str:
    """Median with interval, minimum, times, verdicts and every reason for a failure."""
    db = np.array([one.db for one in rows])
    low, high = interval(db)
    middle = np.sort(db)[(len(db) - 1) // 2]
    ms = np.array([one.attack_ms for one in rows])
    failures = [one.reason for one in rows if one.reason]
    counted = "; ".join(f"{failures.count(reason)} × {reason}" for reason in sorted(set(failures)))
    exact = sum(one.verdict == "exact" for one in rows)
    return (
        f"n={len(db):3}  dB median {middle:6.1f} [{low:6.1f}, {high:6.1f}] min {db.min():6.1f}  "
        f"ms median {np.median(ms):5.2f} max {ms.max():5.2f}  certified {exact}/{len(db)}"
        + (f"  FAILED {counted}" if counted else "")
    )


def below(rows: list[Trial]) -> bool:
    """Whether a trial that had a gradient misses the figures."""
    return any(not one.reason and (one.db < LEAST_DB or one.attack_ms > MOST_MS) for one in rows)


def main() -> None:
    """Prints each cell, then one line for each surrogate, then the cells that miss the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="*", metavar="CELL")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--short", action="store_true", help="five cells")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[Trial]] = {}
    families: dict[str, list[Trial]] = {}
    for cell in asked.cells or (SHORT if asked.short else CELLS):
        found[cell] = trials(cell, asked.seeds)
        name, _, trained = parts(cell)
        families.setdefault(name + "-trained" * trained, []).extend(found[cell])
        print(f"{cell:38} {line(found[cell])}", flush=True)
    print("\nAll T together:")
    for family, together in families.items():
        print(f"{family:38} {line(together)}")
    worst = [cell for cell, rows in found.items() if below(rows)]
    print(f"\nCells with a gradient that miss {LEAST_DB:g} dB or {MOST_MS:g} ms: {', '.join(worst) or 'none'}")


if __name__ == "__main__":
    main()
