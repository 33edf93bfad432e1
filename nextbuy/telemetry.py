"""Telemetry of every dependency is off unless the environment already says otherwise.

Importing this module is the whole effect: it only fills in variables that are not set.
`make` also places a one-line `.pth` file in the virtual environment that imports it, so that
`mlflow ui`, `bentoml serve` or `evidently ui` typed by hand are as quiet as our own commands.
Streamlit reads `.streamlit/config.toml` instead.
"""

import os

OFF = {
    "DO_NOT_TRACK": "1",  # Evidently, and others that follow consoledonottrack.com
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "BENTOML_DO_NOT_TRACK": "true",  # "1" is ignored by BentoML 1.4
    "GX_ANALYTICS_ENABLED": "false",
    "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
}

for name, value in OFF.items():
    os.environ.setdefault(name, value)
