"""A long run of the real command under random faults: `python -m tests.soak --seconds 600`.

Three processes: the command; a Fumage and an EMR that misbehave (`fumage.py`); and the callers, who judge at
the end (`promises.py`). Each request carries a number, and each side notes what became of it.
"""

ID = "X-Soak-Id"
SIZE = "X-Soak-Size"  # bytes of body that the answer should have
REPLAY_LIMIT = 512 * 1024
LARGE = 1024 * 1024


def pattern(number: int, size: int) -> bytes:
    """A body that only this request, or its answer, can have."""
    return (b"%031d " % number * (size // 32 + 1))[:size]
