"""`python -m edge_client CONFIG.toml`."""

from __future__ import annotations

import sys

from edge_client.app import main

sys.exit(main())
