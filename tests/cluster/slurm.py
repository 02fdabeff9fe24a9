"""A real SLURM on this machine alone: munge, one controller and three nodes, all on loopback, without a database.

Nodes are daemons of one host under different names, so that memory and processors are counted by what is asked for and
not by what is there; one of them pretends to have a GPU.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/etc/slurm")  # where the step of a job looks for the configuration, whatever SLURM_CONF says
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "runuser")
NODES = ("n1", "n2", "n3")
CONFIGURATION = """
ClusterName=diffmech
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=26817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
InactiveLimit=0
KillWait=2
MinJobAge=3600
JobRequeue=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobs.txt
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=27001 CPUs=2 RealMemory=12000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=27002 CPUs=2 RealMemory=12000 State=UNKNOWN
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port=27003 CPUs=2 RealMemory=12000 Gres=gpu:1 State=UNKNOWN
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=1440 State=UP
PartitionName=gpu Nodes=n3 MaxTime=1440 State=UP
"""


def missing() -> str:
    """Return why no SLURM can be started here, nothing where one can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "a SLURM of one's own needs root"
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    if lacking:
        return f"{', '.join(lacking)} not installed (Debian: apt-get install slurm-wlm munge)"
    if (SYSTEM / "slurm.conf").exists():
        return f"{SYSTEM}/slurm.conf is that of another SLURM"
    return ""


@dataclass(frozen=True)
class Cluster:
    """A SLURM that runs in `folder`; `start` and `stop` it."""

    folder: Path

    def start(self) -> None:
        """Start all daemons and wait until every node is idle; RuntimeError with the logs where they do not come up."""
        host = socket.gethostname().split(".")[0]
        for name in ("state", "log", "run", "munge", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, folder=self.folder).lstrip())
        (self.folder / "gres.conf").write_text("NodeName=n3 Name=gpu File=/dev/zero\n")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        SYSTEM.mkdir(exist_ok=True)
        for file in self.folder.glob("*.conf"):
            (SYSTEM / file.name).unlink(missing_ok=True)
            (SYSTEM / file.name).symlink_to(file)
        self._start_munge()
        run("slurmctld")
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self.states() == dict.fromkeys(NODES, "idle"), 60, self._logs)

    def _start_munge(self) -> None:
        munge, sockets = self.folder / "munge", Path("/run/munge")
        key = munge / "key"
        if not key.exists():
            key.write_bytes(os.urandom(64))
        sockets.mkdir(exist_ok=True)
        for path in (munge, key, sockets):
            shutil.chown(path, "munge", "munge")
        key.chmod(0o400)
        munge.chmod(0o700)
        sockets.chmod(0o755)
        # munged asks that nobody else may write into any folder above its own
        names = {"pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        files = [f"--{option}={munge}/{name}" for option, name in names.items()]
        run("runuser", "-u", "munge", "--", "munged", "--force", f"--key-file={key}", *files)

    def start_node(self, node: str) -> None:
        """Start the daemon of one node."""
        run("slurmd", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill the daemon of one node and all that runs on it, as a power cut would."""
        pid = int((self.folder / "run" / f"slurmd.{node}.pid").read_text())
        jobs = [number for number, job in self.jobs().items() if job.get("NodeList") == node]
        for process in (pid, *steps_of(jobs)):
            for child in (*children(process), process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)

    def states(self) -> dict[str, str]:
        """Return the state of every node."""
        done = subprocess.run(["sinfo", "-h", "-N", "-o", "%N %t"], capture_output=True, text=True, check=False)
        return dict(line.split() for line in done.stdout.splitlines())

    def jobs(self) -> dict[str, dict[str, str]]:
        """Return what the controller knows of every job, by job id."""
        done = run("scontrol", "--oneliner", "show", "job")
        found = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in done.splitlines()]
        return {job["JobId"]: job for job in found if "JobId" in job}

    def stop(self) -> None:
        """Stop all daemons, whatever became of them, and give the place of the configuration back."""
        subprocess.run(["scancel", "--quiet", "--user", "root"], capture_output=True, check=False)
        files = [*(self.folder / "run").glob("*.pid"), self.folder / "munge" / "pid"]
        for file in files:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(file.read_text()), signal.SIGTERM)
        for file in self.folder.glob("*.conf"):
            if (SYSTEM / file.name).is_symlink():
                (SYSTEM / file.name).unlink()
        wait_until(lambda: not any(alive(file) for file in files), 30, lambda: "daemons do not end")

    def _logs(self) -> str:
        logs = sorted((self.folder / "log").glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs) + str(self.states())


def run(*command: str) -> str:
    """Run a command that must succeed; return what it says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def children(pid: int) -> list[int]:
    """Return all processes below `pid`."""
    try:
        direct = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*direct, *(below for child in direct for below in children(child))]


def alive(file: Path) -> bool:
    """Return whether the process of a file of its number is there; one that was killed leaves its file behind."""
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(file.read_text()), 0)
        return True
    return False


def steps_of(jobs: list[str]) -> list[int]:
    """Return the processes by which SLURM watches over the steps of `jobs`; what they started is below them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (folder / "cmdline").read_bytes().decode(errors="replace")
            if any(title.startswith(f"slurmstepd: [{job}.") for job in jobs):
                found.append(int(folder.name))
    return found


def wait_until(reached: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
    """Wait until `reached`; RuntimeError with `why` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise RuntimeError(why())
        time.sleep(0.1)
