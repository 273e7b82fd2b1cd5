"""Quantized spiking networks and their ANN twins.

`layout` and `operations` need numpy only; `network` and `reference` need torch.
"""
