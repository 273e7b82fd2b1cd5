"""Networks that no task describes: what they do, and which layers see the input and tell labels."""
