import pytest

from proxy.rules.errors import CredentialsRefused, EgressProxyFailed, TokenEndpointUnavailable
from proxy.token.pause import PATIENCE, REFUSED, Pause


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999999])
def test_pauses_double_from_one_second_to_a_minute(jitter: float) -> None:
    pause = Pause()
    lengths = []
    for _ in range(9):
        pause.failed(TokenEndpointUnavailable("x"), 0.0, jitter)
        lengths.append(pause.left(0.0))
    for length, step in zip(lengths, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert max(1, step * 0.8) <= length <= min(60, step * 1.2)
    if jitter == 0.5:
        assert lengths == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(("retry_after", "length"), [(0.5, 1.0), (20.0, 20.0), (300.0, 300.0)])
def test_retry_after_is_a_lower_bound(retry_after: float, length: float) -> None:
    pause = Pause()
    pause.failed(TokenEndpointUnavailable("x", retry_after=retry_after), 100.0, 0.5)
    assert pause.left(100.0) == length


def test_refused_credentials_rest_for_thirty_seconds_to_the_tick_and_nobody_waits() -> None:
    pause = Pause()
    pause.failed(CredentialsRefused("x"), 0.0, 0.9)
    assert pause.left(REFUSED - 0.001) > 0
    assert not pause.worth_waiting(REFUSED - 0.001)
    assert pause.left(REFUSED) == 0
    assert pause.worth_waiting(REFUSED)


def test_what_is_left_of_a_short_pause_is_worth_waiting_for() -> None:
    pause = Pause()
    pause.failed(TokenEndpointUnavailable("x", retry_after=10), 0.0, 0.5)
    assert not pause.worth_waiting(10 - PATIENCE - 0.001)
    assert pause.worth_waiting(10 - PATIENCE)


def test_a_success_forgets_the_failures() -> None:
    pause = Pause()
    for _ in range(5):
        pause.failed(EgressProxyFailed("x"), 0.0, 0.5)
    pause.succeeded(not_before=3.0)
    assert pause.error is None
    assert pause.left(2.0) == 1.0
    pause.failed(EgressProxyFailed("x"), 10.0, 0.5)
    assert pause.left(10.0) == 1.0
