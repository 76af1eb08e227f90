"""Processes that end with whoever started them, however that ends, and that a group's signals do not end before."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from multiprocessing.connection import wait

from alexnet_exp.errors import UserError
from alexnet_exp.processes.signals import STOP_SIGNALS

ENDED_EXIT_CODE = 1  # the exit code of a process that had to
# Bytes of a folder's path in which multiprocessing's sockets fit: an address has 103 on some systems, 107 on Linux, and
# `/pymp-12345678/listener-12345678` is added.
MOST_SOCKET_FOLDER_BYTES = 71
SOCKET_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def shorten_socket_paths() -> None:
    """Lets the sockets of this process and its children lie in a folder of their own with a short path.

    A scratch folder of a cluster (TMPDIR) may have a longer one than a socket's address holds. Raises UserError where
    there is no other folder.
    """
    process = multiprocessing.current_process()
    here = tempfile.gettempdir()
    if len(os.fsencode(here)) <= MOST_SOCKET_FOLDER_BYTES or process._config.get("tempdir"):  # type: ignore[attr-defined]
        return
    from multiprocessing import util

    place = next((folder for folder in SOCKET_FOLDERS if os.access(folder, os.W_OK | os.X_OK)), None)
    if place is None:
        raise UserError(
            f"TMPDIR={here}: too long for the address of a socket; set one of {MOST_SOCKET_FOLDER_BYTES} bytes"
        )
    before, tempfile.tempdir = tempfile.tempdir, place
    try:
        util.get_temp_dir()  # which multiprocessing keeps for its sockets, and removes at the end
    finally:
        tempfile.tempdir = before


def end_with_parent(*, group: bool = False) -> None:
    """From now on this process ends when the one that asked for it is gone; a fork server's child is not told else.

    group: it gets a process group of its own, which ends as a whole: the processes that it starts end with it.
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
    """What a data loader's worker does first (`worker_init_fn`).

    It ends with the process that it decodes for. What is sent to all processes at once, by a terminal or a scheduler,
    it does not hear: without it the step that is to be saved could not be ended.
    """
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_with_parent()
        return
    # before any thread is started: it would not block what its starter does not
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    parent = multiprocessing.parent_process()
    assert parent is not None
    by = parent.pid

    def listen_to_parent() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != by:
            pass
        os._exit(ENDED_EXIT_CODE)

    threading.Thread(target=listen_to_parent, name="parent-signals", daemon=True).start()
