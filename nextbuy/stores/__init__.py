"""The stores behind Feast."""

from nextbuy.settings import Settings


def store_settings() -> Settings:
    """The settings of a store.

    Feast makes the stores itself, from feature_store.yaml alone, and so no caller can pass them:
    they are read from the environment here, each time they are needed.
    """
    return Settings()
