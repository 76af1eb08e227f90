"""Makes a fork server ignore stop signals; its effect is its import, which must be the first of the server.

A signal sent to all processes would otherwise end the server, while its children still finish and save a step. The
children receive signals again, but for SIGHUP if the server was started with SIGHUP ignored, as under `nohup`.
"""

import os
import signal

from alexnet_exp.processes.signals import STOP_SIGNALS

INHERITED_IGNORED = [
    each for each in STOP_SIGNALS if each.name == "SIGHUP" and signal.getsignal(each) == signal.SIG_IGN
]


def _restore_signals() -> None:
    for each in STOP_SIGNALS:
        if each not in INHERITED_IGNORED:
            signal.signal(each, signal.SIG_DFL)


for each in STOP_SIGNALS:
    signal.signal(each, signal.SIG_IGN)
os.register_at_fork(after_in_child=_restore_signals)
