"""Provides child processes that end with their parent, and that ignore signals sent to the whole process group."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from multiprocessing.connection import wait

from alexnet_exp.errors import UserError
from alexnet_exp.processes.signals import STOP_SIGNALS

ENDED_EXIT_CODE = 1  # of a process whose parent has ended, or has sent SIGTERM
# Longest path of a folder for multiprocessing's sockets: an address has 103 bytes on some systems, 107 on Linux, and
# multiprocessing appends `/pymp-12345678/listener-12345678`.
MOST_SOCKET_FOLDER_BYTES = 71
SOCKET_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def shorten_socket_paths() -> None:
    """Moves the sockets of this process and its children to a folder with a short path, if TMPDIR is too long.

    The scratch folder of a cluster (TMPDIR) may be longer than the address of a socket. Raises UserError if none of
    `SOCKET_FOLDERS` is writable.
    """
    process = multiprocessing.current_process()
    here = tempfile.gettempdir()
    if len(os.fsencode(here)) <= MOST_SOCKET_FOLDER_BYTES or process._config.get("tempdir"):  # type: ignore[attr-defined]
        return
    from multiprocessing import util

    place = next((folder for folder in SOCKET_FOLDERS if os.access(folder, os.W_OK | os.X_OK)), None)
    if place is None:
        raise UserError(
            f"TMPDIR={here}: too long for the address of a socket; "
            f"set a folder of at most {MOST_SOCKET_FOLDER_BYTES} bytes"
        )
    before, tempfile.tempdir = tempfile.tempdir, place
    try:
        util.get_temp_dir()  # multiprocessing uses it for its sockets and removes it at exit
    finally:
        tempfile.tempdir = before


def end_with_parent(*, group: bool = False) -> None:
    """Ends this process when its parent ends; a child of a fork server would otherwise not notice.

    group: gives this process a process group of its own, so that the processes it starts end with it.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel
    group = group and hasattr(os, "setpgid")
    if group:
        os.setpgid(0, 0)

    def watch() -> None:
        wait([sentinel])
        if group:
            os.killpg(0, signal.SIGKILL)
        os._exit(ENDED_EXIT_CODE)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def init_loader_worker(number: int) -> None:
    """Initializes a worker of a data loader (`worker_init_fn`).

    The worker ends with the process that it decodes for. It ignores signals that a terminal or a scheduler sends to all
    processes, because the training process needs its batches to finish the step that is saved.
    """
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_with_parent()
        return
    # before any thread starts: threads inherit the blocked signals
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent_pid = parent.pid

    def wait_for_parent_signal() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent_pid:
            pass
        os._exit(ENDED_EXIT_CODE)

    threading.Thread(target=wait_for_parent_signal, name="parent-signals", daemon=True).start()
