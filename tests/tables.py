"""Tables built and published without checks: what most tests need."""

from nextbuy.tables.build import stage_features, stage_labels, stage_sessions


def build_sessions(settings, config, compute=None):
    """Publish the sessions; returns what became of them."""
    with stage_sessions(settings, config, compute) as staged:
        return staged.publish()


def build_labels(settings, config, compute=None):
    """Publish the labels; returns what became of them."""
    with stage_labels(settings, config, compute) as staged:
        return staged.publish()


def build_features(settings, only=(), compute=None):
    """Publish the feature tables; returns what became of each."""
    with stage_features(settings, only, compute) as tables:
        return [staged.publish() for staged in tables]
