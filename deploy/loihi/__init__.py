"""`make loihi`: trained snntorch networks against the fixed-point simulation of Loihi 2."""
