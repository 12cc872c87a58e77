"""Difficulty-guided sampling: keep samples that are as difficult as the real images (Li et al., ICCV Workshops 2025).

    distill-hub make dgs  # handwritten digits, offline, on a CPU
    distill-hub make dgs --generator outputs/digits-ipc10-minimax/generator
    distill-hub make dgs --config imagewoof/dgs.yaml
    distill-hub make dgs --num_processes 2

The paper's pools come from a generator that `distill-hub make minimax` has tuned.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.dgs import DgsConfig


def main(config: DgsConfig) -> Path | None:
    """Measure the real images' difficulty, draw a pool, select, label, package and score."""
    from distill_hub.making.chosen import choose_from_pool
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.generated import set_up_generator
    from distill_hub.methods import dgs
    from distill_hub.methods.candidates import keep, verdicts_of
    from distill_hub.methods.real_difficulty import real_difficulties
    from distill_hub.publishing.plots import difficulty_chart
    from distill_hub.running.seeds import draw_seed

    if config.distribution != "scale":
        dgs.shape(config.distribution, config.ipc)  # refused before any work
    setup = set_up_generator(config, "dgs")
    run, names = setup.run, setup.source.class_names
    how = {"over": config.judged_over, "image_size": setup.image_size}
    real = real_difficulties(run, setup.source, setup.selector, setup.selector_record.sha256, **how)
    per_class = config.pool_factor * config.ipc
    pool = setup.draw(per_class)
    judged = setup.judge(pool)

    def choose(label):
        sampling = dgs.select(
            verdicts_of(judged, label, per_class).difficulty.numpy(),
            config.ipc,
            real[label],
            distribution=config.distribution,
            transformed=config.transform == "log",
            weight=config.similarity_weight,
            limit=config.ipc // 2 if config.threshold_range == "ipc" else None,
            seed=draw_seed(config.seed, "difficulty", names[label]),
        )
        return sampling.as_tensors()

    chosen, found = choose_from_pool(setup, pool, choose, {"judged": judged.sha256})
    samplings = dgs.samplings(found)
    selected = keep(run, pool, chosen)

    target = sum(sampling.target for sampling in samplings)
    pictures = {"difficulty": lambda path: difficulty_chart(dgs.totals(samplings), target, path)}
    notes = {
        "thresholds": {n: list(s.thresholds) for n, s in zip(names, samplings, strict=True) if s.thresholds},
        "selected_from_another_bin": {n: s.filled for n, s in zip(names, samplings, strict=True) if s.filled},
    }
    return package_and_score(setup, selected, setup.manifest(dgs.FACTS, notes), pool=pool, pictures=pictures)


if __name__ == "__main__":
    launch(main, DgsConfig, __doc__)
