"""Engines by the library that computes the gradients. Imported lazily by `edge_client.engine`."""
