"""Store views of a distilled set: `distill-hub relabel`, for several processes.

    distill-hub make relabel outputs/digits-ipc10-cao2
    distill-hub make relabel --multi_gpu outputs/imagenet1k-ipc10-cao2 --epochs 100

Its size is printed first. The views are the same for any number of processes; the same command again goes on where an
interrupted one stopped.
"""

from distill_hub.commands.relabel import run as main
from distill_hub.config import launch
from distill_hub.options.commands import RelabelConfig

if __name__ == "__main__":
    launch(main, RelabelConfig, __doc__, light=True)
