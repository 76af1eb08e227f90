"""Imported by fork servers before all else: a signal that is sent to all processes at once does not end the server.

It would be missed by its children, of which some still have a step to end and to save. They hear signals again.
"""

import os
import signal

from alexnet_exp.stopping import SIGNALS


def _hear() -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)


for each in SIGNALS:
    signal.signal(each, signal.SIG_IGN)
os.register_at_fork(after_in_child=_hear)
