"""Options of MGD3."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import InputError, option
from distill_hub.kinds import Fraction, PositiveInt
from distill_hub.options.shared import SampleOptions

MOST_OF_THE_MEAN = 0.1  # the papers' strength: what the mean of an ancestral sampler bears


@dataclass(frozen=True)
class Mgd3Config(SampleOptions):
    """MGD3: sampling that is guided towards modes of the real images."""

    guidance_strength: Fraction = option(
        0.1, "strength of the pull towards the mode (paper: 0.1); under --scheduler ddpm at most 0.1", common=True
    )
    stop_fraction: Fraction = option(
        0.5, "share of the denoising steps, from the first, that are guided (paper: 25 of 50)", common=True
    )
    modes: Literal["centre", "nearest"] = option(
        "centre",
        "what an image is drawn to: the centre of a cluster of the class's encoded real images, of as many clusters as IPC, "
        "or the real image nearest to it",
        common=True,
    )
    pca: PositiveInt | None = option(
        None,
        "cluster so many principal components in place of the latents, with modes nearest (released code, on request: 4)",
    )
    encode_batch_size: PositiveInt = option(64, "real images that are encoded at a time")

    @property
    def pulls_the_mean(self) -> bool:
        """Whether the mean of each step is pulled, not x̂_0; of settings that name their sampler."""
        return self.scheduler == "ddpm"

    def check_sampler(self) -> None:
        """Refuse a pull that the sampler cannot take."""
        if self.guidance_strength > MOST_OF_THE_MEAN and self.pulls_the_mean:
            valid = f"under --scheduler ddpm samples go out of all bounds above {MOST_OF_THE_MEAN}; pass --scheduler ddim"
            raise InputError("guidance_strength", self.guidance_strength, valid)

    def check_settings(self) -> None:
        """Refuse centres that are no latents."""
        if self.pca is not None and self.modes == "centre":
            raise InputError("pca", self.pca, "the centre of projections is no latent; pass --modes nearest")
