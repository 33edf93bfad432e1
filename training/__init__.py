"""From labelled rows to a registered champion, and its honest figures."""

import os

# Threads that wait for each other by spinning take the cores from whoever works: with two fits on
# two cores, one takes five times as long (docs/decisions/054). Read when the libraries load.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
