"""Score a distilled set again: `distill-hub evaluate`, for several processes.

    distill-hub make evaluate org/digits-ipc10-cao2 --check
    distill-hub make evaluate outputs/digits-ipc10-cao2 --num_processes 2

Students are spread over the processes; the scores are the same for any number of them.
"""

from distill_hub.commands.evaluate import run as main
from distill_hub.config import launch
from distill_hub.options.commands import EvaluateConfig

if __name__ == "__main__":
    launch(main, EvaluateConfig, __doc__, light=True)
