"""The process in which one network is measured."""

from __future__ import annotations

import resource
import signal
import sys
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection

from zoo.catalogue import find
from zoo.checks import measure
from zoo.rival import rival


@dataclass(frozen=True)
class Task:
    """What one process does.

    Args:
        network: Key of the network.
        tool: ``graphprune`` or ``torch-pruning``.
        memory: Limit in bytes.
        seconds: Limit of processor time.
        onnx: Compare with ONNX where the network belongs to that subset.
        statistics: For torch-pruning: statistics run over prunable axes.
    """

    network: str
    tool: str
    memory: int
    seconds: int
    onnx: bool = True
    statistics: bool = False


def work(task: Task, writer: Connection) -> None:
    """Do one task and send the results, part by part as they come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that reads the results decides
    resource.setrlimit(resource.RLIMIT_DATA, (task.memory, task.memory))
    resource.setrlimit(resource.RLIMIT_CPU, (task.seconds, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    network = find(task.network)
    if task.tool == "graphprune":
        measure(network, writer.send, onnx=task.onnx)
    else:
        rival(network, task.statistics, writer.send)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    writer.send({"peak_gib": round(peak / 2**30, 2)})
    writer.close()
