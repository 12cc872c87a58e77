"""How to cite the sources that are known by name, by Hub id; the digits, which are on no Hub, by name."""

SOURCES = {
    "digits": """@misc{alpaydin1998digits,
  title = {Optical Recognition of Handwritten Digits},
  author = {Alpaydin, Ethem and Kaynak, Cenk},
  howpublished = {UCI Machine Learning Repository},
  year = {1998},
  doi = {10.24432/C50P49},
}""",
    "ILSVRC/imagenet-1k": """@article{russakovsky2015imagenet,
  title = {{ImageNet} Large Scale Visual Recognition Challenge},
  author = {Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and Satheesh, Sanjeev and Ma, Sean
            and Huang, Zhiheng and Karpathy, Andrej and Khosla, Aditya and Bernstein, Michael and Berg, Alexander C.
            and Fei-Fei, Li},
  journal = {International Journal of Computer Vision},
  volume = {115},
  number = {3},
  pages = {211--252},
  year = {2015},
  doi = {10.1007/s11263-015-0816-y},
}""",
    "zh-plus/tiny-imagenet": """@techreport{le2015tiny,
  title = {Tiny {ImageNet} Visual Recognition Challenge},
  author = {Le, Ya and Yang, Xuan},
  institution = {Stanford University},
  type = {{CS} 231N course report},
  year = {2015},
}""",
    **dict.fromkeys(
        ("uoft-cs/cifar10", "uoft-cs/cifar100"),
        """@techreport{krizhevsky2009learning,
  title = {Learning Multiple Layers of Features from Tiny Images},
  author = {Krizhevsky, Alex},
  institution = {University of Toronto},
  year = {2009},
}""",
    ),
}
