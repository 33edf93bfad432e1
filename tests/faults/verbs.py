"""Verbs as processes of their own that can be killed, starved and walled in, many a minute.

The imports of a verb take seconds. So one process pays for them (`python -m tests.faults.verbs`,
which keeps to one thread) and forks for each piece of work. A piece is a list of steps, done in
order in a child of its own: a verb's arguments, a shell command, or a function of `kept.py`.

`walled="mount"` gives that child mounts of its own, `"net"` a network without any way out. Neither
needs to be root where the kernel allows user namespaces.
"""

import atexit
import ctypes
import fcntl
import importlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ALONE = ("REDIS_URL", "MLFLOW_TRACKING_URI", "NEXTBUY_CONFIG", "NEXTBUY_REGISTRY_URL")


@dataclass(frozen=True)
class Outcome:
    """How a step ended."""

    code: int
    said: str
    seconds: float

    def returned(self):
        """What a function of `kept.py` returned."""
        assert self.code == 0, self
        return json.loads(self.said.splitlines()[-1])

    def __str__(self):
        return f"exit {self.code} after {self.seconds:.1f} s\n{self.said}"


class Verbs:
    """The process that forks; `environment` is what every verb of it sees."""

    def __init__(self, **environment):
        whole = {k: v for k, v in os.environ.items() if k not in ALONE}
        one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.verbs"],
            env=whole | one_thread | environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *steps, walled="", kill_after=None, memory=None):
        """The outcomes of `steps`: lists are arguments of `nextbuy`, texts are for the shell, and
        `{"call": NAME}` prints what a function of `kept.py` returns, as JSON.

        After `kill_after` seconds a verb is killed by SIGKILL; `memory` is how many bytes it may
        have on top of its imports, as by `ulimit -v`.
        """
        asked = {"steps": steps, "walled": walled, "kill_after": kill_after, "memory": memory}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return [Outcome(**found) for found in json.loads(self._process.stdout.readline())]

    def __call__(self, *arguments, **how):
        """The outcome of one verb."""
        return self.run(list(map(str, arguments)), **how)[0]

    def call(self, name):
        """What a function of `kept.py` returns."""
        return self.run({"call": name})[0].returned()

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def cannot_wall():
    """Why this machine gives no namespaces; None where it does."""
    try:
        done = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "--net", "true"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return "there is no unshare here (Linux, util-linux)"
    return done.stderr.strip() or None


def _serve():
    """Answer requests, a line each, until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a verb prints by mistake is no answer
    _preload()
    for line in sys.stdin:
        asked = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            if asked["walled"]:
                _wall(asked["walled"])
            found = [_step(step, asked) for step in asked["steps"]]
            with os.fdopen(writer, "w") as pipe:
                json.dump(found, pipe)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            answers.write(pipe.read() + "\n")
        answers.flush()
        os.waitpid(child, 0)


def _preload():
    """What the verbs import, without doing anything."""
    import evidently
    import great_expectations
    import mlflow.lightgbm
    import mlflow.xgboost
    from feast.cli import cli as feast

    import bento.bulk
    import monitoring.run
    import monitoring.table_checks
    import nextbuy.live.merge
    import nextbuy.maintenance.backup
    from nextbuy.cli import daily
    from training import evaluate, promote, train

    assert all([evidently, great_expectations, mlflow, feast, bento, monitoring, nextbuy, daily])
    assert all([evaluate, promote, train])


def _wall(how):
    """Become root of a user namespace of our own, with mounts or a network of our own."""
    flags = {"mount": 0x00020000, "net": 0x40000000}  # linux/sched.h
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000 | flags[how]):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if how == "net":
        with socket.socket() as any_socket:  # the loopback is down in a new one
            up = struct.pack("16sh14x", b"lo", 0x1)  # linux/if.h: IFF_UP
            fcntl.ioctl(any_socket, 0x8914, up)  # linux/sockios.h: SIOCSIFFLAGS


def _step(step, asked):
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        if isinstance(step, str):
            code = subprocess.run(
                step, shell=True, stdout=output, stderr=output, check=False
            ).returncode
        else:
            child = os.fork()
            if child == 0:
                _become(step, output, asked["memory"])
            if asked["kill_after"] is not None:
                time.sleep(asked["kill_after"])
                os.kill(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.monotonic() - began
        output.seek(0)
        return {"code": code, "said": output.read(), "seconds": seconds}


def _become(step, output, memory):
    """Be this verb or function from now on; does not come back."""
    from nextbuy.cli import main

    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    if memory:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    code = 0
    try:
        if isinstance(step, dict):
            print(json.dumps(getattr(importlib.import_module("tests.faults.kept"), step["call"])()))
        else:
            sys.argv = ["nextbuy", *step]
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # as the interpreter would
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
