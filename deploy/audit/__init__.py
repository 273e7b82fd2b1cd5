"""`spikeleak audit`: the ladder of attacks on somebody's own model and captured update."""
