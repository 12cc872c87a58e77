"""Score a distilled set again: `distill-hub evaluate`, for several processes.

    accelerate launch recipes/evaluate.py org/digits-ipc10-cao2 --check
    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 recipes/evaluate.py outputs/digits-ipc10-cao2

Students are spread over the processes; the scores are the same for any number of them.
"""

from distill_hub.cli import score_again as main
from distill_hub.config import launch
from distill_hub.options.commands import EvaluateConfig

if __name__ == "__main__":
    launch(main, EvaluateConfig, __doc__)
