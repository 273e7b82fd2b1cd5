"""The works that the ways to aggregate updates and to account for their privacy come from, as BibTeX."""

from __future__ import annotations

from hardware.bibliography import Citation, catalogue, work

CITATIONS: dict[str, Citation] = catalogue(
    (
        work(
            "inproceedings",
            "mcmahan2017communication",
            title="Communication-Efficient Learning of Deep Networks from Decentralized Data",
            author=r"McMahan, H. Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and "
            r"Ag{\"u}era y Arcas, Blaise",
            booktitle="International Conference on Artificial Intelligence and Statistics",
            year="2017",
            eprint="1602.05629",
            archiveprefix="arXiv",
        ),
        work(
            "inproceedings",
            "yin2018byzantine",
            title="{Byzantine}-Robust Distributed Learning: Towards Optimal Statistical Rates",
            author="Yin, Dong and Chen, Yudong and Ramchandran, Kannan and Bartlett, Peter",
            booktitle="International Conference on Machine Learning",
            year="2018",
            eprint="1803.01498",
            archiveprefix="arXiv",
        ),
        work(
            "inproceedings",
            "blanchard2017machine",
            title="Machine Learning with Adversaries: {Byzantine} Tolerant Gradient Descent",
            author="Blanchard, Peva and El Mhamdi, El Mahdi and Guerraoui, Rachid and Stainer, Julien",
            booktitle="Advances in Neural Information Processing Systems",
            year="2017",
            eprint="1703.02757",
            archiveprefix="arXiv",
        ),
        work(
            "misc",
            "sun2019backdoor",
            title="Can You Really Backdoor Federated Learning?",
            author="Sun, Ziteng and Kairouz, Peter and Suresh, Ananda Theertha and McMahan, H. Brendan",
            year="2019",
            eprint="1911.07963",
            archiveprefix="arXiv",
        ),
        work(
            "inproceedings",
            "reddi2021adaptive",
            title="Adaptive Federated Optimization",
            author=r"Reddi, Sashank J. and Charles, Zachary and Zaheer, Manzil and Garrett, Zachary and Rush, Keith "
            r"and Kone{\v{c}}n{\'y}, Jakub and Kumar, Sanjiv and McMahan, H. Brendan",
            booktitle="International Conference on Learning Representations",
            year="2021",
            eprint="2003.00295",
            archiveprefix="arXiv",
        ),
        work(
            "inproceedings",
            "nguyen2022federated",
            title="Federated Learning with Buffered Asynchronous Aggregation",
            author="Nguyen, John and Malik, Kshitiz and Zhan, Hongyuan and Yousefpour, Ashkan and Rabbat, Michael and "
            "Malek, Mani and Huba, Dzmitry",
            booktitle="International Conference on Artificial Intelligence and Statistics",
            year="2022",
            eprint="2106.06639",
            archiveprefix="arXiv",
        ),
        work(
            "article",
            "ma2021fedsa",
            title="{FedSA}: A Semi-Asynchronous Federated Learning Mechanism in Heterogeneous Edge Computing",
            author="Ma, Qianpiao and Xu, Yang and Xu, Hongli and Jiang, Zhida and Huang, Liusheng and Huang, He",
            journal="IEEE Journal on Selected Areas in Communications",
            volume="39",
            number="12",
            pages="3654--3672",
            year="2021",
            doi="10.1109/JSAC.2021.3118435",
        ),
        work(
            "inproceedings",
            "li2020federated",
            title="Federated Optimization in Heterogeneous Networks",
            author="Li, Tian and Sahu, Anit Kumar and Zaheer, Manzil and Sanjabi, Maziar and Talwalkar, Ameet and "
            "Smith, Virginia",
            booktitle="Machine Learning and Systems",
            year="2020",
            eprint="1812.06127",
            archiveprefix="arXiv",
        ),
        work(
            "article",
            "dong2022gaussian",
            title="{Gaussian} Differential Privacy",
            author="Dong, Jinshuo and Roth, Aaron and Su, Weijie J.",
            journal="Journal of the Royal Statistical Society Series B: Statistical Methodology",
            volume="84",
            number="1",
            pages="3--37",
            year="2022",
            doi="10.1111/rssb.12454",
            eprint="1905.02383",
            archiveprefix="arXiv",
        ),
        work(
            "inproceedings",
            "balle2018improving",
            title="Improving the {Gaussian} Mechanism for Differential Privacy: Analytical Calibration and Optimal "
            "Denoising",
            author="Balle, Borja and Wang, Yu-Xiang",
            booktitle="International Conference on Machine Learning",
            year="2018",
            eprint="1805.06530",
            archiveprefix="arXiv",
        ),
        work(
            "software",
            "dpaccounting",
            title="{dp-accounting}: Tools for Tracking Differential Privacy Budgets",
            author="{Google Differential Privacy Team}",
            url="https://github.com/google/differential-privacy",
        ),
    )
)
