"""The rules of retrying, with a clock and a generator of the test's own: no network, no waiting."""

from __future__ import annotations

import random

import httpx
import pytest

from serving.client.errors import ClientError, ConnectionFailedError, TimedOutError, UnavailableError
from serving.client.exchange import Call, Outcome, Pause, Reply, Send, exchange
from serving.client.retries import Retries, retry_after_of

SCORE = Call(method="POST", path="/v1/score")
CREATE = Call(method="POST", path="/v1/videos", repeatable=False)


def reply(status: int, **headers: str) -> Reply:
    return Reply(status=status, headers=httpx.Headers({k.replace("_", "-"): v for k, v in headers.items()}), body=b"x")


class Driver:
    """Answers an exchange from a list; its clock moves only with pauses."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes
        self.now = 100.0
        self.pauses: list[float] = []
        self.timeouts: list[float] = []

    def run(self, call: Call, *, deadline_s: float = 60.0, retries: Retries) -> Reply:
        steps = exchange(call, deadline_s=deadline_s, retries=retries, clock=lambda: self.now)
        outcome: Outcome = None
        while True:
            try:
                wanted = steps.send(outcome)
            except StopIteration as end:
                value: Reply = end.value
                return value
            if isinstance(wanted, Pause):
                self.pauses.append(wanted.seconds)
                self.now += wanted.seconds
                outcome = None
            else:
                assert isinstance(wanted, Send)
                self.timeouts.append(wanted.timeout_s)
                outcome = self.outcomes.pop(0)


def test_waits_are_drawn_between_nothing_and_twice_the_last_limit() -> None:
    drawn = [
        [Retries(base_s=1, cap_s=5, generator=random.Random(seed)).wait_s(n, None) for n in range(1, 6)]
        for seed in range(500)
    ]
    for n, limit in enumerate((1, 2, 4, 5, 5)):
        waits = [row[n] for row in drawn]
        assert 0 <= min(waits) < 0.05 * limit
        assert 0.95 * limit < max(waits) <= limit
        assert 0.4 * limit < sum(waits) / len(waits) < 0.6 * limit


def test_an_attempt_gets_the_time_that_is_left() -> None:
    driver = Driver([reply(503, retry_after="10"), reply(503, retry_after="20"), reply(200)])
    assert driver.run(SCORE, retries=Retries(base_s=0)).status == 200
    assert driver.pauses == [10, 20]
    assert driver.timeouts == [60, 50, 30]


@pytest.mark.parametrize(
    ("outcome", "score_again", "create_again"),
    [
        (reply(429), True, True),
        (reply(503), True, True),
        (reply(502), True, False),
        (reply(504), True, False),
        (reply(500), False, False),
        (reply(404), False, False),
        (httpx.ConnectError("refused"), True, True),
        (httpx.ConnectTimeout("slow"), True, True),
        (httpx.ReadError("reset"), True, False),
        (httpx.WriteError("reset"), True, False),
        (httpx.RemoteProtocolError("closed"), True, False),
        (httpx.ReadTimeout("silent"), False, False),
        (httpx.UnsupportedProtocol("ftp"), False, False),
    ],
)
def test_only_what_is_safe_is_repeated(outcome: Outcome, score_again: bool, create_again: bool) -> None:
    for call, again in ((SCORE, score_again), (CREATE, create_again)):
        driver = Driver([outcome, reply(200)])
        if again:
            assert driver.run(call, retries=Retries()).status == 200
        else:
            with pytest.raises(ClientError):
                driver.run(call, retries=Retries())
            assert driver.pauses == []


def test_errors_keep_their_cause() -> None:
    cause = httpx.ReadTimeout("silent")
    with pytest.raises(TimedOutError) as caught:
        Driver([cause]).run(SCORE, retries=Retries())
    assert caught.value.__cause__ is cause
    with pytest.raises(ConnectionFailedError, match="refused"):
        Driver([httpx.ConnectError("refused")]).run(SCORE, retries=Retries(max_retries=0))


def test_the_deadline_ends_it() -> None:
    driver = Driver([reply(503, retry_after="4")] * 100)
    with pytest.raises(UnavailableError):
        driver.run(SCORE, deadline_s=10, retries=Retries(base_s=0, max_retries=99))
    assert driver.pauses == [4, 4]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("9" * 400, float("inf")),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_of(value) == seconds


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="negative"):
        Retries(max_retries=-1)
