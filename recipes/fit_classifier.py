"""Train a classifier on any source, as a folder for --teacher: e.g. one with the BatchNorm that SRe2L and DEDA match.

    distill-hub make fit_classifier  # handwritten digits, offline, on a CPU
    distill-hub make fit_classifier --source cifar10 --network resnet-18-bn
    distill-hub make fit_classifier --source path/to/photos --test_fraction 0.2 --pretrained timm/resnet18.a1_in1k
    distill-hub make fit_classifier --mixed_precision bf16 --source imagenette --image_size 224
    distill-hub make fit_classifier --num_processes 2

The processes share each batch; a killed run goes on where it stopped.
"""

from distill_hub.config import launch, options
from distill_hub.options.fit_classifier import FitClassifierConfig
from distill_hub.options.shared import SourceOptions


def main(config: FitClassifierConfig) -> None:
    """Train, measure on the test split, and save network, record and model card."""
    from distill_hub.data.sources import load_source
    from distill_hub.teachers.fit import fit_classifier

    fit_classifier(load_source(**options(config, SourceOptions)), config).end()


if __name__ == "__main__":
    launch(main, FitClassifierConfig, __doc__)
