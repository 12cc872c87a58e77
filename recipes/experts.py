"""Train experts on a source and keep their trajectories, for mtt to match (Cazenavette et al., 2022; Du et al., 2023).

    distill-hub make experts  # handwritten digits, offline, on a CPU
    distill-hub make experts --source cifar10 --keep_epochs 22
    distill-hub make experts --source cifar10 --expert_optimizer gsam --expert_epochs 100
    distill-hub make experts --num_processes 2

Each expert is trained by one process; a killed run goes on where it stopped. The trajectories are the same, bit for bit, for
any number of processes.
"""

from distill_hub.config import launch, options
from distill_hub.options.experts import ExpertsConfig
from distill_hub.options.shared import SourceOptions


def main(config: ExpertsConfig) -> None:
    """Train, and save trajectories, record and model card."""
    from distill_hub.data.sources import load_source
    from distill_hub.making.experts import make_experts

    make_experts(load_source(**options(config, SourceOptions)), config).end()


if __name__ == "__main__":
    launch(main, ExpertsConfig, __doc__)
