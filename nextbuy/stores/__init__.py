"""The stores behind Feast."""
