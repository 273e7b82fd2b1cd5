"""What runs on a device. Light: neither torch nor another party is imported from here."""
