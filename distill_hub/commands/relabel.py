"""`distill-hub relabel`."""

from pathlib import Path

from distill_hub.artifact.find import find, read_description
from distill_hub.config import InputError, say_loading
from distill_hub.options.commands import RelabelConfig


def run(config: RelabelConfig) -> None:
    """Let a teacher label augmented views of every image of a set, and store them beside it.

    Students of the protocols fkd, lpld and lpqld are trained on them without the teacher, everyone on the same. Their size
    is printed first; --label_share and --top_k make them smaller. An interrupted command goes on where it stopped; several
    processes: distill-hub make relabel.

        distill-hub relabel outputs/digits-ipc10-cao2 --epochs 300
        distill-hub relabel outputs/imagenet1k-ipc10-cao2 --batch_size 128 --label_share 0.1 --top_k 50
    """
    if not Path(config.location).exists():
        valid = "a set on this machine is needed; `hf download` brings it into a folder"
        raise InputError("location", config.location, valid)
    found = find(config.location)
    read_description(found)
    say_loading()
    from accelerate import PartialState

    from distill_hub.making.relabel import relabel

    relabel(found, config)
    PartialState().destroy_process_group()
