"""Fit a small autoencoder and generator to any source, and save them as a pipeline folder.

    distill-hub make fit_generator --source path/to/photos --output_dir outputs/photos-generator
    distill-hub make cao2 --source path/to/photos --generator outputs/photos-generator

Without --output_dir the folder is the one in the user's cache that the other recipes look in. Only one process fits.
"""

from pathlib import Path

from distill_hub.config import InputError, launch, options, words
from distill_hub.options.fit_generator import FitGeneratorConfig
from distill_hub.options.shared import GeneratorFitOptions, SourceOptions


def main(config: FitGeneratorConfig) -> None:
    """Fit and say where the result is."""
    import shlex
    import time

    from distill_hub.data.size import with_size
    from distill_hub.data.sources import fit_folder, load_source
    from distill_hub.disk.lock import hold
    from distill_hub.generating.fit import fit_generator, fit_in_run, fitted_name
    from distill_hub.running.console import show
    from distill_hub.running.dry_run import DryRun
    from distill_hub.running.machine import start_accelerator
    from distill_hub.running.memory import told

    started = time.perf_counter()
    accelerator = start_accelerator()
    if config.dry_run or accelerator.is_main_process:
        source = load_source(**options(config, SourceOptions))
        config = with_size(config, source, "fit_image_size")
        fit = options(config, GeneratorFitOptions)
        folder = (config.output_dir or fit_folder(source, fitted_name(config.kind), fit)).absolute()
    if config.dry_run:
        run = DryRun(folder, fit)
        fit_in_run(run, source, run.output_dir / "generator", config.kind, fit)
        run.end()
        return
    if accelerator.is_main_process:
        there = folder.exists() and not config.overwrite
        if config.output_dir or not there:
            lock = hold(folder.with_name(f"{folder.name}.lock"), "output_dir", folder, "wait for its end", again=True)
            try:
                _refuse(folder, there)
                settings = {name.removeprefix("fit_"): value for name, value in fit.items()}
                with told("fit generator", "a smaller --fit_batch_size"):
                    fit_generator(source, folder, kind=config.kind, **settings, device=accelerator.device)
            finally:
                lock.release()
        took = "already" if there else f"({time.perf_counter() - started:.0f} s)"
        show(f"The generator is in {folder} {took}")
        command = shlex.join(["distill-hub", "make", "cao2", *words(config, SourceOptions), "--generator", str(folder)])
        show(f"Next: `{command}` makes a set with it")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _refuse(folder: Path, there: bool) -> None:
    if there:
        raise InputError("output_dir", str(folder), "it exists; pass --overwrite to fit again, or name another folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / "model_index.json").is_file():
        raise InputError("output_dir", str(folder), "it holds files that are not a generator's; name a new folder")


if __name__ == "__main__":
    launch(main, FitGeneratorConfig, __doc__)
