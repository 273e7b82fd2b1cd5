"""Images out of first-layer gradients: row spaces, cones, grids, and simulation with the known network."""
