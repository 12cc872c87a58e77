"""`distill-hub push`."""

from pathlib import Path

from distill_hub.artifact.find import MANIFEST
from distill_hub.config import InputError
from distill_hub.networks.names import EXPERTS
from distill_hub.options.commands import PushConfig
from distill_hub.publishing.trained import CONFIG
from distill_hub.running.console import show


def run(config: PushConfig) -> None:
    """Publish a distilled set, a classifier, a student, a tuned generator or expert trajectories on the Hub, in one commit.

    Every pixel and label of a set is checked first; the others are loaded, and become models on the Hub. In a repository
    that is there already, what people wrote in the card and the records that others added stay. Log in with
    `hf auth login` first; the token needs write access to the namespace.

        distill-hub push outputs/digits-ipc10-cao2
        distill-hub push outputs/digits-ipc10-cao2 org/digits-ipc10-cao2 --private --tag v1
        distill-hub push outputs/digits-convnet-2-bn org/teacher
        distill-hub push outputs/digits-ipc10-cao2 --teacher org/teacher
    """
    is_set = Path(config.path, MANIFEST).is_file()
    if config.teacher and not is_set:
        raise InputError("teacher", config.teacher, f"{config.path} is no distilled set; leave the option out")
    if Path(config.path, "model_index.json").is_file():
        from distill_hub.publishing.generator import push_generator as publish
    elif Path(config.path, EXPERTS).is_file():
        from distill_hub.publishing.experts import push_experts as publish
    elif Path(config.path, CONFIG).is_file() and not is_set:
        from distill_hub.publishing.classifier import push_classifier as publish
    else:
        from distill_hub.publishing.publish import push as publish

    if config.teacher:
        from distill_hub.publishing.teacher import name_teacher

        name_teacher(config.path, config.teacher)
    publication = publish(
        config.path,
        config.repository,
        private=config.private,
        revision=config.revision,
        create_pr=config.create_pr,
        tag=config.tag,
        gated=config.gated,
    )
    show(f"Published as {publication}\n{publication.next_step}")
    if is_set:
        from distill_hub.publishing.teacher import how_to_publish

        if said := how_to_publish(config.path, publication.repo_id):
            show(said)
