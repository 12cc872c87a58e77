"""Options of IDC."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import option
from distill_hub.kinds import NonNegativeInt, PositiveFloat, PositiveInt
from distill_hub.options.matching import NetworkOptions
from distill_hub.options.shared import FormationOptions, PixelOptions


@dataclass(frozen=True)
class IdcConfig(FormationOptions, NetworkOptions, PixelOptions):
    """IDC: gradients of images that are stored as tiles, in networks trained on real images."""

    match_networks: PositiveInt | None = option(
        None, "networks, one after another; default: 2,000 as in the paper, above 64 px 500, up to 16 px 10", common=True
    )
    match_steps: PositiveInt | None = option(
        None, "steps in each network; default: 100 as in the paper, up to 16 px 10", common=True
    )
    match_learning_rate: PositiveFloat | None = option(
        None,
        "SGD learning rate on pixels in [0, 1]; default, as in the released code: 0.005 * IPC / 10 * (side / 32)^2 (l1: "
        "0.0001; MNIST: side / 28), above 64 px 0.003 * IPC / 10 * (side / 224)^2 (from 100 classes on 0.001); up to 16 px "
        "200 times as large",
    )
    distance: Literal["mse", "l1"] | None = option(
        None,
        "of gradients: sum of squares, or of absolute values; default as in the paper: l1 above 64 px and of MNIST, or mse",
    )
    real_batch_size: PositiveInt | None = option(
        None,
        "real images of a class in every step; default: 64 as in the paper, above 64 px from 100 classes on, and with "
        "--sampler dream, 128",
    )
    sampler: Literal["random", "dream"] = option(
        "random",
        "which real images: at random, or those nearest to the means of as many clusters, made anew every 10 steps (DREAM)",
        common=True,
    )
    start: Literal["mix", "real", "noise"] = option(
        "mix",
        "what the images start from: real ones at random, one in every tile (mix) or as they are (real), or normal noise",
    )
    training_images: PositiveInt | None = option(
        None,
        "real images that a network is trained on after every step; default as in the paper: 500, of CIFAR 2,000; up to "
        "16 px 64",
    )
    pretrain_epochs: NonNegativeInt | None = option(
        None,
        "epochs that each network is trained for before its first step; default: none, above 64 px 10 as in the paper, from "
        "100 classes on 5",
    )
    classes_at_a_time: PositiveInt | None = option(
        None,
        "classes of a chunk of work, which processes share; each trains the same networks anew; default: all, in one chunk",
        common=True,
    )
