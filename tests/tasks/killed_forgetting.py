"""A process that forgets a face and is killed meanwhile; a server forks it, from imports alone."""

import os
import signal

import zarr

from tasks.forgetting import Forgetting
from tasks.store.folders import Folder


def forget_until(root: str, image_id: str, moment: int) -> None:
    """Forget, and be killed before the change number `moment`."""
    count = 0

    def counted(method):
        def call(*arguments):
            nonlocal count
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*arguments)

        return call

    for name in ("write", "create", "remove", "remove_all"):
        setattr(Folder, name, counted(getattr(Folder, name)))
    zarr.Array.__setitem__ = counted(zarr.Array.__setitem__)
    Forgetting(root, image_id).erase()
