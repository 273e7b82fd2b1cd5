"""Networks as users write them for a federated run: named in studies as `model = "FILE.py:FACTORY"`."""

from __future__ import annotations

import snntorch as snn
import torch
from torch import nn


class StepLoop(nn.Module):
    """Two layers of snntorch's neurons, stepped in Python."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.lif1 = snn.Leaky(beta=0.9)
        self.fc2 = nn.Linear(32, 10)
        self.lif2 = snn.Leaky(beta=0.9, reset_mechanism="none")

    def forward(self, frames):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        recorded = []
        for frame in frames:
            spikes, mem1 = self.lif1(self.fc1(frame.flatten(1)), mem1)
            _, mem2 = self.lif2(self.fc2(spikes), mem2)
            recorded.append(mem2)
        return torch.stack(recorded).mean(0)


class Strided(nn.Module):
    """Strided convolutions, hidden states, a surrogate and a neuron that the project does not have."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.lif = snn.Leaky(beta=0.8, init_hidden=True, spike_grad=snn.surrogate.fast_sigmoid(slope=10))
        self.conv2 = nn.Conv2d(4, 3, 3)
        self.syn = snn.Synaptic(alpha=0.7, beta=0.8)
        self.head = nn.Linear(12, 10)

    def forward(self, frames):
        self.lif.reset_mem()
        syn, mem = self.syn.init_synaptic()
        total = 0.0
        for frame in frames:
            spikes, syn, mem = self.syn(self.conv2(self.lif(self.conv1(frame))), syn, mem)
            total = total + self.head(spikes.flatten(1) + mem.flatten(1))
        return total / len(frames)


class Plain(nn.Module):
    """No time at all."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, frames):
        return self.head(frames.mean(0).flatten(1))


class Inexpressible(Plain):
    """An operator that ONNX does not have."""

    def forward(self, frames):
        return torch.erfinv(torch.tanh(super().forward(frames)) / 2)


class Branching(Plain):
    """A path that depends on values."""

    def forward(self, frames):
        logits = super().forward(frames)
        return logits if logits.sum() > 0 else -logits


class Grouped(Plain):
    """A convolution in groups."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.each = nn.Conv2d(2, 2, 1, groups=2)

    def forward(self, frames):
        return super().forward(self.each(self.conv(frames[0]))[None, :, :1])
