"""Physical boards: what one installs, and how a fleet of them is run over ssh."""
