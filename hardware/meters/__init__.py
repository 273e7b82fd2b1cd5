"""Meters, one file each. `hardware.meter` names them all."""
