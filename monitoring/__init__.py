"""Data quality, drift, delayed-label performance, alerts and the dashboard."""
