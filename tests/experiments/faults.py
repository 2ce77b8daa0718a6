"""Runs that are killed, or race, as real processes; started by test_faults.py as a program.

Processes are forked from one that has torch loaded already. They are killed after so much of the
*processor's* time (by its timer signal, which ends a process as SIGKILL does, with nothing
cleaned up), or where they rename what they have written: a slow or busy machine changes nothing.
"""

import importlib
import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import torch

from gdflows import runs
from gdflows.experiments import cli, registry
from gdflows.runs import Log

WORDS = ["run", "eos", "--network", "mlp-tanh", "--widths", "8", "--n", "20", "--every", "8",
         "--steps", "24", "--optimizer", "heavy-ball", "--no-picture"]  # fmt: skip
RENAMES = 25 + 2  # of the states, and of the record's two files

KILLED = (-signal.SIGPROF, -signal.SIGKILL)


def timed(rng, spent):
    """A kill at a random moment of a run that takes so many of the processor's seconds."""
    limit = rng.uniform(0.0, spent)
    return lambda: signal.setitimer(signal.ITIMER_PROF, limit)


def writing(rng):
    """A kill before, after or in the middle of a random one of the renames."""
    number, how = rng.randrange(1, RENAMES + 1), rng.choice(["before", "after", "half"])
    real, calls = os.replace, []

    def replace(a, b):
        calls.append(b)
        if len(calls) != number:
            return real(a, b)
        if how == "half":
            os.truncate(a, os.path.getsize(a) // 2)
        if how == "after":
            real(a, b)
        os.kill(os.getpid(), signal.SIGKILL)

    return lambda: setattr(os, "replace", replace)


def start(folder, lr, *, kill=None, wait=0.0):
    """Fork a process that runs the command; gives its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        if not os.environ.get("FAULTS_LOUD"):
            os.dup2(null, 2)
        time.sleep(wait)
        if kill is not None:
            kill()
        cli.app([*WORDS, "--lr", str(lr), "--out", str(folder)])
    except SystemExit as e:
        code = e.code or 0
    finally:
        os._exit(code)


def end(pid):
    """How a process ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def table(folder):
    return (folder / "table.csv").read_bytes()


def whole(place, lr):
    """The table of a run that nobody disturbs, and the processor's seconds that it took."""
    folder, before = place / f"whole-{lr}", resource.getrusage(resource.RUSAGE_CHILDREN)
    assert end(start(folder, lr)) == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return table(folder), spent


def kills(place, count, rng):
    """Kill and start again until so many have been killed, each run to its end."""
    expected, spent = whole(place, 0.2)
    killed, finished, littered = 0, 0, 0
    phases = {"before the first state": 0, "between states": 0, "while writing": 0}
    while killed < count:
        folder, step = place / f"killed-{finished}", -1
        while True:
            kill = None
            if killed < count:
                kill = timed(rng, spent) if rng.random() < 0.5 else writing(rng)
            code = end(start(folder, 0.2, kill=kill))
            if code == 0:
                break
            assert code in KILLED, code
            killed += 1
            names = {f.name for f in folder.iterdir()} if folder.exists() else set()
            if (folder / "run.json").exists():
                runs.load(folder)  # the record was complete
            elif "unfinished.pt" in names:
                now = runs.unfinished(folder)["step"]
                assert now >= step, (now, step)
                step = now
            phase = (
                "while writing"
                if any(n.endswith(".new") for n in names)
                else ("between states" if "unfinished.pt" in names else "before the first state")
            )
            phases[phase] += 1
        assert table(folder) == expected, folder
        littered += sorted(f.name for f in folder.iterdir()) != ["run.json", "table.csv"]
        finished += 1
    return {"killed": killed, "runs": finished, "littered": littered, "phases": phases}


def races(place, count, rng):
    """Two configurations at once in one folder, some of them killed; then one after another."""
    (first, spent), (second, _) = (whole(place, lr) for lr in (0.2, 0.3))
    expected = {0.2: first, 0.3: second}
    told = {"one refused": 0, "one killed": 0}
    for number in range(count):
        folder = place / f"race-{number}"
        kills = [
            rng.choice([lambda: timed(rng, spent), lambda: writing(rng)])()
            if rng.random() < 0.3
            else None
            for _ in range(2)
        ]
        waits = [0.0, rng.choice([0.0, rng.uniform(0, 0.2)])]
        pids = [
            start(folder, lr, kill=kill, wait=wait)
            for lr, kill, wait in zip((0.2, 0.3), kills, waits, strict=True)
        ]
        codes = [end(pid) for pid in pids]
        assert all(code in (0, 1, *KILLED) for code in codes), codes
        assert codes.count(0) <= 1, codes
        told["one refused"] += 1 in codes
        told["one killed"] += bool({*KILLED} & {*codes})
        # Each command once more: one of them is this folder's, and ends with its own numbers.
        codes = [end(start(folder, lr)) for lr in (0.2, 0.3)]
        assert sorted(codes) == [0, 1], codes
        record = runs.load(folder)
        assert table(folder) == expected[record.config["lr"]], record.config["lr"]
        assert (0.2, 0.3)[codes.index(0)] == record.config["lr"]
        assert sorted(f.name for f in folder.iterdir()) == ["run.json", "table.csv"]
    return told


if __name__ == "__main__":
    what, place, count, seed = sys.argv[1:]
    torch.set_num_threads(1)
    registry.know_all()
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)  # imports a good deal, once
    importlib.import_module("gdflows.problems")
    os.fsync = lambda descriptor: None  # a killed process loses nothing that it has written
    Log.seconds_between = 0.0  # a state at every step, so that the writing is hit too
    action = {"kills": kills, "races": races}[what]
    print(json.dumps(action(Path(place), int(count), random.Random(int(seed)))))
