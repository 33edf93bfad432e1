"""From a shop's log to canonical events."""
