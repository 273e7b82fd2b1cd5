"""The data sets, one file each: what is known of it, and how its official files are read."""
