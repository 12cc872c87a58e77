"""DiT: plain samples of a class-conditional diffusion transformer, the baseline of the generative methods.

    accelerate launch recipes/dit.py                                # handwritten digits, offline, on a CPU
    accelerate launch recipes/dit.py --source imagenette --ipc 50

This is recipes/cao2.py without its two stages.
"""

from distill_hub.config import launch, options, resolved
from distill_hub.options import (
    DitConfig,
    EvaluationOptions,
    GeneratorFitOptions,
    GeneratorOptions,
    SourceOptions,
    TeacherOptions,
    ViewsOptions,
)


def main(config: DitConfig) -> None:
    """Draw IPC samples of every class, label, package and score them."""
    from pathlib import Path

    from distill_hub.artifact.describe import describe, generator_record
    from distill_hub.artifact.destination import check_destination
    from distill_hub.artifact.manifest import method_record, set_name
    from distill_hub.classes import match_classes
    from distill_hub.evaluation.finish import check_evaluation, package_and_score
    from distill_hub.evaluation.subject import HeldOut
    from distill_hub.evaluation.teacher import open_teacher
    from distill_hub.generators.dit import FACTS
    from distill_hub.generators.fit import open_generator
    from distill_hub.methods.candidates import draw_pool
    from distill_hub.run import Run
    from distill_hub.sources import check_ipc, load_source

    source = load_source(**options(config, SourceOptions))
    check_ipc(source, config.ipc)
    check_evaluation(config, len(source.classes))
    name = set_name(source.name, config.ipc, "dit")
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

    samples = draw_pool(
        run, generator, teacher, source.class_names, class_ids, config.ipc,
        seed=config.seed, batch_size=config.sample_batch_size,
    )  # fmt: skip

    manifest = describe(
        run, source, method_record(FACTS, resolved(config)),
        generator=generator_record(generator, generator_id), generator_classes=class_ids,
        teacher=teacher_facts, teacher_classes=teacher.columns,
        ipc=config.ipc, image_size=generator.image_size, seed=config.seed,
    )  # fmt: skip
    labels = [label for label in range(len(source.classes)) for _ in range(config.ipc)]
    package_and_score(
        run, test, manifest, samples, labels, teacher,
        image_format=config.image_format, baselines={}, destination=destination,
        **options(config, ViewsOptions), **options(config, EvaluationOptions),
    )  # fmt: skip


if __name__ == "__main__":
    launch(main, DitConfig, __doc__)
