"""The pages, their fenced blocks, and the commands that something else runs."""

import re
from pathlib import Path

from nextbuy.settings import PROJECT

PAGES = (
    PROJECT / "README.md",
    PROJECT / "SECURITY.md",
    PROJECT / "CHANGELOG.md",
    *sorted((PROJECT / "docs").glob("*.md")),
)
LANGUAGES = {"sh", "text", "yaml", "python", "mermaid", "json", "diff", "console"}
"""`console` is what Typer writes in commands.md: usages, not commands to run."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

RUN = (
    r"(NEXTBUY_DATA=\S+ )?nextbuy |feast |mlflow |streamlit |bentoml serve |"
    r"python -c |curl |cat > |export |source "
)
"""How a command begins that `test_docs_commands.py` runs."""

SPARK = ("tests/nextbuy/test_spark.py", "spark_engine")
FEAST_ON_SPARK = ("tests/nextbuy/test_feast_on_spark.py", "spark.yaml")
COMPOSE = ("tests/test_platform.py", "docker-compose.yml")
DAGSTER = ("tests/test_dagster.py", "shop_day.py")
CLUSTER = ("tests/test_kubernetes.py", "containers")

ELSEWHERE = {
    r"nextbuy demo --shoppers 400 --days 130": ("tests/test_end_to_end.py", '"demo", "--shoppers"'),
    r"make demo": ("tests/docs/conftest.py", '"nextbuy", "demo"'),
    r"make docs": ("tests/docs/test_docs.py", "commands.md"),
    r"make (lint|types|test|test-service)": (".ci/run", r"make \1"),
    r"make (audit|container|\.venv/ready)": (".github/workflows/ci.yml", r"make \1"),
    r"make test-(docs|servers|platform|spark)": ("Makefile", r"test-\1: $(READY)"),
    r"make bench NAME=(\w+)": (r"benchmarks/\1.py", "__main__"),
    r"make (figures|soak)": (r"benchmarks/\1.py", "__main__"),
    r"python -m benchmarks\.(\w+).*": (r"benchmarks/\1.py", "__main__"),
    r"make monitoring-faults": ("tests/monitoring/faults.py", "monitoring-faults.md"),
    r"make dashboard-pictures": ("tests/monitoring/browser.py", "docs/images"),
    r"\.venv/bin/pytest (tests/\S+).*": (r"\1", "def test_"),
    r"bentoml build": ("tests/bento/test_build.py", '"build"'),
    r"bentoml containerize .*": ("containers/end_to_end.sh", "bentoml containerize"),
    r"docker compose up.*": COMPOSE,
    r"docker compose run --rm worker nextbuy .*": COMPOSE,
    r"kubectl .*": CLUSTER,
    r"python3\.11 -m venv build/dagster": DAGSTER,
    r"build/dagster/bin/pip install .*": ("tests/test_dagster.py", "requirements/dagster.lock"),
    r"export NEXTBUY(_LOGS)?=.*": DAGSTER,
    r"build/dagster/bin/dagster dev .*": DAGSTER,
    r"\.venv/bin/uv pip install .* -r requirements/spark\.lock": ("Makefile", "spark.lock"),
    r"nextbuy (sessionize|features) --engine spark": SPARK,
    r"export FEAST_FS_YAML_FILE_PATH=\S+/spark\.yaml": FEAST_ON_SPARK,
    r"export PYSPARK_PYTHON=.*": FEAST_ON_SPARK,
}
"""What the tests of the pages do not run: the whole command -> (file, what must be in it).

The file is the test, the target, the workflow or the program that runs the command."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block of a page, in order."""
    return FENCE.findall(page.read_text())


def commands(page: Path) -> list[str]:
    """The shell commands of a page, in order; a here-document belongs to its command."""
    found: list[str] = []
    for language, text in blocks(page):
        if language != "sh":
            continue
        lines = iter(text.splitlines())
        for line in lines:
            whole = re.sub(r"(^|\s\s)#.*$", "", line).rstrip()
            while whole.endswith("\\"):
                whole += "\n" + re.sub(r"\s\s#.*$", "", next(lines)).rstrip()
            if until := re.search(r"<<'(\w+)'", whole):
                for more in lines:
                    whole += "\n" + more
                    if more == until[1]:
                        break
            if whole:
                found.append(whole)
    return found


def elsewhere(command: str) -> tuple[Path, str] | None:
    """The file that runs a command in place of the pages' tests, and the text expected there."""
    for pattern, (file, text) in ELSEWHERE.items():
        if match := re.fullmatch(pattern, command, re.DOTALL):
            return PROJECT / match.expand(file), match.expand(text)
    return None
