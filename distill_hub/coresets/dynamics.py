"""What a network says of its training images while it is trained, epoch by epoch, and how difficult these are by it.

An image is seen as training shows it: augmented, by weights that change within the epoch, with BatchNorm in training mode.
No pass is made for it; EL2N's paper has one over all images at the end of an epoch, as they are.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from distill_hub.config import InputError, refusing
from distill_hub.coresets.names import DYNAMICS, VALID_DYNAMICS, Difficulty
from distill_hub.data.sources import Source
from distill_hub.disk.files import atomic_write
from distill_hub.hub import fetch, look
from distill_hub.kinds import local_name


class Recorder:
    """Takes down what a network says of N training images in E epochs.

    Args:
        epochs: E.
        images: N.
        device: Of the network.

    Attributes:
        state: What changes from epoch to epoch: `margin`, float32 (E, N), the logit of an image's class less the largest
            other one, and `error`, float32 (E, N), the length of softmax(logits) - one-hot(class); -1 of images that an
            epoch left out.
    """

    def __init__(self, epochs: int, images: int, device: torch.device):
        self.state = {"margin": torch.zeros(epochs, images), "error": torch.full((epochs, images), -1.0)}
        self._now = torch.zeros(3, images, device=device)  # of this epoch: margin, error, whether it was seen

    @torch.no_grad()
    def note(self, rows: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Take in a batch.

        Args:
            rows: Its images, int64 (B,), distinct.
            logits: (B, C), two classes at least.
            labels: int64 (B,).
        """
        logits, own = logits.float(), torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
        margin = logits[own] - logits.masked_fill(own, -torch.inf).amax(1)
        error = (logits.softmax(1) - own.float()).norm(dim=1)
        self._now[:, rows.to(self._now.device)] = torch.stack([margin, error, torch.ones_like(margin)])

    def end_epoch(self, epoch: int, summed: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        """Keep what was noted.

        Args:
            epoch: From 0.
            summed: Adds up a tensor over the processes, of which each has noted its share.
        """
        margin, error, seen = (summed(self._now) if summed else self._now).cpu()
        self.state["margin"][epoch] = margin
        self.state["error"][epoch] = error.masked_fill(seen == 0, -1)
        self._now.zero_()


def write_dynamics(
    file: Path, state: Mapping[str, torch.Tensor], source: Source, network: str, image_size: int, seed: int
) -> None:
    """Write down what a `Recorder` holds, with what it was recorded of and by."""
    facts = {"source": local_name(source.name), "source_fingerprint": source.fingerprint, "network": network}
    facts |= {"image_size": str(image_size), "epochs": str(len(state["error"])), "seed": str(seed)}
    atomic_write(file, save(dict(state), facts))


def aum(margin: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Return the area under the margin (Pleiss et al., 2020), float64 (N,): its mean over the epochs that showed it."""
    seen = error >= 0
    return (margin.double() * seen).sum(0) / seen.sum(0)


def el2n(error: torch.Tensor, epochs: int) -> torch.Tensor:
    """Return the error when an image was seen last in the first epochs (Paul et al., 2021), float64 (N,); nan: never."""
    found = torch.full((error.shape[1],), torch.nan, dtype=torch.float64)
    for shown in error[:epochs].double():
        found = torch.where(shown >= 0, shown, found)
    return found


def forgetting(margin: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Return how often an image was forgotten (Toneva et al., 2019), float64 (N,).

    That is: seen wrong, after it was right when it was seen before. One that was never right counts as forgotten whenever it
    was seen, as in the paper's code, which is more than any other can be. Right is a margin above 0.
    """
    seen, right = error >= 0, margin > 0
    was_right, learned, events = (torch.zeros(margin.shape[1]).bool(), torch.zeros(margin.shape[1]).bool(),
                                  torch.zeros(margin.shape[1], dtype=torch.float64))  # fmt: skip
    for shown, good in zip(seen, right, strict=True):
        events += shown & was_right & ~good
        was_right = torch.where(shown, good, was_right)
        learned |= shown & good
    return torch.where(learned, events, seen.sum(0).double())


@dataclass(frozen=True)
class Dynamics:
    """What one or more networks said of a source's training images."""

    files: Sequence[Path]  # one per network
    sha256: str  # over what they said
    revision: str | None = None  # commit of a single one on the Hub

    def difficulty(self, by: Difficulty, el2n_epochs: int) -> torch.Tensor:
        """Return how difficult the images are, the mean over the networks, float64 (N,); larger is harder.

        Args:
            by: 'el2n' or 'forgetting', see there; 'aum', with the sign reversed.
            el2n_epochs: First epochs that EL2N takes in.

        Raises:
            InputError: When an image was not seen.
        """
        found = []
        for file in self.files:
            with safe_open(file, "pt") as opened:
                margin, error = opened.get_tensor("margin"), opened.get_tensor("error")
            of_one = {
                "el2n": lambda error=error: el2n(error, el2n_epochs),
                "aum": lambda margin=margin, error=error: -aum(margin, error),
                "forgetting": lambda margin=margin, error=error: forgetting(margin, error),
            }[by]()
            never = (error < 0).all(0) | of_one.isnan()
            if never.any():
                valid = f"{int(never.sum())} images were not seen by then; more epochs are needed"
                raise InputError("dynamics", str(file.parent), valid)
            found.append(of_one)
        return torch.stack(found).mean(0)


def read_dynamics(source: Source, names: str, revision: str | None = None) -> Dynamics:
    """Open what trained classifiers bring along.

    Args:
        source: Whose training images they are to be of.
        names: Folders of classifiers, or their ids on the Hub, by commas.
        revision: Branch, tag or commit on the Hub.

    Raises:
        InputError: When they hold none, it is damaged, or of other images.
        HubError: When the Hub fails.
    """
    each = [name.strip() for name in names.split(",")]
    files, commits = zip(*(_find(name, revision) for name in each), strict=True)
    found = dynamics_of(source, list(zip(each, files, strict=True)))
    return replace(found, revision=commits[0] if len(each) == 1 else None)


def dynamics_of(source: Source, files: Sequence[tuple[str, Path]]) -> Dynamics:
    """Check files of `Recorder`, each with the name of where it lies; see `read_dynamics`."""
    digest = hashlib.sha256()
    for name, file in files:
        damaged = (OSError, SafetensorError, KeyError, RuntimeError)
        with refusing(damaged, "dynamics", name, f"{VALID_DYNAMICS}, is needed"), safe_open(file, "pt") as opened:
            facts, tensors = opened.metadata() or {}, [opened.get_tensor(key) for key in ("margin", "error")]
        if facts.get("source_fingerprint") != source.fingerprint:
            of = facts.get("source", "?")[:80]
            valid = f"it was recorded on other images, of {of}; here they are those of {source.name}"
            raise InputError("dynamics", name, valid)
        shape = tuple(tensors[0].shape)
        if len(shape) != 2 or shape[1] != len(source.train) or tuple(tensors[1].shape) != shape:
            raise InputError("dynamics", name, f"{DYNAMICS} holds {shape} values for {len(source.train)} images")
        if not all(tensor.dtype is torch.float32 and tensor.isfinite().all() for tensor in tensors):
            raise InputError("dynamics", name, f"{DYNAMICS} holds what is no finite number in float32")
        for tensor in tensors:  # not of the file, whose header is in any order
            digest.update(tensor.contiguous().numpy().data)
    return Dynamics([file for _, file in files], digest.hexdigest())


def _find(name: str, revision: str | None) -> tuple[Path, str | None]:
    """Return the file of a classifier; and of one on the Hub, which is downloaded, the commit."""
    if Path(name).is_dir():
        folder = Path(name)
        if not (folder / DYNAMICS).is_file():
            raise InputError("dynamics", name, f"{VALID_DYNAMICS}, is needed (there is no {DYNAMICS} in it)")
        return folder / DYNAMICS, None
    remote = look(name, revision, "model")
    if DYNAMICS not in remote.files:
        raise InputError("dynamics", name, f"{VALID_DYNAMICS}, is needed (there is no {DYNAMICS} in it)")
    return fetch(remote, [DYNAMICS]) / DYNAMICS, remote.commit
