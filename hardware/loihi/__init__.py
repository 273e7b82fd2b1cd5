"""Spiking networks on Loihi 2: integers, files, a numpy reference, and lava in a process of its own."""
