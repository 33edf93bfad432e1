"""From events to sessions, labels and feature tables."""
