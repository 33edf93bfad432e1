"""The simulated shop: a clickstream log whose true purchase probabilities are known."""
