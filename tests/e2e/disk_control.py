"""Owns what the node's disk answers, without touching the node: a seccomp filter hands its syncs and its reservations of disk space
to a thread here, which lets them through, holds them back, or fails them.

Needs Linux 5.5 on x86-64 or AArch64 and no privileges: the filter is installed by the child between fork and exec, and
the kernel's notification descriptor comes back over a socket. The program under test is the real one, unchanged.
"""

import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
import threading
from collections import Counter

NUMBERS = {
    "x86_64": {"fsync": 74, "fdatasync": 75, "fallocate": 285},
    "aarch64": {"fsync": 82, "fdatasync": 83, "fallocate": 47},
}.get(platform.machine())
SYNCS = ("fsync", "fdatasync")

_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP = {"x86_64": 317, "aarch64": 277}.get(platform.machine())
_NEW_LISTENER, _SET_MODE_FILTER = 8, 1
_ALLOW, _USER_NOTIF = 0x7FFF0000, 0x7FC00000
_RECV, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1


class Call:
    """One call that waits for its answer."""

    def __init__(self, listener: int, id: int, name: str, path: str):
        self.listener, self.id, self.name, self.path = listener, id, name, path

    def answer(self, error: int):
        """Lets the call through, or fails it with `error`."""
        reply = struct.pack("QqiI", self.id, 0, -error, 0 if error else _CONTINUE)
        try:
            fcntl.ioctl(self.listener, _SEND, reply)
        except OSError as failed:
            if failed.errno != errno.ENOENT:  # the process is gone
                raise


class DiskControl:
    """What the disk does to one process. Rules look at a call's name and its file's path below the data directory.

    `count` counts calls by name, `waiting` are those held back."""

    def __init__(self):
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._lock = threading.Lock()
        self._hold = lambda name, path: False
        self._fail = lambda name, path: 0
        self.count: Counter = Counter()
        self.waiting: list[Call] = []

    # In the child, between fork and exec.

    def install(self):
        libc = ctypes.CDLL(None, use_errno=True)
        code = [struct.pack("HBBI", 0x20, 0, 0, 0)]  # load the number of the call
        for left, number in zip(range(len(NUMBERS) - 1, -1, -1), NUMBERS.values()):
            code.append(struct.pack("HBBI", 0x15, left + 1, 0, number))  # if equal, jump to the last instruction
        code += [struct.pack("HBBI", 0x06, 0, 0, _ALLOW), struct.pack("HBBI", 0x06, 0, 0, _USER_NOTIF)]
        program = ctypes.create_string_buffer(b"".join(code))
        header = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(program))
        buffer = ctypes.create_string_buffer(header)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no_new_privs")
        listener = libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, buffer)
        if listener < 0:
            raise OSError(ctypes.get_errno(), "seccomp")
        socket.send_fds(self._theirs, [b"x"], [listener])

    # In the test.

    def attach(self):
        """Takes over the calls of the process just started."""
        _, [listener], _, _ = socket.recv_fds(self._ours, 1, 1)
        threading.Thread(target=self._serve, args=(listener,), daemon=True, name="disk").start()

    def hold(self, rule):
        """From now on, calls for which `rule(name, path)` holds wait."""
        with self._lock:
            self._hold = rule

    def fail(self, rule):
        """From now on, calls fail with the error number that `rule(name, path)` gives; 0 lets them through."""
        with self._lock:
            self._fail = rule

    def release(self, error: int = 0):
        """Answers all that wait and holds nothing more back."""
        with self._lock:
            self._hold = lambda name, path: False
            waiting, self.waiting = self.waiting, []
        for call in waiting:
            call.answer(error)

    def _serve(self, listener: int):
        names = {number: name for name, number in NUMBERS.items()}
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while True:
            if any(event & select.POLLHUP for _, event in poll.poll()):
                os.close(listener)
                return
            try:
                notice = fcntl.ioctl(listener, _RECV, bytes(80))
            except OSError as failed:
                if failed.errno in (errno.ENOENT, errno.EINTR):
                    continue
                return
            id, pid, _, number, _, _, descriptor = struct.unpack_from("QIIiIQQ", notice)
            try:
                path = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            except OSError:
                path = ""
            call = Call(listener, id, names[number], path)
            with self._lock:
                self.count[call.name] += 1
                error = self._fail(call.name, path)
                if not error and self._hold(call.name, path):
                    self.waiting.append(call)
                    continue
            call.answer(error)


def available() -> bool:
    """Whether this machine lets a process filter its own calls that way."""
    if NUMBERS is None:
        return False
    import subprocess
    control = DiskControl()
    try:
        child = subprocess.Popen(["true"], preexec_fn=control.install)
    except subprocess.SubprocessError:
        return False
    control.attach()
    return child.wait() == 0
