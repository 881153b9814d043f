"""When to try again, and after how long: arithmetic only."""

from __future__ import annotations

import email.utils
import random
import time
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Exponential backoff with full jitter: the n-th wait is uniform in [0, min(cap, base * 2^n)] seconds.

    Full jitter spreads callers who failed together; a Retry-After of the service is the least that is waited,
    with the jitter on top. `max_retries` = 0 switches retrying off. The call's deadline ends it in any case.
    """

    max_retries: int = 8
    base_s: float = 0.25
    cap_s: float = 10.0
    generator: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.max_retries < 0 or self.base_s < 0 or self.cap_s < 0:
            raise ValueError(f"retries, base and cap must not be negative: {self}")

    def wait_s(self, n_failed: int, retry_after_s: float | None) -> float:
        """Seconds to wait after the `n_failed`-th failure in a row, counted from 1."""
        jitter = self.generator.uniform(0, min(self.cap_s, self.base_s * 2 ** (n_failed - 1)))
        return jitter + (retry_after_s or 0.0)


def retry_after_of(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None if it is absent or neither."""
    if value is None:
        return None
    text = value.strip()
    if text.isdecimal():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())
