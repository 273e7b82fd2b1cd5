"""The attacker: an honest-but-curious party that reconstructs inputs from mirrored updates."""
