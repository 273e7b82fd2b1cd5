"""How reconstructions are scored."""

from __future__ import annotations

from hardware.bibliography import work

WORKS = (
    work(
        "article",
        "wang2004image",
        title="Image Quality Assessment: From Error Visibility to Structural Similarity",
        author="Wang, Zhou and Bovik, Alan C. and Sheikh, Hamid R. and Simoncelli, Eero P.",
        journal="IEEE Transactions on Image Processing",
        volume="13",
        number="4",
        pages="600--612",
        year="2004",
        doi="10.1109/TIP.2003.819861",
    ),
    work(
        "inproceedings",
        "zhang2018unreasonable",
        title="The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
        author="Zhang, Richard and Isola, Phillip and Efros, Alexei A. and Shechtman, Eli and Wang, Oliver",
        booktitle="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
        year="2018",
        eprint="1801.03924",
        archiveprefix="arXiv",
    ),
    work(
        "article",
        "jonker1987shortest",
        title="A Shortest Augmenting Path Algorithm for Dense and Sparse Linear Assignment Problems",
        author="Jonker, Roy and Volgenant, Anton",
        journal="Computing",
        volume="38",
        number="4",
        pages="325--340",
        year="1987",
        doi="10.1007/BF02278710",
    ),
    work(
        "article",
        "hanley1982meaning",
        title="The Meaning and Use of the Area under a Receiver Operating Characteristic ({ROC}) Curve",
        author="Hanley, James A. and McNeil, Barbara J.",
        journal="Radiology",
        volume="143",
        number="1",
        pages="29--36",
        year="1982",
        doi="10.1148/radiology.143.1.7063747",
    ),
)
