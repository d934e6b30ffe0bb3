"""The resources that the sandbox holds, in memory."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .data import EPOCH, Practice, attachment_url, pdf
from .kinds import KINDS, SEARCH_COMMON, Resource, patient_of

LOADABLE = ("Observation", "Patient")
LOAD_LIMIT = 100_000


@dataclass
class Stored:
    """A resource, and when it was last written: whole seconds since the epoch, as HTTP dates have them."""

    resource: Resource
    modified: int


@dataclass(frozen=True)
class File:
    content_type: str
    data: bytes


class Store:
    """Starts with the sample data; attachment URLs lie below `base_url`."""

    def __init__(self, base_url: str, clock: Callable[[], float]):
        self._base_url = base_url
        self._clock = clock
        self._practice = Practice(base_url)
        self._files: dict[str, File] = {}
        self._types: dict[str, dict[str, Stored]] = {resource_type: {} for resource_type in KINDS}
        self._take_in(self._practice.everything())

    def load(self, resource_type: str, count: int) -> None:
        """Add `count` made-up resources; ValueError if that is not possible."""
        if resource_type not in LOADABLE:
            raise ValueError(f"type is one of {', '.join(LOADABLE)}, not {resource_type!r}")
        if not 1 <= count <= LOAD_LIMIT:
            raise ValueError(f"count lies between 1 and {LOAD_LIMIT}")
        self._take_in(self._practice.more(resource_type, count))

    def counts(self) -> dict[str, int]:
        return {resource_type: len(stored) for resource_type, stored in self._types.items()}

    def get(self, resource_type: str, key: str) -> Stored | None:
        return self._types[resource_type].get(key)

    def create(self, resource: Resource) -> str:
        """Keep a new resource under an id of our own, which is returned; its former id is lost."""
        key = uuid.uuid4()
        name = key.hex if resource["resourceType"] == "Patient" else str(key)
        kept = {
            "resourceType": resource["resourceType"],
            "id": name,
            **_without(resource, "resourceType", "id"),
        }
        self._types[resource["resourceType"]][name] = Stored(kept, int(self._clock()))
        return name

    def update(self, stored: Stored, resource: Resource) -> None:
        stored.resource = resource
        # HTTP dates have whole seconds: of two writes within one, the second is dated a second later, so that
        # If-Unmodified-Since tells them apart.
        stored.modified = max(int(self._clock()), stored.modified + 1)

    def add_file(self, document: str, file: File) -> str:
        """Keep the file of a DocumentReference; says the URL that its attachment gets."""
        self._files[document] = file
        return attachment_url(self._base_url, document)

    def file(self, document: str) -> File | None:
        """The file of a DocumentReference. Those of the sample data are made when they are asked for."""
        if document in self._files:
            return self._files[document]
        stored = self.get("DocumentReference", document)
        if stored is None:
            return None
        return File("application/pdf", pdf(f"{stored.resource.get('description', 'Document')} {document}"))

    def search(
        self, resource_type: str, query: Iterable[tuple[str, str]], patient: str | None
    ) -> list[Resource]:
        """What fits all parameters; a comma means or. With `patient`, only what is about that patient.

        Parameters that the type does not have are ignored: Canvas's open-source framework
        (canvas-medical/fhirstarter) does not look at undeclared ones either.
        """
        matchers = KINDS[resource_type].search | SEARCH_COMMON
        wanted = [(matchers[name], value.split(",")) for name, value in query if name in matchers]
        return [
            resource
            for resource in self._all(resource_type)
            if (patient is None or patient_of(resource) in (None, patient))
            and all(any(matches(resource, value) for value in values) for matches, values in wanted)
        ]

    def _all(self, resource_type: str) -> Iterator[Resource]:
        return (stored.resource for stored in self._types[resource_type].values())

    def _take_in(self, resources: Iterable[Resource]) -> None:
        modified = int(EPOCH.timestamp())
        for resource in resources:
            self._types[resource["resourceType"]][resource["id"]] = Stored(resource, modified)


def _without(resource: Resource, *names: str) -> Resource:
    return {name: value for name, value in resource.items() if name not in names}
