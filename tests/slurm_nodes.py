"""A real Slurm with two nodes on one machine (needs root and the Debian packages slurm-wlm and munge)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

CONF = """
ClusterName=distnewton
SlurmctldHost={host}
SlurmctldPort={port}
AuthType=auth/munge
# a requeued job waits for its credential to expire, two minutes by default
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
ReturnToService=2
SlurmdParameters=config_overrides
MailProg=/bin/true
SchedulerParameters=sched_interval=2,bf_interval=2
KillWait=5
OverTimeLimit=0
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=n[0-1] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cpus}
PartitionName=batch Nodes=n[0-1] Default=YES MaxTime=10 State=UP OverSubscribe=YES:2
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "mungekey")


def why_not() -> str:
    """What keeps this machine from running a Slurm of its own; empty if nothing does."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    missing = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    return f"no {', '.join(missing)}: needs the Debian packages slurm-wlm and munge" if missing else ""


class SlurmNodes:
    """Two nodes n0 and n1 that are this machine; a context.

    Parameters
    ----------
    folder : Path
        For configuration, state and logs; its parents must be readable for all.
    cpus : int
        CPUs that each node pretends to have.
    """

    def __init__(self, folder: Path, cpus: int = 4) -> None:
        self.folder = folder
        ports = _free_ports(3)
        text = CONF.format(
            host=socket.gethostname(), folder=folder, port=ports[0], first=ports[1], last=ports[1] + 1, cpus=cpus
        )
        (folder / "state").mkdir()
        self.conf = folder / "slurm.conf"
        self.conf.write_text(text)
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf), "PATH": _path()}
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> SlurmNodes:
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_all(self) -> None:
        key, run = self.folder / "munge.key", self.run
        run("mungekey", "-c", "-k", str(key))
        os.chmod(self.folder, 0o755)
        for name in ("munge.log", "munge.pid", "munge.seed"):
            (self.folder / name).touch(mode=0o600)
        self._start("munged", "--force", "--foreground", f"--key-file={key}", f"--socket={self.folder}/munge.socket",
                    f"--log-file={self.folder}/munge.log", f"--pid-file={self.folder}/munge.pid",
                    f"--seed-file={self.folder}/munge.seed")  # fmt: skip
        _wait(lambda: (self.folder / "munge.socket").exists(), "munged makes its socket")
        self._start("slurmctld", "-D", "-f", str(self.conf))
        names = self.folder / "hosts"
        names.write_text(f"127.0.0.1 localhost n0 n1 {socket.gethostname()}\n")
        for node in ("n0", "n1"):
            # a host name of its own, which all can look up: MPI tells nodes apart by it
            own = f"hostname {node}; mount --bind {names} /etc/hosts; exec slurmd -D -N {node} -f {self.conf}"
            self._start("unshare", "--uts", "--mount", "bash", "-c", own)
        _wait(lambda: run("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).strip() == "2", "two nodes are idle")

    def __exit__(self, *_: object) -> None:
        self.run("scancel", "--full", "--user=root", check=False)
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()

    def run(self, *command: str, check: bool = True, limit: float = 30) -> str:
        """Run a command against this Slurm and return what it prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=limit, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def state(self, job: str) -> dict[str, str]:
        """What scontrol knows of a job."""
        text = self.run("scontrol", "show", "job", job, check=False)
        return dict(word.partition("=")[::2] for word in text.split() if "=" in word)

    def wait(self, job: str, limit: float) -> dict[str, str]:
        """Wait for the end of a job."""
        def ended() -> bool:
            return self.state(job).get("JobState") in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

        _wait(ended, f"job {job} ends; it is {self.state(job)}", limit)
        return self.state(job)

    def _start(self, *command: str) -> None:
        log = (self.folder / f"{command[0]}.out").open("ab")
        self._processes.append(
            subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        )
        log.close()


def _path() -> str:
    """Programs of administrators are not in everyone's PATH."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _wait(condition: object, what: str, limit: float = 30) -> None:
    end = time.monotonic() + limit
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise TimeoutError(f"waited {limit:g} s until {what}")
        time.sleep(0.3)


def _free_ports(n: int) -> list[int]:
    """Ports that nobody uses, the last n - 1 in a row."""
    for first in range(17000, 19000, n + 1):
        ports = list(range(first, first + n))
        if all(_is_free(port) for port in ports):
            return ports
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
