"""What a record says of the real dataset that something was made from."""

import hashlib

from distill_hub.artifact.base import Count, Record, Share
from distill_hub.data.known import KNOWN, Normalization


class SourceRecord(Record):
    """The real dataset."""

    name: str  # known name or Hub id; of one on its author's machine the name of the folder
    hub_id: str | None = None
    revision: str | None = None  # commit of the Hub dataset
    config: str | None = None  # its configuration, where one was named
    fingerprint: str  # of the training split's labels and images, see `data.split.Split.fingerprint`
    train_split: str
    test_split: str
    image_column: str
    label_column: str
    test_fraction: Share = 0.0  # share of the training split held out when the source has no test split
    train_images: Count
    test_images: Count
    mirrored: bool | None = None  # whether a mirrored image still shows its class; None: older versions had no choice
    normalization: Normalization | None = None  # of images of at most 64 px, see `data.known.NORMALIZATIONS`; None: as above
    license: str | None = None
    bibtex: str | None = None

    @property
    def identity(self) -> str:
        """What is equal for records of the same training images.

        Older versions took the fingerprint of a dataset on the Hub over its images: what compares is the commit.
        """
        if not (self.hub_id and self.revision):
            return self.fingerprint
        split = self.train_split, self.image_column, self.label_column, self.test_fraction, self.train_images
        return hashlib.sha256(repr((self.hub_id, self.revision, self.config, *split)).encode()).hexdigest()

    @property
    def is_folder(self) -> bool:
        """Whether it lies on its author's machine: also where it is called as a known source, of which more is on record."""
        known = KNOWN.get(self.name)
        return self.hub_id is None and (known is None or known.hub_id is not None or self.license != known.license)
