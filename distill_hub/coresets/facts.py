"""Who the coresets are by."""

RANDOM = {"name": "random", "title": "random selection of real images"}
HERDING = {
    "name": "herding",
    "title": "Herding",
    "paper": "https://doi.org/10.1145/1553374.1553517",
    "bibtex": """@inproceedings{welling2009herding,
  title = {Herding Dynamical Weights to Learn},
  author = {Welling, Max},
  booktitle = {International Conference on Machine Learning},
  year = {2009},
}""",
}
K_CENTER = {
    "name": "kcenter",
    "title": "K-Center",
    "paper": "https://arxiv.org/abs/1708.00489",
    "bibtex": """@inproceedings{sener2018active,
  title = {Active Learning for Convolutional Neural Networks: A Core-Set Approach},
  author = {Sener, Ozan and Savarese, Silvio},
  booktitle = {International Conference on Learning Representations},
  year = {2018},
}""",
}
EL2N = {
    "name": "el2n",
    "title": "EL2N",
    "paper": "https://arxiv.org/abs/2107.07075",
    "bibtex": """@inproceedings{paul2021deep,
  title = {Deep Learning on a Data Diet: Finding Important Examples Early in Training},
  author = {Paul, Mansheej and Ganguli, Surya and Dziugaite, Gintare Karolina},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021},
}""",
}
FORGETTING = {
    "name": "forgetting",
    "title": "Forgetting",
    "paper": "https://arxiv.org/abs/1812.05159",
    "bibtex": """@inproceedings{toneva2019empirical,
  title = {An Empirical Study of Example Forgetting during Deep Neural Network Learning},
  author = {Toneva, Mariya and Sordoni, Alessandro and Tachet des Combes, Remi and Trischler, Adam and Bengio, Yoshua
            and Gordon, Geoffrey J.},
  booktitle = {International Conference on Learning Representations},
  year = {2019},
}""",
}
AUM = {
    "name": "aum",
    "title": "AUM",
    "paper": "https://arxiv.org/abs/2001.10528",
    "bibtex": """@inproceedings{pleiss2020identifying,
  title = {Identifying Mislabeled Data using the Area Under the Margin Ranking},
  author = {Pleiss, Geoff and Zhang, Tianyi and Elenberg, Ethan R. and Weinberger, Kilian Q.},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
}""",
}
CCS = {
    "name": "ccs",
    "title": "CCS: Coverage-centric Coreset Selection",
    "paper": "https://arxiv.org/abs/2210.15809",
    "bibtex": """@inproceedings{zheng2023coverage,
  title = {Coverage-centric Coreset Selection for High Pruning Rates},
  author = {Zheng, Haizhong and Liu, Rui and Lai, Fan and Prakash, Atul},
  booktitle = {International Conference on Learning Representations},
  year = {2023},
}""",
}
FACILITY_LOCATION = {
    "name": "facility-location",
    "title": "Facility Location",
    "paper": "https://arxiv.org/abs/2204.08499",
    "bibtex": """@inproceedings{guo2022deepcore,
  title = {DeepCore: A Comprehensive Library for Coreset Selection in Deep Learning},
  author = {Guo, Chengcheng and Zhao, Bo and Bai, Yanbing},
  booktitle = {Database and Expert Systems Applications},
  year = {2022},
}""",
}
K_MEANS = {
    "name": "kmeans",
    "title": "K-Means",
    "paper": "https://doi.org/10.1109/TIT.1982.1056489",
    "bibtex": """@article{lloyd1982least,
  title = {Least Squares Quantization in {PCM}},
  author = {Lloyd, Stuart P.},
  journal = {IEEE Transactions on Information Theory},
  year = {1982},
}""",
}
FACTS = {facts["name"]: facts for facts in (HERDING, K_CENTER, EL2N, FORGETTING, AUM, CCS, FACILITY_LOCATION, K_MEANS)}
