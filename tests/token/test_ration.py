import random

import pytest

from proxy.token.answer import Token
from proxy.token.ration import BLOCK, LONGEST_BLOCK, WINDOW, Ration


def fetched(at: float, *, forced: bool = True) -> Token:
    token = Token("tok", 36000.0, at, at)
    token.forced = forced
    return token


def accept(ration: Ration, token: Token, now: float) -> None:
    ration.accepted(token)
    token.accepted_at = now


def blocked_at(now: float) -> Ration:
    ration = Ration()
    assert not ration.rejected(fetched(now), now)
    assert ration.rejected(fetched(now), now)
    return ration


def test_a_path_that_always_answers_401_costs_two_fetches_and_then_none() -> None:
    ration = Ration()
    ration.rejected(fetched(0, forced=False), 1)
    assert ration.allows(1)
    ration.rejected(fetched(1), 2)
    assert ration.allows(2)
    assert ration.rejected(fetched(2), 3)
    assert not ration.allows(3)


@pytest.mark.parametrize(
    ("gap", "blocks"),
    [(0.0, True), (WINDOW - 0.001, True), (WINDOW, False), (3 * 3600.0, False)],
    ids=["at once", "just within", "just outside", "hours apart"],
)
def test_two_rejected_tokens_count_if_they_were_fetched_within_the_window(gap: float, blocks: bool) -> None:
    ration = Ration()
    ration.rejected(fetched(0), 1)
    assert ration.rejected(fetched(gap), gap + 1) is blocks
    assert ration.allows(gap + 1) is not blocks


def test_a_hundred_rejections_of_one_token_count_once() -> None:
    ration = Ration()
    token = fetched(0)
    assert not any(ration.rejected(token, 1) for _ in range(100))
    assert ration.allows(1)


def test_tokens_that_served_before_they_were_revoked_are_no_strikes() -> None:
    ration = Ration()
    for at in range(10):
        token = fetched(at)
        accept(ration, token, at)
        assert not ration.rejected(token, at + 0.5)
    assert ration.allows(10)


def test_a_rejected_replay_is_a_strike_though_others_were_accepted_with_the_token() -> None:
    ration = Ration()
    for at, blocks in ((1, False), (2, True)):
        token = fetched(at)
        accept(ration, token, at)
        assert ration.rejected(token, at, replay=True) is blocks


def test_tokens_of_the_schedule_are_no_strikes() -> None:
    ration = Ration()
    for at in range(10):
        assert not ration.rejected(fetched(at, forced=False), at)
    assert ration.allows(10)


def test_a_block_ends_to_the_tick() -> None:
    ration = blocked_at(100)
    assert not ration.allows(100 + BLOCK - 0.001)
    assert ration.allows(100 + BLOCK)


def test_each_rejected_probe_doubles_the_block_up_to_ten_minutes() -> None:
    ration = blocked_at(0)
    now, blocks = 0.0, []
    for _ in range(7):
        start = now
        while not ration.allows(now):
            now += 1
        blocks.append(now - start)
        assert ration.rejected(fetched(now), now)
        assert not ration.allows(now)
    assert blocks == [30, 60, 120, 240, 480, LONGEST_BLOCK, LONGEST_BLOCK]


@pytest.mark.parametrize("forced", [True, False], ids=["a probe", "of the schedule"])
def test_the_first_answer_to_a_fresh_token_resets_all_if_it_is_not_a_401(forced: bool) -> None:
    ration = blocked_at(0)
    ration.rejected(fetched(BLOCK), BLOCK)  # now 60 s
    fresh = fetched(BLOCK * (3 if forced else 2), forced=forced)
    accept(ration, fresh, fresh.requested_at)
    assert ration.allows(fresh.requested_at)
    later = fresh.requested_at + WINDOW
    ration.rejected(fetched(later), later)
    assert ration.rejected(fetched(later), later)
    assert ration.allows(later + BLOCK)  # 30 s again


def test_a_token_from_before_the_block_proves_nothing() -> None:
    ration = blocked_at(100)
    accept(ration, fetched(50, forced=False), 101)
    assert not ration.allows(101)


def test_a_token_that_was_rejected_first_proves_nothing() -> None:
    ration = blocked_at(0)
    probe = fetched(BLOCK)
    ration.rejected(probe, BLOCK)
    accept(ration, probe, BLOCK)
    assert not ration.allows(BLOCK)


def test_a_token_forced_before_the_block_is_no_probe() -> None:
    ration = Ration()
    unanswered = fetched(0)
    for at in (1, 2):
        ration.rejected(fetched(at), at)
    assert not ration.rejected(unanswered, 3)
    assert ration.allows(2 + BLOCK)


def test_the_schedule_goes_on_in_a_block_without_making_it_longer() -> None:
    ration = blocked_at(0)
    ration.rejected(fetched(10, forced=False), 10)
    assert ration.allows(BLOCK)


@pytest.mark.parametrize("refresh", [5.0, 10.0, 20.0, 18000.0])
@pytest.mark.parametrize("seed", range(4))
def test_good_traffic_elsewhere_buys_a_rejecting_path_no_more_fetches(refresh: float, seed: int) -> None:
    dice = random.Random(seed)
    ration = Ration()
    current, forced = fetched(0, forced=False), []
    for tenth in range(6000):
        now = tenth / 10
        if now - current.requested_at >= refresh:
            current = fetched(now, forced=False)
        if dice.random() < 0.5:
            accept(ration, current, now)
        else:
            ration.rejected(current, now)
            if ration.allows(now):
                current = fetched(now)
                forced.append(now)
                if dice.random() < 0.5:
                    accept(ration, current, now)
                ration.rejected(current, now, replay=True)
    for at in forced:
        # One more where a fresh token of the schedule lifts the block.
        assert sum(at <= other < at + WINDOW for other in forced) <= 2 + WINDOW / refresh
