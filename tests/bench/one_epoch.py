"""Run a recipe whose students train for one epoch of the protocol `quick`, whatever the number of images.

python tests/bench/one_epoch.py recipes/random_real.py --ipc 1 ...
"""

import dataclasses
import runpy
import sys

from distill_hub.training import protocols


def one_epoch(rules: protocols.Protocol) -> protocols.Protocol:
    """Return a protocol with a single epoch, after which the test split is looked at."""
    return dataclasses.replace(rules, settings=lambda task: dataclasses.replace(rules.settings(task), epochs=1, looks=(1,)))


if __name__ == "__main__":
    protocols.PROTOCOLS["quick"] = one_epoch(protocols.PROTOCOLS["quick"])
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
