"""Exact recovery of the binary frames behind a fully connected layer's gradient, their order, samples and labels."""
