"""Ansible's output as one JSON line per task and board, for `spikeleak deploy`: what it shows, it makes of these.

Fields: `event` (started, ok, failed, unreachable, skipped), `board`, `task`, `text` (why, or what was said), `told` (what
the task registered under `board`: facts of the board), `ignored` (a failure that the playbook goes on from).
"""

import json

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: board_events
type: stdout
short_description: one JSON line per task and board
description: Read by spikeleak deploy.
"""


class CallbackModule(CallbackBase):
    """Writes the lines."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "board_events"

    def _say(self, event, result, *, ignored=False):
        host, task, content = result._host.get_name(), result._task.get_name(), result._result
        said = content.get("msg") or ""
        output = "\n".join(filter(None, (content.get("stdout"), content.get("stderr"))))
        line = {"event": event, "board": host, "task": task, "ignored": ignored}
        line |= {"text": str(said).strip(), "output": output.strip()}
        line["told"] = content.get("ansible_facts", {}).get("board") or {}
        print(json.dumps(line, default=str), flush=True)

    def v2_runner_on_start(self, host, task):
        line = {"event": "started", "board": host.get_name(), "task": task.get_name()}
        print(json.dumps(line), flush=True)

    def v2_runner_on_ok(self, result):
        self._say("ok", result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._say("failed", result, ignored=ignore_errors)

    def v2_runner_on_unreachable(self, result):
        self._say("unreachable", result)
