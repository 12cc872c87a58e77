"""Options of DEDA."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import InputError, option
from distill_hub.kinds import NonNegativeFloat
from distill_hub.networks.names import check_one_teacher
from distill_hub.options.recovery import ClassOptions, CompiledRecovery


@dataclass(frozen=True)
class DedaConfig(ClassOptions, CompiledRecovery):
    """DEDA: align means and covariances of each class's features, and spread out the last layer's."""

    gamma: NonNegativeFloat = option(50.0, "weight of the covariances in Eq. 6; 0 aligns the means alone", common=True)
    lambda_var: NonNegativeFloat = option(0.2, "lambda_1 in Eq. 9, of the variances of the last features", common=True)
    lambda_cov: NonNegativeFloat = option(4.0, "lambda_2 in Eq. 9, of their covariances", common=True)
    reduction: Literal["dimension", "sum", "mean", "relative"] = option(
        "dimension",
        "of the squared difference of two D x D covariances: sum / D, sum (Eq. 6 as it stands), mean, or sum / that of the "
        "real covariance",
    )
    features: Literal["inputs", "outputs", "stages"] = option(
        "inputs", "whose features are aligned: what the BatchNorm layers see, what they return, or what the stages return"
    )

    def check_settings(self) -> None:
        """Refuse several teachers, and sets of one image per class where covariances are asked for."""
        check_one_teacher(self.teacher, "images are aligned with one network's features")
        if self.ipc == 1 and (self.gamma or self.lambda_var or self.lambda_cov):
            valid = "one image has no covariance: 2 or more are needed, or gamma, lambda_var and lambda_cov 0"
            raise InputError("ipc", 1, valid)
