"""CaO2: keep the samples a classifier recognises, then optimise their latents (Wang et al., ICCV 2025).

    distill-hub make cao2  # handwritten digits, offline, on a CPU
    distill-hub make cao2 --source imagewoof --ipc 10 --pool_factor 4 --condition null
    distill-hub make cao2 --multi_gpu --source imagenette --ipc 50 --pool_factor 2
    distill-hub make cao2 --num_processes 2

The same command again resumes an interrupted run. The set is the same, bit for bit, for any number of processes.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.cao2 import Cao2Config


def main(config: Cao2Config) -> Path | None:
    """Draw a pool, select, refine, label, package and score."""
    from distill_hub.making.chosen import choose_from_pool
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.generated import set_up_generator
    from distill_hub.methods import cao2
    from distill_hub.methods.candidates import HALF, render, verdicts_of
    from distill_hub.methods.losses import first_and_last_tenth
    from distill_hub.running.seeds import draw_seed

    without_class = config.condition == "null" and config.refine_steps > 0
    by_kind = {"refine_learning_rate": cao2.learning_rate}
    setup = set_up_generator(config, "cao2", without_class=without_class, by_kind=by_kind)
    config = setup.config
    generator, teacher, class_ids, names = setup.generator, setup.teacher, setup.class_ids, setup.source.class_names

    # Stage 1: objective-guided sample selection from a pool of m * IPC.
    per_class = config.pool_factor * config.ipc
    pool = setup.draw(per_class, keep=["latents"])
    judged = setup.judge(pool)

    def choose(label):
        verdicts = verdicts_of(judged, label, per_class)
        fill_seed = draw_seed(config.seed, "fill", names[label])
        indices = cao2.select(verdicts, config.ipc, order=config.order, fill=config.fill, seed=fill_seed)
        return {"indices": indices, "correct": verdicts.correct.sum()}

    chosen, found = choose_from_pool(setup, pool, choose, {"judged": judged.sha256})
    short = {name: count for name, count in zip(names, found["correct"].tolist(), strict=True) if count < config.ipc}

    # Stage 2: condition-aware latent optimisation of what was selected.
    def refine(chunk):
        latents, seeds = pool.take([row for _, row in chunk], "latents", "seeds").values()
        latents, losses = cao2.refine(
            generator,
            latents,
            [class_ids[label] if config.condition == "true" else None for label, _ in chunk],
            [draw_seed(config.seed, "refine", int(seed)) for seed in seeds],
            steps=config.refine_steps,
            learning_rate=config.refine_learning_rate,
            regularization=config.regularization,
            weight=config.regularization_weight,
            max_timestep_fraction=config.max_timestep_fraction,
        )
        return {"latents": latents, "losses": losses, "seeds": seeds, **render(generator, teacher, latents)}

    items = list(zip(setup.labels, chosen, strict=True))
    how = {"chunk_size": config.refine_batch_size, "made_from": {**setup.made_from, "pool": pool.sha256}, "lower": HALF}
    refined = setup.run.map("refine", items, refine, **how)

    notes = {"order": cao2.resolve_order(config.order, config.ipc), "correct_candidates_of_short_classes": short}
    if config.refine_steps:
        losses = refined.rows(0, len(refined), "losses")["losses"].mean(0)  # (steps,)
        notes["mean_loss_of_first_and_last_tenth"] = first_and_last_tenth(losses)
    before = chosen if config.refine_steps else None
    return package_and_score(setup, refined, setup.manifest(cao2.FACTS, notes), pool=pool, refined_from=before)


if __name__ == "__main__":
    launch(main, Cao2Config, __doc__)
