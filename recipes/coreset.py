"""Coresets: real images, chosen by how difficult they are for a network, or by the teacher's embeddings.

    distill-hub make coreset  # CCS of handwritten digits, offline, on a CPU
    distill-hub make coreset --method el2n --keep easiest --source cifar10 --dynamics path/to/classifier
    distill-hub make coreset --method facility-location --source cifar10 --teacher path/to/classifier --ipc 50
    distill-hub make coreset --num_processes 2

Difficulties are seen while networks are trained: by fit_classifier --dynamics, or here, once, in the user's cache.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.coresets import CoresetConfig


def main(config: CoresetConfig) -> Path | None:
    """Choose images of every class, label, package and score them."""
    from distill_hub.coresets.embed import embed
    from distill_hub.coresets.facts import FACTS
    from distill_hub.evaluation.coresets import open_chooser
    from distill_hub.making.by_class import choose_by_class
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up

    setup = set_up(config, config.method)
    run, source, size, sha256 = setup.run, setup.source, setup.image_size, setup.teacher_record.sha256

    def embeddings():
        return embed(run, source, setup.teacher, sha256, image_size=size, batch_size=config.embed_batch_size)

    chooser = open_chooser(run, source, config, embeddings, sha256, size)
    made_from = {**setup.made_from, "chosen_by": chooser.made_from}
    stage = choose_by_class(setup, lambda label: chooser.choose(label, config.ipc, config.seed), made_from)
    facts = FACTS[config.method]
    if config.keep == "easiest":
        facts = {**facts, "title": f"{facts['title']}, easiest images"}
    return package_and_score(setup, stage, setup.manifest(facts, chooser.notes))


if __name__ == "__main__":
    launch(main, CoresetConfig, __doc__)
