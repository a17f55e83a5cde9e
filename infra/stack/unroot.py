"""``python unroot.py [--reach] PROGRAM ARG…``: become ``nobody``, then run the program. For PostgreSQL, which refuses to run as root.

With ``--reach`` the program may still enter folders that only root may (a clone or a virtual environment under a folder of mode
0700): one ambient capability, the smaller one that this root has. Run by path, alone, so it imports nothing of kappa.
"""

from __future__ import annotations

import ctypes
import os
import sys

NOBODY = 65534
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 28, 47, 2
SECBIT_NO_SETUID_FIXUP = 4
CAPABILITY_VERSION_3 = 0x20080522


def _become_nobody(reach: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if reach:
        # Otherwise setuid takes the capabilities away, and access(2), by which initdb finds its programs, ignores them.
        _check(libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0))
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    if reach and not any(_keep(libc, capability) for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE)):
        sys.exit("nobody cannot enter this folder, and this root has no capability to let it")


def _keep(libc: ctypes.CDLL, capability: int) -> bool:
    """Keep just this capability, also across exec. False when the process does not have it."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    bit = 1 << capability
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)  # effective, permitted, inheritable; then the same for bits 32-63
    return bool(libc.capset(header, sets) == 0 and libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) == 0)


def _check(status: int) -> None:
    if status != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    reach = arguments[0] == "--reach"
    _become_nobody(reach)
    program = arguments[reach:]
    os.execv(program[0], program)  # noqa: S606
