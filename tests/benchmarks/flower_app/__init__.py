"""A federated spiking network as a user of Flower writes it; run by `tests.benchmarks.flower`, in its environment."""
