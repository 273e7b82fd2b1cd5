"""Convolution as a product over windows, with derivatives of every order that are gathers and products too.

``conv2d(x, W) = W · windows(x)``. Gathering windows and its transpose, adding windows back onto the image, are linear
and each other's derivative; both are one `index_select`. For the small layers of gradient matching this beats the
convolution kernels' second derivatives, whose kernels are as large as the image.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from contract.models.layout import LayerSpec


@lru_cache(maxsize=32)
def _indices(layer: LayerSpec) -> tuple[Tensor, Tensor]:
    """Pixel of each window's entry `[C k² P]`, and the windows' entries of each pixel `[C H W · m]`.

    Index ``C H W`` stands for the padding's zero, ``C k² P`` for no entry.
    """
    channels, height, width = layer.inputs
    _, rows, columns = layer.outputs
    k, size = layer.kernel, channels * height * width
    grid = torch.arange(size).reshape(1, channels, height, width).double() + 1
    padded = torch.nn.functional.pad(grid, (layer.padding,) * 4)
    seen = torch.nn.functional.unfold(padded, k, stride=layer.stride)[0].long() - 1
    assert seen.shape == (channels * k * k, rows * columns)
    pixels = torch.where(seen < 0, size, seen).flatten()
    order = torch.argsort(pixels, stable=True)
    kept = order[pixels[order] < size]
    counts = torch.bincount(pixels[kept], minlength=size)
    first = torch.cumsum(counts, 0) - counts
    entries = torch.full((size, int(counts.max())), len(pixels))
    place = torch.arange(len(kept)) - first[pixels[kept]]
    entries[pixels[kept], place] = kept
    return pixels, entries.flatten()


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, 1)).index_select(1, index)


class _Gather(torch.autograd.Function):
    """Images `[N, C H W]` to windows `[N, C k² P]`, or windows added back onto images."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: LayerSpec, back: bool) -> Tensor:  # noqa: FBT001
        ctx.settings = (layer, back)
        pixels, entries = _indices(layer)
        if not back:
            return _gathered(x, pixels)
        size = layer.inputs[0] * layer.inputs[1] * layer.inputs[2]
        return _gathered(x, entries).view(len(x), size, -1).sum(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        layer, back = ctx.settings
        return _Gather.apply(gradients[0], layer, not back), None, None  # type: ignore[no-untyped-call]


def windows(x: Tensor, layer: LayerSpec) -> Tensor:
    """The windows that a convolution sees.

    Args:
        x: `[N, C, H, W]`, of the layer's input shape.
        layer: The convolution.

    Returns:
        `[N, P, C k²]`: one row per output position.
    """
    found: Tensor = _Gather.apply(x.flatten(1), layer, False)  # type: ignore[no-untyped-call]
    positions = layer.outputs[1] * layer.outputs[2]
    return found.view(len(x), -1, positions).transpose(1, 2)
