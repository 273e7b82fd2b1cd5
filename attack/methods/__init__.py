"""All attacks, in ladder order: cheapest first."""

from __future__ import annotations

from attack.method import Method

METHODS: dict[str, Method] = {}
