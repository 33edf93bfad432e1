"""From labelled rows to a registered champion, and its honest figures."""
