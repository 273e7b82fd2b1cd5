"""Files that are needed no more and may be written over: to make and to delete one costs more than to write it."""

from __future__ import annotations

from pathlib import Path

MOST = 2


class Spares:
    """A few of them, for a spool that is not synced: a power cut may undo a renaming, but not what was written over.

    Args:
        folder: Where they lie; those of an earlier life are deleted.
    """

    def __init__(self, folder: Path) -> None:
        self._free: list[Path] = []
        self._names = [folder / f"spare.{number}" for number in range(MOST)]
        for path in self._names:
            path.unlink(missing_ok=True)

    def take(self) -> Path | None:
        """One of them, if there is one."""
        if not self._free:
            return None
        self._names.append(self._free.pop())
        return self._names[-1] if self._names[-1].exists() else None

    def give(self, path: Path) -> bool:
        """Takes over a file that is to be deleted; `False` when there are enough.

        Raises:
            OSError: It cannot be renamed.
        """
        if not self._names:
            return False
        path.replace(self._names[-1])
        self._free.append(self._names.pop())
        return True
