"""What every record of the format shares: types of its fields, and how it is read and written."""

import datetime
import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from distill_hub.config import InputError
from distill_hub.extensions import ONE, Extension, Kind
from distill_hub.parsing import read_file, read_json

MANIFEST_BYTES = 20_000_000  # room for 100,000 classes
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # enters names of folders, files and repositories


def _read_moment(value: Any) -> Any:
    """Read a time as it is written in a record; Pydantic would take '0' for one, too."""
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d", value):
        moment = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
        if moment.tzinfo is None:
            raise ValueError("a time zone is needed, as in 2026-01-02T03:04:05Z")
        return moment
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_read_moment)]
Name = Annotated[str, Field(pattern=NAME, max_length=250)]
Seconds = Annotated[float, Field(ge=0, le=1e10)]  # three centuries
Count = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]

Own = TypeVar("Own", bound="Record")


class Record(BaseModel):
    """A frozen record that refuses unknown fields and turns a bad one into one line."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, str_max_length=20_000)
    RARE: ClassVar[tuple[str, ...]] = ()  # fields that are left out where they are None: older readers know none of them

    @model_serializer(mode="wrap")
    def _dumped(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name not in self.RARE or value is not None}

    @classmethod
    def read(cls: type[Own], path: Path, most_bytes: int = MANIFEST_BYTES) -> Own:
        """Read a JSON file.

        Raises:
            InputError: When the file is missing, not a plain file, or larger; when it is not JSON, gives a key twice or a
                number that is not finite; when a field is missing, unknown, or of the wrong type.
        """
        try:
            text = read_file(path, most_bytes).decode("utf-8-sig")
            read_json(text)  # what Pydantic takes without a word
            return cls.model_validate_json(text)
        except FileNotFoundError as error:
            raise InputError("file", str(path), "it is missing") from error
        except OSError as error:
            raise InputError("file", str(path), f"it cannot be read ({error.strerror})") from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "content"
            # Pydantic gives the whole record as the input of a missing field, and null is a value that somebody wrote.
            given = None if first["type"] == "missing" else "null" if first["input"] is None else first["input"]
            raise InputError(f"{path.name}: {field}", given, first["msg"]) from error
        except ValueError as error:
            raise InputError(f"{path.name}: content", str(path), f"JSON is needed ({error})") from error

    def to_json(self) -> str:
        """Return the record as indented JSON that ends in a newline."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


class PackageRecord(Record):
    """The package that a method, a protocol or a network comes from which is not distill-hub's own."""

    # Both are printed on a terminal, and a stranger may have written them.
    name: Name
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.!+-]*$", max_length=100)

    def check(self, kind: Kind, name: str, found: Extension | None) -> None:
        """Refuse what comes from the package and is not installed here; another version of it will do.

        Args:
            kind: Of what.
            name: Of it.
            found: What is installed here under that name.

        Raises:
            InputError: Naming the package and its version.
        """
        if found is None or found.package != self.name:
            here = f"here {found.origin} has one of that name" if found else "which is not installed here"
            raise InputError(
                ONE[kind], name, f"it comes from the package {self.name} {self.version}, {here}; install that one"
            )


def package_record(found: Extension | None) -> PackageRecord | None:
    """Return the record of the package that something comes from; None: it is our own."""
    return PackageRecord(name=found.package, version=found.version) if found else None


def now() -> datetime.datetime:
    """Return the time of a record: UTC, in whole seconds."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
