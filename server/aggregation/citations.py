"""The works that the ways to train, protect and aggregate updates come from, as BibTeX."""

from __future__ import annotations


def _entry(kind: str, key: str, **fields: str) -> tuple[str, str]:
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return key, f"@{kind}{{{key},\n{body}\n}}"


CITATIONS: dict[str, str] = dict(
    (
        _entry(
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
        _entry(
            "inproceedings",
            "yin2018byzantine",
            title="{Byzantine}-Robust Distributed Learning: Towards Optimal Statistical Rates",
            author="Yin, Dong and Chen, Yudong and Ramchandran, Kannan and Bartlett, Peter",
            booktitle="International Conference on Machine Learning",
            year="2018",
            eprint="1803.01498",
            archiveprefix="arXiv",
        ),
        _entry(
            "inproceedings",
            "blanchard2017machine",
            title="Machine Learning with Adversaries: {Byzantine} Tolerant Gradient Descent",
            author="Blanchard, Peva and El Mhamdi, El Mahdi and Guerraoui, Rachid and Stainer, Julien",
            booktitle="Advances in Neural Information Processing Systems",
            year="2017",
            eprint="1703.02757",
            archiveprefix="arXiv",
        ),
        _entry(
            "misc",
            "sun2019backdoor",
            title="Can You Really Backdoor Federated Learning?",
            author="Sun, Ziteng and Kairouz, Peter and Suresh, Ananda Theertha and McMahan, H. Brendan",
            year="2019",
            eprint="1911.07963",
            archiveprefix="arXiv",
        ),
        _entry(
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
        _entry(
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
        _entry(
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
        _entry(
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
        _entry(
            "inproceedings",
            "abadi2016deep",
            title="Deep Learning with Differential Privacy",
            author="Abadi, Martin and Chu, Andy and Goodfellow, Ian and McMahan, H. Brendan and Mironov, Ilya and "
            "Talwar, Kunal and Zhang, Li",
            booktitle="ACM SIGSAC Conference on Computer and Communications Security",
            year="2016",
            doi="10.1145/2976749.2978318",
        ),
        _entry(
            "inproceedings",
            "bonawitz2017practical",
            title="Practical Secure Aggregation for Privacy-Preserving Machine Learning",
            author="Bonawitz, Keith and Ivanov, Vladimir and Kreuter, Ben and Marcedone, Antonio and McMahan, H. "
            "Brendan and Patel, Sarvar and Ramage, Daniel and Segal, Aaron and Seth, Karn",
            booktitle="ACM SIGSAC Conference on Computer and Communications Security",
            year="2017",
            doi="10.1145/3133956.3133982",
        ),
    )
)
