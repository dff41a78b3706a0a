"""When a server stops answering and when it is back, logged once each.

With hundreds of requests in flight a lost server fails hundreds of times, and a healthy one now and then. So a server
is reported as failing after three failures without an answer in between, or one timeout, and as answering again only if
it was reported as failing. A server that fails and recovers again and again is reported at most once a minute.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

_FAILURES = 3
_QUIET_SECONDS = 60.0


class Outage:
    """Follows one server.

    Args:
        url: its address.
        patience: seconds for which failing requests are retried.
        clock: monotonic seconds.
    """

    def __init__(self, url: str, patience: float, clock: Callable[[], float] = time.monotonic):
        self._url = url
        self._patience = patience
        self._clock = clock
        self._failures = 0
        self._since = 0.0
        self._since_time = ""
        self._reported = False
        self._quiet_until = float("-inf")

    def failed(self, error: object, timed_out: bool = False) -> None:
        """A request failed in a way that may pass."""
        now = self._clock()
        if not self._failures:
            self._since, self._since_time = now, time.strftime("%H:%M:%S")
        self._failures += 1
        if self._reported or now < self._quiet_until or not (timed_out or self._failures >= _FAILURES):
            return
        self._reported = True
        self._quiet_until = now + _QUIET_SECONDS
        logger.info(
            "%s: requests have been failing since %s (%s); retrying each for up to %g s",
            self._url, self._since_time, error, self._patience,
        )  # fmt: skip

    def answered(self) -> None:
        """A request was answered."""
        if self._reported:
            logger.info("%s: answers again after %.0f s", self._url, self._clock() - self._since)
        self._failures = 0
        self._reported = False
