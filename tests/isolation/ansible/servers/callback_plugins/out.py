"""A callback of the repo: it is loaded before the first task."""

import sys

from ansible.plugins.callback import CallbackBase

sys.path.insert(0, __file__.rsplit("/", 2)[0])
import tries  # noqa: E402


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "out"

    def v2_playbook_on_start(self, playbook):
        self._display.display("way callback: tried")
        try:
            self._display.display(f"way callback: {tries.url('http://@callback@/')}")
        except OSError as error:
            self._display.display(f"way callback: {error}")
