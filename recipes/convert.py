"""Turn published weights under their authors' names into a pipeline folder for --generator: a DiT's, a SiT's or a MAR's.

    distill-hub make convert sit SiT-XL-2-256.safetensors --output_dir outputs/sit-xl
    distill-hub make convert mar mar-base.safetensors --vae kl16.safetensors
    distill-hub make cao2 --source imagewoof --generator outputs/sit-xl

The weights have to be safetensors: nothing is unpickled. Sizes are read off their shapes, and every number is accounted for.
"""

from distill_hub.config import launch
from distill_hub.options.convert import ConvertConfig


def main(config: ConvertConfig) -> None:
    """Convert in one process, and say where the result is."""
    from distill_hub.conversion.convert import convert
    from distill_hub.running.console import show
    from distill_hub.running.machine import start_accelerator

    accelerator = start_accelerator()
    if accelerator.is_main_process:
        where = {"vae_revision": config.vae_revision, "license": config.license}
        convert(config.kind, config.weights, config.autoencoder, config.folder, **where)
        show(f"The generator is in {config.folder}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    launch(main, ConvertConfig, __doc__)
