"""What the answers of a model cost: prices, the ledger, and forecasts."""
