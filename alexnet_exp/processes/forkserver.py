"""Imported by fork servers before all else: a signal that is sent to all processes at once does not end the server.

It would be missed by its children, of which some still have a step to end and to save. They hear signals again, but for
SIGHUP where the server was started with that ignored, as by `nohup`.
"""

import os
import signal

from alexnet_exp.processes.signals import STOP_SIGNALS

IGNORED = [each for each in STOP_SIGNALS if each.name == "SIGHUP" and signal.getsignal(each) == signal.SIG_IGN]


def _hear() -> None:
    for each in STOP_SIGNALS:
        if each not in IGNORED:
            signal.signal(each, signal.SIG_DFL)


for each in STOP_SIGNALS:
    signal.signal(each, signal.SIG_IGN)
os.register_at_fork(after_in_child=_hear)
