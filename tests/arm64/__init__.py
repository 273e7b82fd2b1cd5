"""The board's own wheels on this machine: aarch64 Python and onnxruntime under qemu-user. `make arm64-smoke`."""
