"""From labelled rows to a registered champion, and its evaluation."""

import os

# Threads that wait by spinning take the cores from threads that work: with two fits on two cores,
# one takes five times as long (docs/models.md). Read when the libraries load.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
