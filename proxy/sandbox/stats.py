"""What the sandbox has seen."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stats:
    """Counts since the start; what a fault left without a whole answer counts under the fault's name."""

    token_requests: Counter[str] = field(default_factory=Counter)
    fumage_requests: Counter[str] = field(default_factory=Counter)
    file_requests: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {
            name: {"total": counts.total(), "by_status": dict(sorted(counts.items()))}
            for name, counts in vars(self).items()
        }
