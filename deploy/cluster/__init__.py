"""What a fleet beyond one broker needs, computed from what a run and a broker were measured to take."""
