"""Ansible's output as one JSON line per task and board, for `spikeleak deploy`: what it shows, it makes of these.

Fields: `event` (started, ok, failed, unreachable), `board`, `task`, `text` (why), `output` (what its command wrote),
`told` (the fact `board`, where the task set it), `ignored` (a failure that the playbook goes on from).
"""

from __future__ import annotations

import json
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: board_events
type: stdout
short_description: one JSON line per task and board
description: Read by spikeleak deploy.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Writes the lines."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "board_events"

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """A board begins a task."""
        _say({"event": "started", "board": host.get_name(), "task": task.get_name()})

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task is done."""
        _end("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:  # noqa: FBT001, FBT002 - Ansible's
        """A task failed."""
        _end("failed", result, ignored=ignore_errors)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """The board was not reached."""
        _end("unreachable", result)


def _end(event: str, result: Any, *, ignored: bool = False) -> None:
    content = result._result  # noqa: SLF001 - documented for callback plugins, in spite of its name
    output = "\n".join(filter(None, (content.get("stdout"), content.get("stderr"))))
    _say(
        {
            "event": event,
            "board": result._host.get_name(),  # noqa: SLF001
            "task": result._task.get_name(),  # noqa: SLF001
            "text": str(content.get("msg") or "").strip(),
            "output": output.strip(),
            "told": content.get("ansible_facts", {}).get("board") or {},
            "ignored": bool(ignored),
        }
    )


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line, default=str), flush=True)
