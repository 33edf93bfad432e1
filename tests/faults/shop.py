"""A small shop with a day behind it, on which faults are tried."""

from tests.faults.verbs import Verbs

CONFIG = """
labels: {horizon_days: 4}
train:
  split: {warm_up_days: 2, train: 0.5, validation: 0.15, calibration: 0.15}
  model: {rounds: 30, threads: 1}
"""
SIZE = ("--shoppers", "160", "--items", "120")
TOMORROW = ("simulate", *SIZE, "--days", "31")


class Shop:
    """Its folder, and the verbs that work on it."""

    def __init__(self, folder):
        folder.mkdir(exist_ok=True)
        self.folder, self.data = folder, folder / "data"
        self.log = f"{self.data}/raw/simulated/*.parquet"
        self.archive = folder / "kept.tar.gz"
        (folder / "run.yaml").write_text(CONFIG)
        self.verbs = Verbs(
            NEXTBUY_DATA=str(self.data),
            NEXTBUY_CONFIG=str(folder / "run.yaml"),
            NEXTBUY_THREADS="2",
            BENTOML_HOME=str(folder / "bentoml"),
        )

    @property
    def ingest(self):
        """Takes in the log as it is by now: more simulated days make another log."""
        return ["ingest", self.log, "--source", "simulated", "--replace"]

    def live_through_a_day(self, **how):
        """From the log to what is served; the outcomes of the verbs."""
        verbs = (
            ["simulate", *SIZE, "--days", "30"],
            *(self.ingest, ["sessionize"], ["features"], ["apply"], ["train"], ["materialize"]),
            ["score"],
        )
        done = self.verbs.run(*verbs, **how)
        for verb, outcome in zip(verbs, done, strict=True):
            assert outcome.code == 0, f"{verb}: {outcome}"
        return done

    def shell(self, command):
        (done,) = self.verbs.run(command)
        assert done.code == 0, done

    def close(self):
        self.verbs.close()


def changed(before, after):
    """The parts whose digests differ (`kept.state`)."""
    return {part for part in before.keys() | after.keys() if before.get(part) != after.get(part)}
