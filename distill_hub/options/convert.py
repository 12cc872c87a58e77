"""Options of converting published weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill_hub.config import InputError, argument, option
from distill_hub.disk.files import check_folder
from distill_hub.kinds import Location
from distill_hub.networks.names import check_vae


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """The weights and where they go."""

    kind: Literal["dit", "sit", "mar"] = argument("whose weights they are")
    weights: Path = argument("safetensors file of the network, its tensors called as in its authors' code")
    vae: Location | None = option(
        None,
        "the autoencoder of its latents: Hub id or folder of an AutoencoderKL, or the safetensors file of MAR's KL-16; "
        "default: stabilityai/sd-vae-ft-ema, but of a MAR none",
        common=True,
    )
    vae_revision: str | None = option(None, "branch, tag or commit of the VAE on the Hub")
    license: str | None = option(None, "licence of the weights; default: that of those which their authors published")
    output_dir: Path | None = option(
        None, "new folder of the pipeline; default: outputs/ and the name of the file", common=True
    )

    @property
    def autoencoder(self) -> str | None:
        """Where the VAE lies."""
        return self.vae or (None if self.kind == "mar" else "stabilityai/sd-vae-ft-ema")

    @property
    def folder(self) -> Path:
        """Where the pipeline goes."""
        return self.output_dir or Path("outputs", self.weights.stem)

    def check_settings(self) -> None:
        """Refuse weights that are not there or are a pickle, and a folder that is there or cannot be written to."""
        name = str(self.weights)
        if self.weights.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl"):
            raise InputError("weights", name, "it is a pickle, which is not opened: save its tensors as safetensors")
        if self.weights.suffix != ".safetensors" or not self.weights.is_file():
            raise InputError("weights", name, "a .safetensors file on this machine is needed")
        if self.autoencoder is None:
            raise InputError(
                "vae", None, "name the autoencoder that the weights were trained with: MAR's kl16 as safetensors"
            )
        if not (self.autoencoder.endswith(".safetensors") and Path(self.autoencoder).is_file()):
            check_vae(self.autoencoder)
        check_folder(self.folder)
        if self.folder.exists() and any(self.folder.iterdir()):
            raise InputError("output_dir", str(self.folder), "it exists; name a new folder")
