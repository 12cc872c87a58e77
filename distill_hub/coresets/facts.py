"""Who the coresets are by."""

from distill_hub.coresets.names import CORESETS

RANDOM = {"name": "random", "title": "random selection of real images"}
_PAPERS = {
    "herding": (
        "Herding",
        "https://doi.org/10.1145/1553374.1553517",
        """@inproceedings{welling2009herding,
  title = {Herding Dynamical Weights to Learn},
  author = {Welling, Max},
  booktitle = {International Conference on Machine Learning},
  year = {2009},
}""",
    ),
    "kcenter": (
        "K-Center",
        "https://arxiv.org/abs/1708.00489",
        """@inproceedings{sener2018active,
  title = {Active Learning for Convolutional Neural Networks: A Core-Set Approach},
  author = {Sener, Ozan and Savarese, Silvio},
  booktitle = {International Conference on Learning Representations},
  year = {2018},
}""",
    ),
    "el2n": (
        "EL2N",
        "https://arxiv.org/abs/2107.07075",
        """@inproceedings{paul2021deep,
  title = {Deep Learning on a Data Diet: Finding Important Examples Early in Training},
  author = {Paul, Mansheej and Ganguli, Surya and Dziugaite, Gintare Karolina},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021},
}""",
    ),
    "forgetting": (
        "Forgetting",
        "https://arxiv.org/abs/1812.05159",
        """@inproceedings{toneva2019empirical,
  title = {An Empirical Study of Example Forgetting during Deep Neural Network Learning},
  author = {Toneva, Mariya and Sordoni, Alessandro and Tachet des Combes, Remi and Trischler, Adam and Bengio, Yoshua
            and Gordon, Geoffrey J.},
  booktitle = {International Conference on Learning Representations},
  year = {2019},
}""",
    ),
    "aum": (
        "Area Under the Margin",
        "https://arxiv.org/abs/2001.10528",
        """@inproceedings{pleiss2020identifying,
  title = {Identifying Mislabeled Data using the Area Under the Margin Ranking},
  author = {Pleiss, Geoff and Zhang, Tianyi and Elenberg, Ethan R. and Weinberger, Kilian Q.},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
}""",
    ),
    "ccs": (
        "Coverage-centric Coreset Selection",
        "https://arxiv.org/abs/2210.15809",
        """@inproceedings{zheng2023coverage,
  title = {Coverage-centric Coreset Selection for High Pruning Rates},
  author = {Zheng, Haizhong and Liu, Rui and Lai, Fan and Prakash, Atul},
  booktitle = {International Conference on Learning Representations},
  year = {2023},
}""",
    ),
    "facility-location": (
        "Facility Location",
        "https://arxiv.org/abs/2204.08499",
        """@inproceedings{guo2022deepcore,
  title = {DeepCore: A Comprehensive Library for Coreset Selection in Deep Learning},
  author = {Guo, Chengcheng and Zhao, Bo and Bai, Yanbing},
  booktitle = {Database and Expert Systems Applications},
  year = {2022},
}""",
    ),
    "kmeans": (
        "K-Means",
        "https://doi.org/10.1109/TIT.1982.1056489",
        """@article{lloyd1982least,
  title = {Least Squares Quantization in {PCM}},
  author = {Lloyd, Stuart P.},
  journal = {IEEE Transactions on Information Theory},
  year = {1982},
}""",
    ),
}
FACTS = {
    name: {"name": name, **dict(zip(("title", "paper", "bibtex"), _PAPERS[name], strict=True))} for name in CORESETS
}  # for `method_record`
