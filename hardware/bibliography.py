"""Works to cite, as BibTeX: what the rooms' lists of them are made of. Members of families hold keys only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

_IDENTIFYING = ("doi", "eprint", "url")
_SPECIAL = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_"}
    | {"\\": r"\textbackslash ", "{": r"\textbraceleft ", "}": r"\textbraceright "}
    | {"~": r"\textasciitilde ", "^": r"\textasciicircum "}
)


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """A work to cite.

    Attributes:
        kind: BibTeX's type of entry.
        key: Its key.
        fields: Names and values of the fields, the values in LaTeX.
    """

    kind: str
    key: str
    fields: tuple[tuple[str, str], ...]

    @property
    def entry(self) -> str:
        """The BibTeX entry."""
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in self.fields)
        return f"@{self.kind}{{{self.key},\n{body}\n}}"

    @property
    def identifiers(self) -> tuple[str, ...]:
        """Its doi, arXiv number and address, without the scheme."""
        return tuple(value.removeprefix("https://") for name, value in self.fields if name in _IDENTIFYING)


def work(kind: str, key: str, **fields: str) -> Citation:
    """A citation, its fields in the order in which they are given."""
    return Citation(kind=kind, key=key, fields=tuple(fields.items()))


def note(title: str, text: str) -> Citation:
    """A citation of what is known in words alone, such as a source that a user wrote down.

    Args:
        title: In LaTeX.
        text: In plain words; the key follows from them.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return work("misc", f"source-{digest}", title=title, note=" ".join(text.split()).translate(_SPECIAL))


def catalogue(*lists: Iterable[Citation]) -> dict[str, Citation]:
    """Works of several lists by their key. Two lists may share a work, but no key stands for two."""
    found: dict[str, Citation] = {}
    for citation in (citation for one in lists for citation in one):
        assert found.setdefault(citation.key, citation) == citation, citation.key
    return found
