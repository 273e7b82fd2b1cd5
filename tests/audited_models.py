"""Models as their authors write them, with nothing of this project in them. `spikeleak audit` gets this file."""

from __future__ import annotations

import snntorch as snn
import torch
from snntorch import surrogate
from torch import nn


class StepLoop(nn.Module):
    """A fully connected network, stepped as in snntorch's tutorials; logits are the summed readout membrane."""

    def __init__(self, inputs=64, hidden=48):
        super().__init__()
        spike_grad = surrogate.fast_sigmoid(slope=20)
        self.fc1 = nn.Linear(inputs, hidden)
        self.lif1 = snn.Leaky(beta=0.85, threshold=0.9, spike_grad=spike_grad)
        self.fc2 = nn.Linear(hidden, 10)
        self.lif2 = snn.Leaky(beta=0.85, spike_grad=spike_grad, reset_mechanism="none")

    def forward(self, x):
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        recorded = []
        for step in range(x.shape[0]):
            spk1, mem1 = self.lif1(self.fc1(x[step].flatten(1)), mem1)
            _, mem2 = self.lif2(self.fc2(spk1), mem2)
            recorded.append(mem2)
        return torch.stack(recorded).sum(0)


def wide():
    return StepLoop(784, 128)


class ConvNet(nn.Module):
    """A convolution, hidden states inside the neurons, a spike count as logits."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.spike = snn.Leaky(beta=0.5, init_hidden=True)
        self.head = nn.Linear(6 * 64, 10)
        self.out = snn.Leaky(beta=0.5, init_hidden=True)

    def forward(self, x):
        self.spike.reset_mem()
        self.out.reset_mem()
        return torch.stack([self.out(self.head(self.spike(self.features(frame)).flatten(1))) for frame in x]).mean(0)


class PooledConvNet(nn.Module):
    """Pooling and a readout that is read at the last step: no network of the project computes this."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.lif = snn.Leaky(beta=0.9)
        self.fc = nn.Linear(4 * 9, 10)
        self.li = snn.Leaky(beta=0.9)

    def forward(self, x):
        mem, out = self.lif.reset_mem(), self.li.reset_mem()
        for frame in x:
            spikes, mem = self.lif(nn.functional.avg_pool2d(self.conv(frame), 2), mem)
            _, out = self.li(self.fc(spikes.flatten(1)), out)
        return out


class LastStep(StepLoop):
    """The same layers as `StepLoop`, read at the last step."""

    def forward(self, x):
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        for frame in x:
            spk1, mem1 = self.lif1(self.fc1(frame.flatten(1)), mem1)
            _, mem2 = self.lif2(self.fc2(spk1), mem2)
        return mem2


class Perceptron(nn.Module):
    """An artificial network that averages the frames."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))

    def forward(self, x):
        return self.layers(x.mean(0))


class Bare(nn.Module):
    """Parameters without layers, a surrogate of its own."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.w = nn.Parameter(torch.randn(40, 64, generator=generator) * 0.2)
        self.b = nn.Parameter(torch.zeros(40))
        self.v = nn.Parameter(torch.randn(10, 40, generator=generator) * 0.2)

    def forward(self, x):
        mem, out = torch.zeros(x.shape[1], 40), torch.zeros(x.shape[1], 10)
        for frame in x:
            mem = 0.8 * mem + frame.flatten(1) @ self.w.T + self.b
            spikes = Straight.apply(mem - 1)
            mem = mem - spikes.detach()
            out = out + spikes @ self.v.T
        return out


class Straight(torch.autograd.Function):
    """A surrogate that leaves the graph in its backward pass."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).float()

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.tensor(1 / (1 + ctx.saved_tensors[0].numpy() ** 2)) * float(grad.numpy().size > 0)


class Recording(nn.Module):
    """Returns what snntorch's tutorials return: spikes and membranes of all steps."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.flatten(2)), x


class Forgetful(nn.Module):
    """Keeps its membrane from one call to the next."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
        self.kept = 0.0

    def forward(self, x):
        self.kept = self.kept + float(x.sum())
        return self.fc(x.mean(0).flatten(1)) + self.kept


not_a_module = dict
A_NUMBER = 3


def broken():
    raise KeyError("checkpoint")
