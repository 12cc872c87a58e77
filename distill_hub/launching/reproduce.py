"""Rebuilding a set from its manifest: the same, bit for bit, or where the new one first differs, and by how much."""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distill_hub.artifact.find import MANIFEST, Found, find, read_description
from distill_hub.artifact.load import read_artifact
from distill_hub.artifact.manifest import Manifest, is_mirrored
from distill_hub.artifact.names import RECIPES
from distill_hub.config import InputError, nearest, options, parse, resolved
from distill_hub.data.known import FITTED, KNOWN
from distill_hub.ending import OUT_OF_MEMORY
from distill_hub.kinds import is_path
from distill_hub.launching.launcher import with_launch_options
from distill_hub.launching.recipes import find_set_recipe, recipes_folder, word
from distill_hub.making.packages import more_methods
from distill_hub.networks.names import is_fitted, split_teachers
from distill_hub.options.commands import RealOptions, ReproduceConfig
from distill_hub.options.shared import EvaluationOptions, ViewsOptions
from distill_hub.running.folder import check_is_run
from distill_hub.starter import as_starter

# Students and stored views change nothing in the rows. A recipe cannot go without a student: the smallest scoring is left.
_NO_PART = {f.name for group in (EvaluationOptions, ViewsOptions) for f in dataclasses.fields(group)}
_LEAST_SCORING = ("--score=no", "--view_epochs=0")
_OF_SAMPLES = ("pool", "plain", "guide", "guided", "refine")  # stages whose images a generator drew
Verdict = Literal["same", "differs", "not on record", "not made again"]


@dataclass(frozen=True)
class Step:
    """Something that a set is made from, or a stage of its making, and the hash of it in both records."""

    name: str
    recorded: str | None
    rebuilt: str | None

    @property
    def verdict(self) -> Verdict:
        """Whether both are the same. 'not made again': its results lay in the user's cache."""
        if self.recorded is None:
            return "not on record"
        if self.rebuilt is None:
            return "not made again"
        return "same" if self.recorded == self.rebuilt else "differs"


@dataclass(frozen=True)
class Difference:
    """How far the rows of two sets of N images are apart, compared in order."""

    images: int  # that differ
    largest: int  # absolute difference of two pixel values, 0 .. 255
    mean: float  # absolute difference, over all pixel values of all images
    labels: int  # that differ
    soft_label: float  # largest absolute difference of two probabilities
    free_pixel: float | None = None  # of two free pixels; None: the sets have none


@dataclass(frozen=True)
class Reproduction:
    """A set as it is on record, and as it was rebuilt here."""

    recorded: Manifest
    rebuilt: Manifest
    difference: Difference | None  # None: identical, or images and soft labels of another shape

    @property
    def identical(self) -> bool:
        """Whether pixels, labels and soft labels are the same, bit for bit."""
        return self.recorded.content_sha256 == self.rebuilt.content_sha256

    @property
    def steps(self) -> list[Step]:
        """What can be compared, in the order of the run."""
        before, after = _steps(self.recorded), _steps(self.rebuilt)
        return [Step(name, before.get(name), after.get(name)) for name in before | after]

    @property
    def first(self) -> Step | None:
        """The first step that differs, if any does."""
        return next((step for step in self.steps if step.verdict == "differs"), None)

    @property
    def environment(self) -> dict[str, tuple[str, str]]:
        """Versions, hardware, processes and precision that are not as recorded: what was recorded, and what is here."""
        before, after = ({**m.packages, **dict(m.environment)} for m in (self.recorded, self.rebuilt))
        names = [*dict.fromkeys([*self.recorded.packages, *self.rebuilt.packages])]
        names += ["python", "hardware", "processes", "mixed_precision"]
        pairs = {name: (str(before.get(name, "-")), str(after.get(name, "-"))) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    @property
    def new_options(self) -> dict[str, Any]:
        """Options that the recipe had not when the set was made, with what was taken: the default, or what was done then."""
        no_news = {*self.recorded.method.config, *_NO_PART}
        return {name: value for name, value in self.rebuilt.method.config.items() if name not in no_news}

    def summary(self) -> dict[str, Any]:
        """Return all of this but the records, ready for JSON."""
        return {
            "name": self.recorded.name,
            "identical": self.identical,
            "content_sha256": {"recorded": self.recorded.content_sha256, "rebuilt": self.rebuilt.content_sha256},
            "first_difference": self.first.name if self.first else None,
            "difference": dataclasses.asdict(self.difference) if self.difference else None,
            "steps": [{**dataclasses.asdict(step), "verdict": step.verdict} for step in self.steps],
            "environment": {name: {"recorded": a, "here": b} for name, (a, b) in self.environment.items()},
            "new_options": self.new_options,
        }


def _steps(manifest: Manifest) -> dict[str, str]:
    # Of these other tensors were kept in versions whose stages have no peak of memory: hashes of these do not compare.
    compared = [stage for stage in manifest.stages if stage.peak_memory_bytes is not None or stage.name not in _OF_SAMPLES]
    stages = {f"stage {stage.name}": stage.sha256 for stage in compared}
    generator, teacher, selector = manifest.generator, manifest.teacher, manifest.selector
    base = generator.tuning.base if generator and generator.tuning else None
    steps = {
        "source": manifest.source.identity,
        "base generator": base.sha256 if base else None,
        "teacher": teacher.sha256 if teacher else None,
        "selector": selector.sha256 if selector else None,
        "stage encode": stages.pop("stage encode", None),  # of the images that a recipe tunes its generator on
        "generator": generator.sha256 if generator else None,
        "vae": generator.vae.sha256 if generator and generator.vae else None,
        "stage fit experts": stages.pop("stage fit experts", None),
        "experts": manifest.experts.sha256 if manifest.experts else None,
        "dynamics": manifest.method.notes.get("dynamics_sha256"),
        **stages,
    }
    return {name: sha256 for name, sha256 in steps.items() if sha256}


def reproduce(config: ReproduceConfig) -> Reproduction | None:
    """Rebuild a set from its manifest in a process of its own, and compare the rows.

    Args:
        config: The set, what lies elsewhere now, and where to rebuild it. A rebuild that was interrupted goes on.

    Returns:
        Both records and what differs; None when only the launch line was to be printed.

    Raises:
        InputError: When the set is damaged, its manifest does not say how to rebuild it, the folder holds something else
            than a rebuild, or the recipe fails.
        HubError: When the Hub fails.
    """
    found = find(config.location, config.revision)
    manifest, _ = read_description(found)
    folder = config.output_dir or default_folder(manifest)
    if found.folder and folder.resolve() == found.folder.resolve():
        raise InputError("output_dir", str(folder), "it holds the set itself; name a new folder")
    words = make_words(manifest, config, folder, published=found.remote is not None)
    if config.print_command:
        print(shlex.join(words))
        return None
    check_is_run(folder)
    read_artifact(found, rows=False)  # is it what its manifest says?
    if not config.overwrite:
        _refuse_stale(folder)
    print(f"{shlex.join(words)}\n", flush=True)
    _run(words)
    return compare(found, folder)


def default_folder(manifest: Manifest) -> Path:
    """Return where a set is rebuilt, unless another folder is named."""
    return Path("outputs", f"{manifest.name}-reproduced")


def _run(words: list[str]) -> None:
    """Run a command of `distill-hub` with this interpreter, and wait for its end; its output is streamed.

    Exits with 2 where that command refused its input: it has said why, in one line.

    Raises:
        InputError: When it fails.
    """
    with as_starter():
        # In a session of its own: Ctrl-C reaches this process alone, which says so once, and ends the other one.
        started = subprocess.Popen([sys.executable, "-m", "distill_hub.cli", *words[1:]], start_new_session=True)
        try:
            code = started.wait()
        except KeyboardInterrupt:
            started.terminate()
            started.wait()
            raise
    if code == -signal.SIGKILL:
        raise InputError("command", shlex.join(words), f"it was killed: {OUT_OF_MEMORY}")
    if code == 2:
        sys.exit(code)
    if code:
        valid = f"it ended with code {code}, for the reason above; the same command goes on where it stopped"
        raise InputError("command", shlex.join(words), valid)


def _refuse_stale(folder: Path) -> None:
    """Refuse a finished rebuild by other versions: its recipe would take up what they made."""
    made = Manifest.read(folder / MANIFEST).packages if (folder / MANIFEST).is_file() else {}
    for name, version in made.items():
        if version != metadata.version(name):
            valid = f"it was rebuilt with {name} {version}, here is {metadata.version(name)}; --overwrite starts afresh"
            raise InputError("output_dir", str(folder), valid)


def make_words(manifest: Manifest, config: ReproduceConfig, folder: Path, *, published: bool) -> list[str]:
    """Return the words of `distill-hub make` that make a set's rows again, with the least scoring.

    Source and generator are taken at the commits on record, whatever branch was asked for then.

    Args:
        manifest: Of the set.
        config: What lies elsewhere now.
        folder: Where to rebuild it.
        published: Whether the set is on the Hub; then a folder of its author's is not looked for on this machine.

    Raises:
        InputError: When the set was made elsewhere, or the manifest lacks something that a rebuild needs; its recipe is
            gone, its package not installed, or it does not know a setting; or its source is not on this machine.
    """
    recorded = manifest.method.config
    if manifest.origin == "external":
        raise InputError("distilled set", manifest.name, "it was made elsewhere: nothing on record says how")
    for field, value in {"seed": manifest.seed, "environment": manifest.environment, "method.config": recorded}.items():
        if value in (None, {}):
            raise InputError(f"{MANIFEST}: {field}", value, "without it the set cannot be rebuilt")
    method = manifest.method.name
    if package := manifest.method.package:
        package.check("methods", method, more_methods().get(method))
    recipe = find_set_recipe(RECIPES.get(method, method), f"{MANIFEST}: method.name")
    defaults = resolved(recipe.config_class())
    for name in recorded:
        # What may not be set is no option here, either: a stranger's manifest names no folder to write or overwrite.
        if name not in defaults:
            near = nearest(name, list(defaults))
            valid = f"the recipe {recipe.name} has no such option{near}: the set was made by another version"
            raise InputError(f"{MANIFEST}: method.config", name, valid)
    settings = {**_done_then(manifest), **recorded, **_lies_now(manifest, config, published=published)}
    words = [
        word(name, value)
        for name, value in settings.items()
        if name in defaults and name not in _NO_PART and value != defaults[name]
    ]
    words += [*_LEAST_SCORING, f"--output_dir={folder}", *["--overwrite"] * config.overwrite]
    words = [*_start(manifest), *words]
    parse(with_launch_options(recipe.config_class), words)  # refuses here what the recipe would refuse
    words = ["distill-hub", "make", recipe.name, *words]
    if not shlex.join(words).isprintable():  # a stranger may have written it, and it is shown on a terminal
        raise InputError(MANIFEST, shlex.join(words), "a recipe's settings hold no control characters")
    return words


def _lies_now(manifest: Manifest, config: ReproduceConfig, *, published: bool) -> dict[str, Any]:
    """Return the settings that say where real images and networks lie: as pinned by the record, or as named now."""
    recorded, known, generator, teacher = manifest.method.config, manifest.source, manifest.generator, manifest.teacher
    members = (teacher.members or [teacher]) if teacher else []
    if members and all(member.revision for member in members):  # on the Hub, wherever they lay when the set was made
        recorded = {**recorded, "teacher": ",".join(member.id for member in members)}
    settings = {name: value for name, value in options(config, RealOptions).items() if value}
    folders = [("source", known.name)] if known.is_folder else []
    fitted = generator is not None and generator.id.startswith(FITTED)
    for field in ("generator", "vae", "prompts", "teacher", "selector", "experts", "dynamics"):
        name = str(recorded.get(field) or "auto")
        if field == "generator" and fitted and is_fitted(name):
            continue  # a kind that was fitted, not a folder of that name
        for one, _ in split_teachers(name) if field == "teacher" else [(name, None)]:
            if is_path(one) or (one != "auto" and "/" not in one):  # as ids on the Hub and names of timm have it
                folders.append((field, one))
    for field, name in folders:
        what = "file" if field == "prompts" else "folder"
        if not getattr(config, field) and (published or name in KNOWN or not os.path.exists(name)):
            valid = f"it is a {what} of whoever made the set; pass --{field} with the {what} that holds the same here"
            raise InputError(field, name, valid)
        if field == "generator" and is_fitted(name):
            settings[field] = os.path.join(".", name)  # or the recipe would fit one of that kind
    if config.source:
        settings = {"source_revision": None, "source_config": None, **settings}  # recorded ones are of another place
    elif known.revision:
        settings.setdefault("source_revision", known.revision)
    if config.source or known.name not in KNOWN:  # its place does not tell what it is
        mirrored = "yes" if is_mirrored(manifest) else "no"
        settings = {"mirrored": mirrored, "normalization": known.normalization, **settings}
    if config.generator:
        if generator is None:
            raise InputError("generator", config.generator, "the set was made without one")
        settings |= {"generator": config.generator, "generator_revision": None}
    elif generator:
        # A recipe that tunes its generator was given the one it came from.
        named = [generator, *([generator.tuning.base] if generator.tuning else [])]
        pinned = [m.revision for m in named if m.revision and recorded.get("generator", "auto") in ("auto", m.id)]
        settings |= {"generator_revision": pinned[0]} if pinned else {}
    if config.vae:
        if generator is None or generator.vae is None:
            raise InputError("vae", config.vae, "the set was made with the VAE of its generator, or without one")
        settings |= {"vae": config.vae, "vae_revision": None}
    elif generator and generator.vae and generator.vae.revision:
        settings["vae_revision"] = generator.vae.revision
    if config.prompts:
        settings["prompts"] = config.prompts
    # Whatever 'auto' makes of the place where it lies now; a record without them is older than the choice.
    if generator and recorded.get("timestep_features", "auto"):
        settings["timestep_features"] = generator.timestep_features or "diffusers"
    if config.teacher:
        if members and config.teacher != "auto" and len(split_teachers(config.teacher)) != len(members):
            valid = f"the set was labelled by {len(members)}; name as many, by commas and in the order of its record"
            raise InputError("teacher", config.teacher, valid)
        settings |= {"teacher": config.teacher, "teacher_revision": None}
    elif any(revisions := [member.revision or "" for member in members]):
        settings |= {"teacher": recorded.get("teacher", "auto"), "teacher_revision": ",".join(revisions)}
    selects = recorded.get("selector", "auto") != "auto"
    if config.selector:
        if not selects:
            raise InputError("selector", config.selector, "the set was made without one, or its teacher selected")
        settings |= {"selector": config.selector, "selector_revision": None}
    elif selects and manifest.selector:
        settings["selector_revision"] = manifest.selector.revision
    if config.experts:
        if manifest.experts is None:
            raise InputError("experts", config.experts, "the set was made without any")
        settings |= {"experts": config.experts, "experts_revision": None}
    elif manifest.experts and manifest.experts.revision:
        settings["experts_revision"] = manifest.experts.revision
    notes = manifest.method.notes
    if config.dynamics:
        if "dynamics_sha256" not in notes:
            raise InputError("dynamics", config.dynamics, "the set was made without any")
        settings |= {"dynamics": config.dynamics, "dynamics_revision": None}
    elif notes.get("dynamics_revision"):
        settings["dynamics_revision"] = notes["dynamics_revision"]
    return settings


def _done_then(manifest: Manifest) -> dict[str, Any]:
    """Return what recipes did before there were options for it, where another default has come; what is on record wins."""
    done: dict[str, Any] = {"judged_over": "set"}
    if "smallest_crop" in manifest.method.config:  # optimised pixels were seen in one way at any size
        done |= {"flips": "yes", "largest_roll": round(manifest.image_size / 7)}
    return done


def _start(manifest: Manifest) -> list[str]:
    """Return the options that start it with the recorded device, processes and precision, as far as this machine has them.

    The launch file that `accelerate config` wrote has no part in it: --cpu needs none, and for GPUs another is named.
    """
    recorded = manifest.environment
    if "cuda" in recorded.peak_memory_bytes:
        import torch  # no other set needs it here, and it takes seconds

        here = torch.cuda.device_count()
        start = ["--config_file", str(recipes_folder() / "accelerate" / "multi_gpu.yaml")]
    else:
        here = os.cpu_count() or 1
        start = ["--cpu"]
    processes = max(1, min(recorded.processes, here))
    return [*start, "--num_processes", str(processes), "--mixed_precision", recorded.mixed_precision]


def compare(recorded: Found, rebuilt: Path) -> Reproduction:
    """Compare a set with its rebuild.

    Args:
        recorded: The set.
        rebuilt: The folder of the rebuild.

    Raises:
        InputError: When one of them is damaged.
    """
    before, after = read_description(recorded)[0], Manifest.read(rebuilt / MANIFEST)
    shapes = [(m.rows, m.image_size, len(m.classes)) for m in (before, after)]
    if before.content_sha256 == after.content_sha256 or shapes[0] != shapes[1]:
        return Reproduction(before, after, None)
    one, other = (read_artifact(found, rows=False, pixels=True) for found in (recorded, find(rebuilt)))
    images = largest = total = 0
    for start in range(0, len(one.pixels), 100):
        a, b = (own.pixels[start : start + 100].astype(np.int16) for own in (one, other))
        apart = np.abs(a - b)
        images += int(apart.any((1, 2, 3)).sum())
        largest = max(largest, int(apart.max()))
        total += int(apart.sum())
    difference = Difference(
        images=images,
        largest=largest,
        mean=total / one.pixels.size,
        labels=int((one.labels != other.labels).sum()),
        soft_label=float(np.abs(one.soft_labels - other.soft_labels).max()),
        free_pixel=_apart(one.free_pixels, other.free_pixels),
    )
    return Reproduction(before, after, difference)


def _apart(one: np.ndarray | None, other: np.ndarray | None) -> float | None:
    """Return the largest absolute difference of the free pixels of two sets that have them."""
    if one is None or other is None:
        return None
    return max(float(np.abs(a.astype(np.float32) - b).max()) for a, b in zip(one, other, strict=True))
