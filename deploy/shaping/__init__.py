"""Links that are slow, narrow, broken or noisy, on purpose: before an emulated board, and in the fault tests."""
