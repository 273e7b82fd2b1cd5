"""The works that the constants of energy profiles come from, as BibTeX, found by what a constant's source names."""

from __future__ import annotations

import re
from functools import cache

from hardware.bibliography import Citation, catalogue, note, work
from hardware.profile_files import load_profile, profiles

CITATIONS: dict[str, Citation] = catalogue(
    (
        work(
            "inproceedings",
            "horowitz2014computing",
            title="Computing's Energy Problem (and What We Can Do about It)",
            author="Horowitz, Mark",
            booktitle="IEEE International Solid-State Circuits Conference Digest of Technical Papers",
            pages="10--14",
            year="2014",
            doi="10.1109/ISSCC.2014.6757323",
        ),
        work(
            "article",
            "degnan2016assessing",
            title="Assessing Trends in Performance per Watt for Signal Processing Applications",
            author="Degnan, Brian and Marr, Bo and Hasler, Jennifer",
            journal="IEEE Transactions on Very Large Scale Integration (VLSI) Systems",
            volume="24",
            number="1",
            pages="58--66",
            year="2016",
            url="https://ieeexplore.ieee.org/document/7054508",
        ),
        work(
            "article",
            "davies2018loihi",
            title="{Loihi}: A Neuromorphic Manycore Processor with On-Chip Learning",
            author="Davies, Mike and Srinivasa, Narayan and Lin, Tsung-Han and Chinya, Gautham and others",
            journal="IEEE Micro",
            volume="38",
            number="1",
            pages="82--99",
            year="2018",
            doi="10.1109/MM.2018.112130359",
        ),
        work(
            "article",
            "hoeppner2019dynamic",
            title="Dynamic Power Management for Neuromorphic Many-Core Systems",
            author=r"H{\"o}ppner, Sebastian and Vogginger, Bernhard and Yan, Yexin and Dixius, Andreas and Scholze, "
            r"Stefan and Partzsch, Johannes and Neum{\"a}rker, Felix and Hartmann, Stephan and Schiefer, Stefan and "
            r"Ellguth, Georg and Cederstroem, Love and Plana, Luis and Garside, Jim and Furber, Steve and Mayr, "
            "Christian",
            journal="IEEE Transactions on Circuits and Systems I: Regular Papers",
            volume="66",
            number="8",
            pages="2973--2986",
            year="2019",
            eprint="1903.08941",
            archiveprefix="arXiv",
        ),
        work(
            "software",
            "kerasspiking",
            title="{KerasSpiking}, estimates of energy by device",
            author="{Applied Brain Research}",
            url="https://github.com/nengo/keras-spiking",
        ),
        work(
            "misc",
            "geerling2024top500",
            title="{top500-benchmark}: {High Performance Linpack} on small computers",
            author="Geerling, Jeff",
            year="2024",
            url="https://github.com/geerlingguy/top500-benchmark",
        ),
        work(
            "inproceedings",
            "kaup2014powerpi",
            title="{PowerPi}: Measuring and Modeling the Power Consumption of the {Raspberry Pi}",
            author="Kaup, Fabian and Gottschling, Philip and Hausheer, David",
            booktitle="IEEE Conference on Local Computer Networks",
            pages="236--243",
            year="2014",
            doi="10.1109/LCN.2014.6925777",
        ),
    )
)


def works_behind(source: str) -> tuple[Citation, ...]:
    """What to cite for a constant.

    Args:
        source: Its source. One that is not this program's own stays as it is, beside the known works that it names:
            it may say more than they do.
    """
    named = tuple(
        citation for citation in CITATIONS.values() if any(_names(source, known) for known in citation.identifiers)
    )
    return named if source in _sources() and named else (*named, note("Source of constants of energy", source))


def _names(source: str, identifier: str) -> bool:
    return re.search(rf"(?<!\d){re.escape(identifier)}(?!\d)", source, re.IGNORECASE) is not None


@cache
def _sources() -> frozenset[str]:
    """Sources of the constants of this program's profiles, whose radios are its own too."""
    found = [part for name in profiles() for part in load_profile(name) if part is not None]
    return frozenset(constant.source for part in found for constant in part.constants)
