"""Options of fitting a small generator."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill_hub.config import option
from distill_hub.disk.files import cache_dir, check_folder
from distill_hub.options.shared import DRY_RUN_HELP, GeneratorFitOptions, SourceOptions


@dataclass(frozen=True)
class FitGeneratorConfig(GeneratorFitOptions, SourceOptions):
    """Output."""

    kind: Literal["dit", "sit", "mar"] = option("dit", "of generator", common=True)
    output_dir: Path | None = option(None, "folder of the pipeline; default: the user cache", identity=False, common=True)
    overwrite: bool = option(False, "fit again when the folder is not empty", identity=False, common=True)
    dry_run: bool = option(False, DRY_RUN_HELP, identity=False, common=True)

    def check_settings(self) -> None:
        """Refuse a folder that cannot be written to."""
        check_folder(self.output_dir) if self.output_dir else check_folder(cache_dir(), "DISTILL_HUB_CACHE")
