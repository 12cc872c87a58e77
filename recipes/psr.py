"""Pool-Select-Refine: select reliable, certain and diverse samples, then refine them with their soft labels (Li et al.).

    distill-hub make psr                   # handwritten digits, offline, on a CPU
    distill-hub make psr --refine_steps 0  # its selection alone
    distill-hub make psr --generator outputs/digits-ipc10-minimax/generator --protocol kd
    distill-hub make psr --num_processes 2

The soft labels of the set are those of the images before the refinement, as the paper has it (Eq. 4, Alg. 1).
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.psr import PsrConfig


def main(config: PsrConfig) -> Path | None:
    """Draw a pool, select, refine, package and score."""
    import torch

    from distill_hub.making.chosen import choose_from_pool
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.generated import set_up_generator
    from distill_hub.methods import psr
    from distill_hub.methods.candidates import keep, pool_of
    from distill_hub.running.seeds import draw_seed

    setup = set_up_generator(config, "psr")
    names = setup.source.class_names

    # Stage I: IPC-constrained selection from a pool of m * IPC, or of any size.
    per_class = config.pool_size or config.pool_factor * config.ipc
    pool = setup.draw(per_class, keep=["latents", "embeddings"])
    given = config.reliability_weight, config.entropy_weight, config.diversity_weight
    presets = psr.selection_weights(config.ipc)
    alpha, beta, gamma = (preset if weight is None else weight for weight, preset in zip(given, presets, strict=True))

    def choose(label):
        selection = psr.select(
            pool_of(pool, label, per_class),
            config.ipc,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            temperature=config.temperature,
            rule=config.selection,
            filtered=not config.unfiltered,
            normalized=not config.unnormalized,
            seed=draw_seed(config.seed, "selection", names[label]),
        )
        return {"indices": selection.indices, "filled": torch.tensor(selection.filled)}

    chosen, found = choose_from_pool(setup, pool, choose)
    filled = dict(zip(names, found["filled"].tolist(), strict=True))
    short = {name: config.ipc - count for name, count in filled.items() if count}

    # Stage II: soft-label-guided refinement of the latents.
    notes = {"correct_candidates_of_short_classes": short}
    if config.selection == "score":
        notes["weights"] = [alpha, beta, gamma]
    if config.refine_steps:
        made_from = {**setup.made_from, "pool": pool.sha256}
        selected = psr.refine_set(
            setup.run,
            setup.generator,
            setup.teacher,
            pool,
            chosen,
            setup.labels,
            setup.class_ids,
            config,
            config.seed,
            made_from,
        )
        notes |= psr.loss_notes(selected, config)
    else:
        selected = keep(setup.run, pool, chosen)
    before = chosen if config.refine_steps else None
    return package_and_score(setup, selected, setup.manifest(psr.FACTS, notes), pool=pool, refined_from=before)


if __name__ == "__main__":
    launch(main, PsrConfig, __doc__)
