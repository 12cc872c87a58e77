"""Train a classifier on any source, as a folder for --teacher: e.g. one with the BatchNorm that SRe2L and DEDA match.

    accelerate launch recipes/fit_classifier.py                         # handwritten digits, offline, on a CPU
    accelerate launch recipes/fit_classifier.py --source cifar10 --network resnet-18-bn
    accelerate launch --mixed_precision bf16 recipes/fit_classifier.py --source imagenette --image_size 224
    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 recipes/fit_classifier.py

The processes share each batch; a killed run goes on where it stopped.
"""

from distill_hub.config import launch, options
from distill_hub.options.fit_classifier import FitClassifierConfig
from distill_hub.options.shared import SourceOptions


def main(config: FitClassifierConfig) -> None:
    """Train, measure on the test split, and save network, record and model card."""
    from distill_hub.data.sources import load_source
    from distill_hub.making.fit_classifier import fit_classifier

    fit_classifier(load_source(**options(config, SourceOptions)), config).end()


if __name__ == "__main__":
    launch(main, FitClassifierConfig, __doc__)
