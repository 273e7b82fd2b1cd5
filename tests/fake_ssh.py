"""An `ssh` that reaches boards of a test's own: commands run here, with the board's own `uname`, `date` and so on.

The name that is connected to says what is wrong with the board; a name that is not known is not reached.
"""

from __future__ import annotations

from pathlib import Path

_SSH = """#!/bin/sh
for word in "$@"; do case "$word" in -V) echo "OpenSSH_9.2" >&2; exit 0 ;; esac; done
host="" last=""
while [ $# -gt 0 ]; do
    case "$1" in
    -o|-l|-p|-i|-F|-S|-E) shift 2 ;;
    -*) shift ;;
    *) host="$1"; shift; last="$*"; break ;;
    esac
done
board="{place}/${{host##*@}}"
if [ -f "$board/refused" ]; then cat "$board/refused" >&2; exit 255; fi
[ -d "$board" ] || {{ echo "ssh: connect to host ${{host##*@}} port 22: No route to host" >&2; exit 255; }}
PATH="$board:/usr/bin:/bin"; export PATH
exec sh -c "$last"
"""
_GOOD = {
    "uname": 'if [ "$1" = -m ]; then echo aarch64; else exec /usr/bin/uname "$@"; fi',
    "python3.11": "echo linux-aarch64",
    "df": "echo head; echo x 1 1 9000000 1 /",
    "id": "echo 0",
}


def make(place: Path, **wrong: dict[str, str]) -> Path:
    """A folder to put first on PATH, with `ssh` and one board for each keyword (`_` stands for `-`).

    Args:
        place: Where.
        wrong: Per board, shell text of programs in place of a good board's; `refused` is what ssh says instead.
    """
    place.mkdir()
    program = place / "ssh"
    program.write_text(_SSH.format(place=place))
    program.chmod(0o755)
    for name, programs in wrong.items():
        board = place / name.replace("_", "-")
        board.mkdir()
        if "refused" in programs:
            (board / "refused").write_text(programs["refused"] + "\n")
        for command, text in {**_GOOD, **programs}.items():
            path = board / command.replace("_", "-").replace("python3-11", "python3.11")
            if command != "refused":
                path.write_text(f"#!/bin/sh\n{text}\n")
                path.chmod(0o755)
    return place


def inventory(path: Path, *boards: str, **values: str) -> Path:
    """An inventory of these boards. There is no Python on them: a module that changes something could only fail."""
    lines = ["all:", "  vars:", "    ansible_python_interpreter: /nowhere/python3", "    ansible_user: pi"]
    lines += [f"    {key}: {value}" for key, value in values.items()]
    path.write_text("\n".join([*lines, "  hosts:", *(f"    {board}: {{}}" for board in boards), ""]))
    return path
