"""What a run has cost so far and will cost in the end, for its bar and its metrics."""

from __future__ import annotations

from typing import Any

from megatron_ipt.synthesis.spending.ledger import Ledger
from megatron_ipt.synthesis.spending.price import PriceConfig

_LEAST_DOCUMENTS = 100
"""Finished documents from which their mean cost says something about the rest."""


class Outlook:
    """The cost of this process's share of the work.

    Args:
        ledger: of this process, entered.
        price: of tokens.
    """

    def __init__(self, ledger: Ledger, price: PriceConfig):
        self._ledger = ledger
        self._price = price

    def expected(self, finished: int, left: int | None) -> float | None:
        """What everything will have cost when ``left`` more documents are finished.

        Args:
            finished: documents since this process began.
            left: None if unknown.

        Returns:
            The cost, with what was spent before; None where it is too early to say, and without prices.
        """
        if not self._price.given or left is None or finished < _LEAST_DOCUMENTS:
            return None
        return self._price.cost(self._ledger.total()) + self._price.cost(self._ledger.spent()) / finished * left

    def shown(self, finished: int, left: int | None) -> dict[str, str]:
        """For the bar: nothing without prices."""
        if not self._price.given:
            return {}
        text = self._price.text(self._price.cost(self._ledger.total()))
        expected = self.expected(finished, left)
        return {"cost": text if expected is None else f"{text} of about {self._price.text(expected)}"}

    def figures(self, finished: int, left: int | None) -> dict[str, Any]:
        """For the metrics file."""
        expected = self.expected(finished, left)
        return {} if expected is None else {"expected_cost": round(expected, 6)}
