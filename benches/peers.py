"""What Python does with the same processes: psutil, and CPython's own subprocess module."""

import os
import resource
import signal
import subprocess
import sys
import time
import tracemalloc

import psutil


def latency(program, file):
    """For each order on standard input, waits for a process, and tells when it ran."""
    print("ready", flush=True)
    for order in sys.stdin:
        name, *pid = order.split()
        if name == "other":
            psutil.Process(int(*pid)).wait()
            now = time.monotonic_ns()
        else:
            command = [program, "--role", "subject", "--file", file]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)
            process = psutil.Process(child.pid)
            # It goes on into its sleep and its end.
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


def myself():
    """What the experiment does: waits ten seconds for itself."""
    try:
        psutil.Process(os.getpid()).wait(timeout=10)
    except psutil.TimeoutExpired:
        pass


def popen():
    """The same with the subprocess module, which takes a child."""
    child = subprocess.Popen(["sleep", "11"])
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        pass
    os.kill(child.pid, signal.SIGKILL)


def herd(size, seconds, rounds):
    """psutil.wait_procs: bytes each, ns to register, ns until told, ns of CPU; sleeps, idle CPU."""
    figures = []
    for _ in range(rounds):
        pids = [fork_sleeper() for _ in range(size)]
        # Not while the clock runs, as counting takes time.
        tracemalloc.start()
        processes = [psutil.Process(pid) for pid in pids]
        size_each = tracemalloc.get_traced_memory()[0] / size
        tracemalloc.stop()
        start = time.monotonic_ns()
        processes = [psutil.Process(pid) for pid in pids]
        register = time.monotonic_ns() - start
        if not figures:
            usage, cpu = resource.getrusage(resource.RUSAGE_SELF), time.process_time_ns()
            psutil.wait_procs(processes, timeout=seconds)
            idle_cpu = time.process_time_ns() - cpu
            sleeps = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - usage.ru_nvcsw
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        start, cpu = time.monotonic_ns(), time.process_time_ns()
        gone, alive = psutil.wait_procs(processes)
        told, cpu = time.monotonic_ns() - start, time.process_time_ns() - cpu
        assert len(gone) == size and not alive
        figures.append((size_each, register, told, cpu))
    middle = [sorted(column)[len(column) // 2] for column in zip(*figures)]
    print(*middle, sleeps, idle_cpu)


def fork_sleeper():
    pid = os.fork()
    if pid == 0:
        # Should nobody kill it.
        time.sleep(300)
        os._exit(1)
    return pid


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["latency", program, file]:
            latency(program, file)
        case ["myself"]:
            myself()
        case ["popen"]:
            popen()
        case ["herd", size, seconds, rounds]:
            herd(int(size), float(seconds), int(rounds))
