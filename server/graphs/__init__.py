"""A task's training step and inference as ONNX graphs, written node by node. Needs onnx; torch for `checking` only."""
