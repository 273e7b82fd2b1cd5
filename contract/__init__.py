"""What two parties would silently disagree about without it. Nothing else gets in."""
