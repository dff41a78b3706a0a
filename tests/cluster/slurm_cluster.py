"""A real Slurm on this machine: munge, a controller, and nodes that are slurmd processes of one host.

Everything lies in one folder, which must have a short path: munge's socket may have 107 bytes. ``stop`` ends every
daemon and every process of its jobs.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")


def missing_programs() -> list[str]:
    """What must be installed and is not."""
    return [name for name in PROGRAMS if not (shutil.which(name) or Path("/usr/sbin", name).exists())]


class SlurmCluster:
    """A cluster of ``nodes`` nodes with ``gpus`` stand-ins for GPUs each."""

    def __init__(self, root: Path, nodes: int = 2, gpus: int = 2):
        self.root = root
        self.nodes = [f"node{index}" for index in range(1, nodes + 1)]
        self._gpus = gpus
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))
        }
        self.environment["SLURM_CONF"] = str(root / "slurm.conf")
        self.environment["PATH"] += ":/usr/sbin"

    def start(self) -> None:
        for folder in ("run", "log", "state", "dev", *(f"spool/{node}" for node in self.nodes)):
            (self.root / folder).mkdir(parents=True)
        self.root.chmod(0o755)
        for index in range(self._gpus):
            (self.root / "dev" / f"nvidia{index}").symlink_to("/dev/null")
        self._start_munge()
        self._write_configuration()
        self._start("slurmctld", ["slurmctld", "-D"])
        for node in self.nodes:
            self.start_node(node)
        self._wait_until_idle()

    def start_node(self, node: str) -> None:
        self._start(node, ["slurmd", "-D", "-N", node])

    def kill_node(self, node: str) -> None:
        """Kills a node's slurmd alone; the processes of its jobs live on."""
        process = self._processes.pop(node)
        process.kill()
        process.wait()

    def stop(self) -> None:
        subprocess.run(
            ["scancel", "--user", pwd.getpwuid(os.geteuid()).pw_name], env=self.environment, check=False, timeout=30
        )
        for name in [*self.nodes, "slurmctld", "munged"]:
            process = self._processes.pop(name, None)
            if process is not None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        for process in self._of_this_cluster():
            process.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, *command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        """Runs a command in the cluster's environment."""
        return subprocess.run(
            [str(word) for word in command],
            env=self.environment, capture_output=True, text=True, timeout=120, check=False, **options,
        )  # fmt: skip

    def wait_for_jobs(self, jobs: Sequence[str], seconds: float = 900) -> dict[str, str]:
        """State of each job once all have left the queue."""
        end = time.monotonic() + seconds
        while True:
            states = {job: self.state(job) for job in jobs}
            if not any(
                set(state.split()) & {"PENDING", "RUNNING", "COMPLETING", "REQUEUED"} for state in states.values()
            ):
                return states
            if time.monotonic() > end:
                raise TimeoutError(f"{states}\n{self.run('squeue').stdout}")
            time.sleep(0.3)

    def state(self, job: str) -> str:
        """States of a job's tasks, one word each."""
        lines = self.run("scontrol", "show", "job", "-o", job).stdout.splitlines()
        return " ".join(
            word.partition("=")[2] for line in lines for word in line.split() if word.startswith("JobState=")
        )

    def _start(self, name: str, command: list[str], **options: object) -> None:
        with open(self.root / "log" / f"{name}.out", "ab") as log:
            self._processes[name] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True, **options
            )

    def _start_munge(self) -> None:
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        run = self.root / "run"
        self._start(
            "munged",
            [
                "munged", "-F", f"--key-file={key}", f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid",
                f"--log-file={self.root}/log/munged.log", f"--seed-file={run}/munge.seed",
            ],
        )  # fmt: skip
        end = time.monotonic() + 10
        while not (run / "munge.sock").exists():
            if time.monotonic() > end:
                raise RuntimeError((self.root / "log/munged.out").read_text())
            time.sleep(0.02)

    def _write_configuration(self) -> None:
        host = socket.gethostname().split(".")[0]
        user = pwd.getpwuid(os.geteuid()).pw_name
        ports = free_ports(len(self.nodes) + 1)
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 RealMemory=100000 "
            f"Gres=gpu:h100:{self._gpus} State=UNKNOWN"
            for node, port in zip(self.nodes, ports)
        )
        (self.root / "gres.conf").write_text(
            f"NodeName={','.join(self.nodes)} Name=gpu Type=h100 File={self.root}/dev/nvidia[0-{self._gpus - 1}]\n"
        )
        (self.root / "slurm.conf").write_text(
            f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[-1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={self.root}/run/munge.sock,cred_expire=5
SlurmctldPidFile={self.root}/run/slurmctld.pid
SlurmdPidFile={self.root}/run/slurmd-%n.pid
SlurmdSpoolDir={self.root}/spool/%n
StateSaveLocation={self.root}/state
SlurmctldLogFile={self.root}/log/slurmctld.log
SlurmdLogFile={self.root}/log/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=5
TCPTimeout=2
ReturnToService=2
KillWait=5
InactiveLimit=0
MinJobAge=86400
EnforcePartLimits=ALL
JobCompType=jobcomp/none
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,bf_continue
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=research Nodes=ALL AllowAccounts=research MaxTime=INFINITE State=UP
"""
        )

    def _wait_until_idle(self) -> None:
        end = time.monotonic() + 30
        while True:
            states = self.run("sinfo", "-h", "-N", "-o", "%t").stdout.split()
            if states and set(states) == {"idle"}:
                return
            if time.monotonic() > end:
                logs = "\n".join(path.read_text()[-2000:] for path in sorted((self.root / "log").glob("*")))
                raise RuntimeError(f"the cluster did not start: {states}\n{logs}")
            time.sleep(0.1)

    def _of_this_cluster(self) -> list[psutil.Process]:
        """Processes of jobs: they carry the cluster's configuration in their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the system hands out: a node that is down for a while would not
    get one of these back."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as opened:
            opened.bind(("127.0.0.1", port))
            ports.append(port)
    return ports
