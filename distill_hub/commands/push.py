"""`distill-hub push`."""

from pathlib import Path

from distill_hub.networks.names import EXPERTS
from distill_hub.options.commands import PushConfig
from distill_hub.running.console import show


def run(config: PushConfig) -> None:
    """Publish a distilled set, a generator that distill-hub tuned, or expert trajectories on the Hub, in one commit.

    Every pixel and label of a set is checked first; generators and experts are loaded, and become models on the Hub. In a
    repository that is there already, what people wrote in the card and the records that others added stay. Log in with
    `hf auth login` first; the token needs write access to the namespace.

        distill-hub push outputs/digits-ipc10-cao2
        distill-hub push outputs/digits-ipc10-cao2 org/digits-ipc10-cao2 --private --tag v1
    """
    if Path(config.path, "model_index.json").is_file():
        from distill_hub.publishing.generator import push_generator as publish
    elif Path(config.path, EXPERTS).is_file():
        from distill_hub.publishing.experts import push_experts as publish
    else:
        from distill_hub.publishing.publish import push as publish

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
