"""CaO2: keep the samples a classifier recognises, then optimise their latents (Wang et al., ICCV 2025).

    accelerate launch recipes/cao2.py                                # handwritten digits, offline, on a CPU
    accelerate launch recipes/cao2.py --source imagewoof --ipc 10 --pool_factor 4 --condition null
    accelerate launch --multi_gpu recipes/cao2.py --source imagenette --ipc 50 --pool_factor 2
    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 recipes/cao2.py

The same command again resumes an interrupted run. The set is the same, bit for bit, for any number of processes.
"""

from distill_hub.config import launch, options, resolved
from distill_hub.options import (
    Cao2Config,
    EvaluationOptions,
    GeneratorFitOptions,
    GeneratorOptions,
    SourceOptions,
    TeacherOptions,
    ViewsOptions,
)


def main(config: Cao2Config) -> None:
    """Draw a pool, select, refine, label, package and score."""
    from pathlib import Path

    import torch

    from distill_hub.artifact.describe import describe, generator_record
    from distill_hub.artifact.destination import check_destination
    from distill_hub.artifact.manifest import method_record, set_name
    from distill_hub.classes import match_classes
    from distill_hub.evaluation.finish import check_evaluation, package_and_score
    from distill_hub.evaluation.subject import HeldOut
    from distill_hub.evaluation.teacher import open_teacher
    from distill_hub.evaluation.train import TrainingSet
    from distill_hub.generators.fit import open_generator
    from distill_hub.methods import cao2
    from distill_hub.methods.candidates import draw_pool, pool_of, render
    from distill_hub.run import Run, draw_seed
    from distill_hub.sources import check_ipc, load_source

    source = load_source(**options(config, SourceOptions))
    check_ipc(source, config.ipc)
    check_evaluation(config, len(source.classes))
    name = set_name(source.name, config.ipc, "cao2")
    destination = check_destination(config.push_to_hub, name, private=config.private) if config.push_to_hub else None
    run = Run(config.output_dir or Path("outputs", name), resolved(config), overwrite=config.overwrite)
    generator, generator_id = open_generator(
        run, source, **options(config, GeneratorOptions), fit=options(config, GeneratorFitOptions)
    )
    class_ids = match_classes(source.classes, generator.class_names, "generator", generator_id)
    check_evaluation(config, len(source.classes), generator.image_size)
    test = HeldOut(source)
    teacher, teacher_facts = open_teacher(
        run, test, generator.image_size, **options(config, TeacherOptions), seed=config.fit_seed
    )
    labels = [label for label in range(len(source.classes)) for _ in range(config.ipc)]

    # Stage 1: objective-guided sample selection from a pool of m * IPC.
    per_class = config.pool_factor * config.ipc
    pool = draw_pool(
        run, generator, teacher, source.class_names, class_ids, per_class,
        seed=config.seed, batch_size=config.sample_batch_size,
    )  # fmt: skip
    chosen, short = [], {}
    for label, class_name in enumerate(source.class_names):
        candidates = pool_of(pool, label, per_class, images=False)
        fill_seed = draw_seed(config.seed, "fill", class_name)
        indices = cao2.select(candidates, config.ipc, order=config.order, fill=config.fill, seed=fill_seed)
        chosen += [label * per_class + int(index) for index in indices]
        correct = int((candidates.logits.argmax(1) == label).sum())
        if correct < config.ipc:
            short[class_name] = correct

    # Stage 2: condition-aware latent optimisation of what was selected.
    def refine(chunk):
        picked = [pool.rows(row, row + 1, "latents", "seeds") for _, row in chunk]
        latents, seeds = (torch.cat([p[key] for p in picked]) for key in ("latents", "seeds"))
        latents, losses = cao2.refine(
            generator,
            latents,
            [class_ids[label] if config.condition == "true" else generator.null_class for label, _ in chunk],
            [draw_seed(config.seed, "refine", int(seed)) for seed in seeds],
            steps=config.refine_steps,
            learning_rate=config.refine_learning_rate,
            regularization=config.regularization,
            weight=config.regularization_weight,
            max_timestep_fraction=config.max_timestep_fraction,
        )
        return {"latents": latents, "losses": losses, "seeds": seeds, **render(generator, teacher, latents)}

    items = list(zip(labels, chosen, strict=True))
    refined = run.map("refine", items, refine, chunk_size=config.refine_batch_size)

    notes = {"order": cao2.resolve_order(config.order, config.ipc), "correct_candidates_of_short_classes": short}
    if config.refine_steps:
        losses = refined.rows(0, len(refined), "losses")["losses"].mean(0)  # (steps,)
        tenth = max(1, config.refine_steps // 10)
        notes["mean_loss_of_first_and_last_tenth"] = [losses[:tenth].mean().item(), losses[-tenth:].mean().item()]
    manifest = describe(
        run, source, method_record(cao2.FACTS, resolved(config), notes),
        generator=generator_record(generator, generator_id), generator_classes=class_ids,
        teacher=teacher_facts, teacher_classes=teacher.columns,
        ipc=config.ipc, image_size=generator.image_size, seed=config.seed,
    )  # fmt: skip

    def plain_samples(seed):
        starts = range(0, len(pool), per_class)
        first = [pool.rows(start, start + config.ipc, "images", "logits") for start in starts]
        images, logits = (torch.cat([part[key] for part in first]) for key in ("images", "logits"))
        return TrainingSet(images, torch.tensor(labels), logits.softmax(1))

    package_and_score(
        run, test, manifest, refined, labels, teacher,
        image_format=config.image_format, baselines={"plain DiT samples": plain_samples}, destination=destination,
        **options(config, ViewsOptions), **options(config, EvaluationOptions),
    )  # fmt: skip


if __name__ == "__main__":
    launch(main, Cao2Config, __doc__)
