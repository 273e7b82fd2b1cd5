"""The works that the attacks come from, as BibTeX, and the one whose claim they test."""

from __future__ import annotations

from contract.citations import CITATIONS as BELOW
from hardware.bibliography import Citation, catalogue, work

_WORKS = (
    work(
        "misc",
        "zhao2020idlg",
        title="{iDLG}: Improved Deep Leakage from Gradients",
        author="Zhao, Bo and Mopuri, Konda Reddy and Bilen, Hakan",
        year="2020",
        eprint="2001.02610",
        archiveprefix="arXiv",
    ),
    work(
        "article",
        "phong2018privacy",
        title="Privacy-Preserving Deep Learning via Additively Homomorphic Encryption",
        author="Phong, Le Trieu and Aono, Yoshinori and Hayashi, Takuya and Wang, Lihua and Moriai, Shiho",
        journal="IEEE Transactions on Information Forensics and Security",
        volume="13",
        number="5",
        pages="1333--1345",
        year="2018",
    ),
    work(
        "inproceedings",
        "zhu2021rgap",
        title="{R-GAP}: Recursive Gradient Attack on Privacy",
        author="Zhu, Junyi and Blaschko, Matthew",
        booktitle="International Conference on Learning Representations",
        year="2021",
        eprint="2010.07733",
        archiveprefix="arXiv",
    ),
    work(
        "inproceedings",
        "zhu2019dlg",
        title="Deep Leakage from Gradients",
        author="Zhu, Ligeng and Liu, Zhijian and Han, Song",
        booktitle="Advances in Neural Information Processing Systems",
        year="2019",
        eprint="1906.08935",
        archiveprefix="arXiv",
    ),
    work(
        "inproceedings",
        "geiping2020inverting",
        title="Inverting Gradients: How Easy Is It to Break Privacy in Federated Learning?",
        author=r"Geiping, Jonas and Bauermeister, Hartmut and Dr{\"o}ge, Hannah and Moeller, Michael",
        booktitle="Advances in Neural Information Processing Systems",
        year="2020",
        eprint="2003.14053",
        archiveprefix="arXiv",
    ),
    work(
        "article",
        "marquardt1963algorithm",
        title="An Algorithm for Least-Squares Estimation of Nonlinear Parameters",
        author="Marquardt, Donald W.",
        journal="Journal of the Society for Industrial and Applied Mathematics",
        volume="11",
        number="2",
        pages="431--441",
        year="1963",
    ),
    work(
        "article",
        "ren2022grnn",
        title="{GRNN}: Generative Regression Neural Network---A Data Leakage Attack for Federated Learning",
        author="Ren, Hanchi and Deng, Jingjing and Xie, Xianghua",
        journal="ACM Transactions on Intelligent Systems and Technology",
        volume="13",
        number="4",
        year="2022",
        doi="10.1145/3510032",
        eprint="2105.00529",
        archiveprefix="arXiv",
    ),
    work(
        "software",
        "spikeleak",
        title="{spikeleak}: what a fleet of spiking edge devices spends, and what it leaks",
        author="{The spikeleak authors}",
        year="2026",
    ),
    work(
        "misc",
        "aksu2025privacy",
        title="Privacy in Federated Learning with Spiking Neural Networks",
        author="Aksu, Dogukan and Martinez del Rincon, Jesus and Alouani, Ihsen",
        year="2025",
        eprint="2511.21181",
        archiveprefix="arXiv",
    ),
)
CITATIONS: dict[str, Citation] = catalogue(_WORKS, [BELOW["bengio2013estimating"]])
"""Every cited work by its key. `spikeleak` stands for derivations of this project's own, given in the method's file."""
CLAIM = "aksu2025privacy"
"""Key of the work that says that spiking networks leak little: what attacks on them answer."""
