"""Boards without boards: Debian roots that boot systemd, or run aarch64 under qemu. `make boards`, `make arm64`."""
