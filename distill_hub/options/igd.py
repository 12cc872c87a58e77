"""Options of Influence-Guided Diffusion."""

from dataclasses import dataclass

from distill_hub.config import InputError, option
from distill_hub.kinds import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from distill_hub.options.matching import NetworkOptions
from distill_hub.options.psr import RefineOptions
from distill_hub.options.shared import SampleOptions


@dataclass(frozen=True)
class IgdConfig(RefineOptions, NetworkOptions, SampleOptions):
    """IGD: samples pull a network's weights where real images do, and keep away from each other."""

    influence_weight: NonNegativeFloat | None = option(
        None, "k, of the pull towards influence; default: 5 as in the released code, up to 16 px 100", common=True
    )
    deviation_weight: NonNegativeFloat = option(
        120.0, "gamma, of the push away from the class's earlier samples, as in the released code", common=True
    )
    guide_start: Fraction = option(0.08, "share of the denoising steps before the first guided one; the code: 4 of 50")
    guide_stop: Fraction = option(0.4, "share of the denoising steps before guidance ends; the code: 20 of 50")
    surrogate_epochs: PositiveInt | None = option(
        None, "epochs of the network whose weights samples pull; default: 50 as in the paper, up to 16 px 8"
    )
    surrogate_learning_rate: PositiveFloat = option(
        0.1, "of its SGD without momentum; the code: 0.01 with momentum 0.9, which moves as far"
    )
    classes_at_a_time: PositiveInt = option(
        5,
        "classes whose samples are drawn side by side; memory holds a graph through generator, decoder and network of each",
    )
    refine_steps: NonNegativeInt = option(
        0, "steps per image of Pool-Select-Refine's refinement after the sampling, as in its Table 6; 0: none"
    )

    @property
    def guided(self) -> range:
        """The denoising steps that are guided, counted from 0, noise; of settings that name their sampler."""
        start, stop = (round(share * (self.sample_steps or 0)) for share in (self.guide_start, self.guide_stop))
        return range(start, stop)

    def check_sampler(self) -> None:
        """Refuse a sampler whose steps cannot be pulled, or of whose steps none would be."""
        if self.scheduler != "ddpm":
            raise InputError("scheduler", self.scheduler, "the mean of an ancestral step is pulled; valid: ddpm")
        if not self.guided:
            valid = f"none of so few lies between guide_start, {self.guide_start}, and guide_stop, {self.guide_stop}"
            raise InputError("sample_steps", self.sample_steps, valid)

    def check_settings(self) -> None:
        """Refuse guidance that ends before it begins."""
        if self.guide_stop <= self.guide_start:
            raise InputError("guide_stop", self.guide_stop, f"more than guide_start, {self.guide_start}, is needed")
