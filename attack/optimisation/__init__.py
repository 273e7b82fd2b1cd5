"""Gradient matching, composed: objective × prior × start × optimiser. One small file each."""
