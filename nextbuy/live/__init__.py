"""Live events: kept durably, turned into feature rows by the batch definitions."""
