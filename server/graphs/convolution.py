"""Strided convolutions as nodes: forward, and both gradients as convolutions."""

from __future__ import annotations

from contract.models.layout import LayerSpec
from server.graphs.builder import Graph, Value


class Convolution:
    """A convolution over images ``[N, channels, height, width]``.

    The weight's gradient ``dW[o,c,i,j] = sum_nyx delta[n,o,y,x] x[n,c,sy+i,sx+j]`` is a convolution itself, with rows
    and channels exchanged, ``delta`` as kernel and the stride as its dilation; the input's is the transposed one.

    Args:
        graph: Where the nodes go.
        spec: The layer.
        weight: Its weight, as it multiplies.
        bias: Its bias.
    """

    def __init__(self, graph: Graph, spec: LayerSpec, weight: Value, bias: Value) -> None:
        self._graph, self._spec, self._weight, self._bias = graph, spec, weight, bias
        self._stride, self._pads = [spec.stride] * 2, [spec.padding] * 4
        # Rows and columns at the far side that no kernel reaches.
        self._unread = [(side + 2 * spec.padding - spec.kernel) % spec.stride for side in spec.inputs[1:]]
        self._images = ""

    def forward(self, x: Value) -> Value:
        """See `server.graphs.affine.Affine`."""
        graph = self._graph
        self._images = graph.reshape(x, -1, *self._spec.inputs)
        return graph.node("Conv", self._images, self._weight, self._bias, strides=self._stride, pads=self._pads)

    def parameter_gradients(self, delta: Value) -> tuple[Value, Value]:
        """See `server.graphs.affine.Affine`."""
        graph, pad = self._graph, self._spec.padding
        rows = graph.reshape(delta, -1, *self._spec.outputs)
        swapped = [graph.node("Transpose", value, perm=[1, 0, 2, 3]) for value in (self._images, rows)]
        cut = [min(pad, unread) for unread in self._unread]
        pads = [pad, pad, pad - cut[0], pad - cut[1]]
        weight = graph.node("Conv", *swapped, dilations=self._stride, pads=pads)
        if cut != self._unread:
            kernel = graph.integers(self._spec.kernel, self._spec.kernel)
            weight = graph.node("Slice", weight, graph.integers(0, 0), kernel, graph.integers(2, 3))
        return graph.node("Transpose", weight, perm=[1, 0, 2, 3]), graph.total(rows, 0, 2, 3)

    def input_gradient(self, delta: Value) -> Value:
        """See `server.graphs.affine.Affine`."""
        rows = self._graph.reshape(delta, -1, *self._spec.outputs)
        return self._graph.node(
            "ConvTranspose", rows, self._weight, strides=self._stride, pads=self._pads, output_padding=self._unread
        )
