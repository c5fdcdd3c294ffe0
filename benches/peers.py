"""Waits for processes with psutil and with CPython's subprocess module."""

import os
import resource
import signal
import subprocess
import sys
import time
import tracemalloc

import psutil


def latency(program, file):
    """Waits for one process for each line of standard input, and prints the time after the wait.

    Before it waits for a child of another program, prints a line.
    """
    print("ready", flush=True)
    for order in sys.stdin:
        name, *pid = order.split()
        if name == "other":
            process = psutil.Process(int(*pid))
            print("opened", flush=True)
            process.wait()
            now = time.monotonic_ns()
        else:
            command = [program, "--role", "subject", "--file", file]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)
            process = psutil.Process(child.pid)
            # The subject sleeps after this byte, and then exits.
            child.stdin.write(b"!")
            if name == "psutil":
                code = process.wait()
                now = time.monotonic_ns()
                child.returncode = code
            else:
                code = child.wait(timeout=60)
                now = time.monotonic_ns()
            child.stdin.close()
            assert code == 7, code
        print(now, flush=True)


def self_wait(seconds):
    """Waits for this process with psutil."""
    try:
        psutil.Process(os.getpid()).wait(timeout=seconds)
    except psutil.TimeoutExpired:
        pass


def popen(seconds):
    """Waits for a child with the subprocess module."""
    child = subprocess.Popen(["sleep", str(seconds + 1)])
    try:
        child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        pass
    os.kill(child.pid, signal.SIGKILL)


def many(size, rounds):
    """Waits for many processes with psutil.wait_procs.

    Prints a line for each round: bytes per process, ns to register all, ns to collect all exits, ns of
    CPU to collect all exits.
    """
    for _ in range(rounds):
        pids = [fork_sleeper() for _ in range(size)]
        # Memory is counted before the timed run, because counting is slow.
        tracemalloc.start()
        processes = [psutil.Process(pid) for pid in pids]
        bytes_each = tracemalloc.get_traced_memory()[0] / size
        tracemalloc.stop()
        start = time.monotonic_ns()
        processes = [psutil.Process(pid) for pid in pids]
        register = time.monotonic_ns() - start
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        start, cpu = time.monotonic_ns(), time.process_time_ns()
        gone, alive = psutil.wait_procs(processes)
        last_exit, cpu = time.monotonic_ns() - start, time.process_time_ns() - cpu
        assert len(gone) == size and not alive
        print(bytes_each, register, last_exit, cpu)


def many_idle(size, seconds):
    """Waits for many processes with psutil.wait_procs, while nothing happens.

    Prints the voluntary context switches and the ns of CPU.
    """
    pids = [fork_sleeper() for _ in range(size)]
    processes = [psutil.Process(pid) for pid in pids]
    usage, cpu = resource.getrusage(resource.RUSAGE_SELF), time.process_time_ns()
    psutil.wait_procs(processes, timeout=seconds)
    cpu = time.process_time_ns() - cpu
    print(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - usage.ru_nvcsw, cpu)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def fork_sleeper():
    pid = os.fork()
    if pid == 0:
        # The sleeper exits by itself if this program exits first.
        time.sleep(300)
        os._exit(1)
    return pid


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["latency", program, file]:
            latency(program, file)
        case ["self_wait", seconds]:
            self_wait(int(seconds))
        case ["popen", seconds]:
            popen(int(seconds))
        case ["many", size, rounds]:
            many(int(size), int(rounds))
        case ["many_idle", size, seconds]:
            many_idle(int(size), int(seconds))
