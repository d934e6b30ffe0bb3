"""The pause after a failed token request: backoff with jitter, Retry-After, refused credentials."""

from proxy.rules.errors import CredentialsRefused, TokenError

FIRST, LONGEST = 1.0, 60.0  # s
JITTER = 0.2  # of a step, either way: replicas that failed together do not come back together
REFUSED = 30.0  # s without a token request after refused credentials
PATIENCE = 2.0  # s: a pause with no more than this left is waited for, so that a blip costs no error


class Pause:
    """When the next token request may be made, and the failure waited out. Times by the boot clock."""

    def __init__(self) -> None:
        self.error: TokenError | None = None
        self._until = 0.0
        self._step = FIRST

    def left(self, now: float) -> float:
        """Seconds until a token request may be made; 0 when it may be made now."""
        return max(0.0, self._until - now)

    def worth_waiting(self, now: float) -> bool:
        """Whether a request had better wait for the pause to end than fail."""
        return self.left(now) <= (0.0 if isinstance(self.error, CredentialsRefused) else PATIENCE)

    def failed(self, error: TokenError, now: float, jitter: float) -> None:
        """Begin a pause; `jitter` in [0, 1). An error that has a retry_after demands at least that."""
        if isinstance(error, CredentialsRefused):
            length = REFUSED
        else:
            length = self._step * (1 - JITTER + 2 * JITTER * jitter)
            length = max(min(length, LONGEST), FIRST, error.retry_after or 0.0)
            self._step = min(2 * self._step, LONGEST)
        self.error = error
        self._until = now + length

    def succeeded(self, not_before: float) -> None:
        """Forget the failures; no request before `not_before` all the same."""
        self.error = None
        self._until = not_before
        self._step = FIRST
