"""A filter of the repo: its import is code on the controller."""

import sys

sys.path.insert(0, __file__.rsplit("/", 2)[0])
import tries  # noqa: E402

try:
    HEARD = tries.tcp("@filter@", 8080)
except OSError as error:
    HEARD = error


class FilterModule:
    def filters(self):
        return {"heard": lambda _: f"way filter: {HEARD}"}
