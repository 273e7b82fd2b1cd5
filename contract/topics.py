"""Every MQTT topic, built and parsed in one place. See SPEC.md, section "Topics"."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from contract.errors import WireError

ROOT = "spikeleak/v1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

Kind = Literal[
    "node",
    "server",
    "task",
    "model",
    "up",
    "ack",
    "mirror",
    "claim",
    "working",
    "recon",
    "score",
    "truth",
    "secure",
    "relay",
]


def valid_name(text: str) -> bool:
    """Whether `text` may be a run or node name: 1 to 63 of letters, digits, `_`, `.`, `-`, no leading sign."""
    return _NAME.fullmatch(text) is not None


def _run(run: str) -> str:
    if not valid_name(run):
        raise WireError(f"run name {run!r}: 1 to 63 letters, digits, '_', '.', '-', starting with a letter or digit")
    return f"{ROOT}/{run}"


def node_state(run: str, node: str) -> str:
    """Birth, death and last will of one device (retained)."""
    return f"{_run(run)}/node/{node}/state"


def server_state(run: str) -> str:
    """What the server is doing: the open round, its plan, the current model (retained)."""
    return f"{_run(run)}/server/state"


def task_manifest(run: str) -> str:
    """The task, as a `TaskManifest` (retained)."""
    return f"{_run(run)}/task/manifest"


def graph_chunk(run: str, name: str, index: int) -> str:
    """One chunk of a graph of the task (retained)."""
    return f"{_run(run)}/task/{name}/{index}"


def graph_filter(run: str, name: str) -> str:
    """Subscription to all chunks of one graph."""
    return f"{_run(run)}/task/{name}/+"


def model_chunk(run: str, version: int, index: int) -> str:
    """One chunk of a model's parameters (retained; old versions are cleared)."""
    return f"{_run(run)}/model/{version}/{index}"


def model_filter(run: str, version: int) -> str:
    """Subscription to all chunks of one model."""
    return f"{_run(run)}/model/{version}/+"


def update_chunk(run: str, node: str, round_: int, uid: str, index: int) -> str:
    """One chunk of a client update."""
    return f"{_run(run)}/up/{node}/{round_}/{uid}/{index}"


def ack(run: str, node: str) -> str:
    """The server's verdict on what one device sent."""
    return f"{_run(run)}/ack/{node}"


def mirror_chunk(run: str, round_: int, node: str, uid: str, index: int) -> str:
    """One chunk of an admitted update, byte-identical, for the attacker."""
    return f"{_run(run)}/mirror/{round_}/{node}/{uid}/{index}"


def first_chunks(run: str, group: str = "") -> str:
    """Subscription to the first chunk of every mirrored update, in a group (MQTT 5) to its part of them."""
    return f"{f'$share/{group}/' if group else ''}{_run(run)}/mirror/+/+/+/0"


def mirrored(run: str, round_: int, node: str, uid: str) -> str:
    """Subscription to all chunks of one mirrored update."""
    return f"{_run(run)}/mirror/{round_}/{node}/{uid}/+"


def claim(run: str, round_: int, node: str, uid: str) -> str:
    """An attacker that has the first chunk of a mirrored update asks for the rest."""
    return f"{_run(run)}/claim/{round_}/{node}/{uid}"


def working(run: str, round_: int, node: str, uid: str) -> str:
    """A sign of an attacker that is still at work on a mirrored update."""
    return f"{_run(run)}/working/{round_}/{node}/{uid}"


def recon_chunk(run: str, node: str, round_: int, index: int) -> str:
    """One chunk of the attacker's reconstructions, on the way to the device that owns the truth."""
    return f"{_run(run)}/recon/{node}/{round_}/{index}"


def score(run: str, node: str, round_: int) -> str:
    """Energy reports and leakage scores of one device's update."""
    return f"{_run(run)}/score/{node}/{round_}"


def truth(run: str, node: str, round_: int) -> str:
    """True inputs; only in lab mode."""
    return f"{_run(run)}/truth/{node}/{round_}"


def secure(run: str, node: str, round_: int) -> str:
    """A device's part in the secure aggregation of a round."""
    return f"{_run(run)}/secure/{node}/{round_}"


def relay(run: str, node: str) -> str:
    """What the server tells one device for secure aggregation."""
    return f"{_run(run)}/relay/{node}"


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed topic. Fields that a kind does not have are empty (`""`, -1)."""

    run: str
    kind: Kind
    node: str = ""
    round: int = -1
    version: int = -1
    uid: str = ""
    graph: str = ""
    index: int = -1


_FORMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "node": (("node", "=state"),),
    "server": (("=state",),),
    "task": (("=manifest",), ("graph", "index")),
    "model": (("version", "index"),),
    "up": (("node", "round", "uid", "index"),),
    "ack": (("node",),),
    "mirror": (("round", "node", "uid", "index"),),
    "claim": (("round", "node", "uid"),),
    "working": (("round", "node", "uid"),),
    "recon": (("node", "round", "index"),),
    "score": (("node", "round"),),
    "truth": (("node", "round"),),
    "secure": (("node", "round"),),
    "relay": (("node",),),
}


def parse(topic: str) -> Topic:
    """Takes a topic apart.

    Raises:
        WireError: Not one of this project's topics, or a level that is not of its form.
    """
    levels = topic.split("/")
    if len(levels) < 4 or "/".join(levels[:2]) != ROOT or not valid_name(levels[2]) or levels[3] not in _FORMS:
        raise WireError(f"topic {topic!r} is none of {ROOT}/<run>/<{'|'.join(_FORMS)}>/…")
    rest = levels[4:]
    form = next((form for form in _FORMS[levels[3]] if len(form) == len(rest)), None)
    if form is None:
        takes = " or ".join(str(len(form)) for form in _FORMS[levels[3]])
        raise WireError(f"topic {topic!r}: {levels[3]!r} takes {takes} further levels, found {len(rest)}")
    fields: dict[str, str | int] = {"run": levels[2], "kind": levels[3]}
    for name, level in zip(form, rest, strict=True):
        if name.startswith("="):
            if level != name[1:]:
                raise WireError(f"topic {topic!r}: level {level!r} must be {name[1:]!r}")
        elif name in {"node", "uid", "graph"}:
            if not valid_name(level):
                raise WireError(f"topic {topic!r}: {name} {level!r} is not a valid name")
            fields[name] = level
        else:
            if not (level.isascii() and level.isdigit() and len(level) <= 9):
                raise WireError(f"topic {topic!r}: {name} {level!r} is not a number of at most 9 digits")
            fields[name] = int(level)
    return msgspec.convert(fields, Topic)


SUBSCRIPTIONS: dict[str, tuple[str, ...]] = {
    "client": ("server/state", "task/manifest", "ack/{node}", "recon/{node}/+/+", "relay/{node}"),
    "server": (
        *("node/+/state", "up/+/+/+/+", "claim/+/+/+", "working/+/+/+"),
        *("recon/+/+/+", "score/+/+", "truth/+/+", "secure/+/+"),
    ),
    "attack": ("server/state", "task/manifest", "model/+/+", "mirror/+/+/+/+"),
    "worker": ("server/state", "task/manifest", "model/+/+"),
}
"""What each party reads. A device subscribes to `model/{version}/+` on demand, when it is selected, and to the graphs
that its engine wants until it has them. A `worker` is one of several attackers on one mirror: it subscribes to
`first_chunks`, and to an update's others once it claims them."""


def subscriptions(party: str, run: str, node: str = "") -> tuple[str, ...]:
    """Topic filters of one party."""
    return tuple(f"{_run(run)}/{suffix.format(node=node)}" for suffix in SUBSCRIPTIONS[party])
