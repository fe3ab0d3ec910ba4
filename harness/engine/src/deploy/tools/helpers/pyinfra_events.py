"""pyinfra as the repo pins it, told to write down what it does.

Run by the Python of the repo's virtual environment, with pyinfra's own arguments. The user's files stay as they are:
pyinfra's state is given one more callback handler, as its documentation allows, and two of its methods are wrapped,
since a handler is told neither where an operation was added nor how many commands it sent. One method of paramiko is
replaced, since it does not see the end of the connection that redrill lays.

REDRILL_EVENTS     file that gets a JSON object a line, flushed each: what was written survives a kill
REDRILL_ROOT       the checkout; places are told relative to it
REDRILL_CUT        end at once, as a killed controller would, before the operation with this number (from 1)
REDRILL_PAUSE      wait after the first operation of each of these names, a list in JSON
REDRILL_GATE       the directory where a file named by the pause's number (from 1) lets it go on
REDRILL_RESULTS    file that gets pyinfra's own document of results (from 3.10 on), whole or not at all
REDRILL_INVENTORY  instead of a deploy: write the inventory's hosts and their data to this file, and end
"""

import ast
import json
import os
import signal
import sys
import time
from importlib.metadata import entry_points, version

ROOT = os.path.realpath(os.environ.get("REDRILL_ROOT", "."))
EVENTS = None


def tell(**event):
    if EVENTS:
        EVENTS.write(json.dumps(event, default=str) + "\n")
        EVENTS.flush()


def frames_below_root():
    """Places in the checkout that the current call came through, innermost first."""
    frame, places = sys._getframe(2), []
    while frame:
        file = os.path.realpath(os.path.join(ROOT, frame.f_code.co_filename))
        if file.startswith(ROOT + os.sep):
            places.append((os.path.relpath(file, ROOT), frame.f_lineno))
        frame = frame.f_back
    return places


TREES = {}


def is_conditional(file, line):
    """Whether this line lies in the body of an `if` or of a loop: it may rightly run in one deploy only."""
    if file not in TREES:
        try:
            with open(os.path.join(ROOT, file), encoding="utf-8") as source:
                TREES[file] = ast.parse(source.read())
        except (OSError, SyntaxError, ValueError):
            TREES[file] = ast.Module([], [])
    for node in ast.walk(TREES[file]):
        if isinstance(node, (ast.If, ast.While, ast.For, ast.IfExp)):
            body = node.body if isinstance(node.body, list) else [node.body]
            orelse = node.orelse if isinstance(node.orelse, list) else [node.orelse]
            if any(child.lineno <= line <= child.end_lineno for child in body + orelse):
                return True
    return False


def is_named(name, wanted):
    """Whether an operation has this name, without the file that pyinfra may put before it."""
    return name == wanted or name.endswith(" | " + wanted)


def key_of(op_hash):
    return str(op_hash)


class Watch:
    """Puts starts and ends of operations together."""

    def __init__(self):
        self.metas = {}
        self.order = []
        self.cut = int(os.environ.get("REDRILL_CUT") or 0)
        self.pauses = json.loads(os.environ.get("REDRILL_PAUSE") or "[]")
        self.told = set()
        self.names = []
        self.left_out = set()

    def pause(self):
        """Waits behind what has been done, if it shall. Every host does: gevent lets others wait here, too."""
        for number, wanted in enumerate(self.pauses, 1):
            if not any(is_named(name, wanted) for name in self.names):
                continue
            if number not in self.told:
                self.told.add(number)
                tell(e="pause", t=time.time_ns(), number=number)
            while not os.path.exists(os.path.join(os.environ["REDRILL_GATE"], str(number))):
                time.sleep(0.1)

    def added(self, state, host, op_hash, op_data):
        places = frames_below_root()
        conditional = any(is_conditional(file, line) for file, line in places)
        tell(
            e="operation",
            op=key_of(op_hash),
            host=host.name,
            name=", ".join(sorted(state.get_op_meta(op_hash).names)),
            place=f"{places[0][0]}:{places[0][1]}" if places else None,
            chain=[f"{file}:{line}" for file, line in places[1:]],
            condition="it stands under a condition" if conditional else None,
            depends=bool(op_data.global_arguments.get("_if")),
        )
        # Held, so that its id stays its own.
        self.metas[id(op_data.operation_meta)] = (host, op_hash, op_data)
        self.overhear(op_data)

    def overhear(self, op_data):
        """Notes what its `_if` says, which pyinfra tells nobody: to it an operation left out had nothing to do."""
        given = op_data.global_arguments.get("_if")
        if callable(given):
            op_data.global_arguments["_if"] = self.noting(given, op_data)
        elif isinstance(given, list):
            op_data.global_arguments["_if"] = [self.noting(one, op_data) for one in given]

    def noting(self, condition, op_data):
        def ask():
            holds = condition()
            if not holds:
                self.left_out.add(id(op_data.operation_meta))
            return holds

        return ask

    def started(self, state, host, op_hash):
        if op_hash not in state.ops[host]:
            return  # pyinfra announces it for hosts that skip it, too.
        if op_hash not in self.order:
            self.pause()
        if op_hash not in self.order:
            self.order.append(op_hash)
            self.names.extend(state.get_op_meta(op_hash).names)
            if self.cut and len(self.order) == self.cut:
                tell(e="cut", t=time.time_ns(), number=self.cut)
                os.kill(os.getpid(), signal.SIGKILL)
        number = self.order.index(op_hash) + 1
        tell(e="start", t=time.time_ns(), op=key_of(op_hash), host=host.name, number=number)

    def completed(self, meta, success, commands, output):
        host, op_hash, op_data = self.metas.get(id(meta), (None, None, None))
        if host is None:
            return
        ignored = bool(op_data.global_arguments.get("_ignore_errors"))
        unchanged = "skipped" if id(meta) in self.left_out else "unchanged"
        outcome = ("changed" if commands else unchanged) if success else ("ignored" if ignored else "failed")
        lines = [line.line for line in output] if outcome in ("failed", "ignored") else []
        tell(
            e="end",
            t=time.time_ns(),
            op=key_of(op_hash),
            host=host.name,
            outcome=outcome,
            output=lines[-40:],
            errors=[line.line for line in output if line.buffer_name == "stderr"][-10:],
            swallows=any(swallows(command) for command in commands),
        )


def swallows(command):
    """Whether this command hides its own failure."""
    text = " ".join(str(command).split())
    return any(word in text for word in ("|| true", "|| :", "||true", "||:", "; true", "|| exit 0"))


def watch(seen, state_class, meta_class, callback_class):
    class Handler(callback_class):
        @staticmethod
        def operation_host_start(state, host, op_hash):
            seen.started(state, host, op_hash)

    init, add, complete = state_class.init, state_class.set_op_data_for_host, meta_class.set_complete

    def init_and_watch(self, *args, **kwargs):
        init(self, *args, **kwargs)
        write_inventory(self)
        self.add_callback_handler(Handler())

    def add_and_tell(self, host, op_hash, op_data):
        add(self, host, op_hash, op_data)
        seen.added(self, host, op_hash, op_data)

    def complete_and_tell(self, success, commands, combined_output, *args, **kwargs):
        seen.completed(self, success, commands, combined_output)
        return complete(self, success, commands, combined_output, *args, **kwargs)

    state_class.init, state_class.set_op_data_for_host = init_and_watch, add_and_tell
    meta_class.set_complete = complete_and_tell


def end_with_the_stream():
    """Lets paramiko see that a ProxyCommand has ended, and with it the machine's side of the connection.

    It asks for more for ever instead (paramiko's pull request 1180, open since 2018). Under gevent nothing else runs
    meanwhile: a deploy that reboots its machine would stand still. Without redrill there is no ProxyCommand in between.
    """
    try:
        from paramiko import proxy
    except ImportError:
        return

    def recv(self, size):
        ready, _, _ = proxy.select([self.process.stdout], [], [], self.timeout)
        if not ready:
            raise proxy.socket.timeout()
        try:
            return os.read(self.process.stdout.fileno(), size)
        except OSError as error:
            raise proxy.ProxyCommandFailure(" ".join(self.cmd), error.strerror)

    proxy.ProxyCommand.recv = recv


def keep_results():
    """Has pyinfra's document in a file of its own: on standard output it stands among whatever the deploy prints."""
    file = os.environ.get("REDRILL_RESULTS")
    try:
        from pyinfra_cli import prints
    except ImportError:
        return
    told = getattr(prints, "print_json", None)
    if not file or told is None:
        return

    def keep_and_print(payload):
        with open(file + ".tmp", "w", encoding="utf-8") as out:
            out.write(prints.jsonify(payload, default=prints.json_encode))
        os.replace(file + ".tmp", file)
        told(payload)

    prints.print_json = keep_and_print


def write_inventory(state):
    file = os.environ.get("REDRILL_INVENTORY")
    if not file:
        return
    hosts = [{"name": host.name, "data": dict(host.data.dict()), "groups": list(host.groups)} for host in state.inventory]
    with open(file, "w", encoding="utf-8") as out:
        json.dump(hosts, out, default=str)
    os._exit(0)


def main():
    global EVENTS
    # As if the `pyinfra` program itself had been started: this file's directory is no place to import from.
    sys.path.pop(0)
    sys.argv[0] = "pyinfra"
    if os.environ.get("REDRILL_EVENTS"):
        EVENTS = open(os.environ["REDRILL_EVENTS"], "a", encoding="utf-8")
    import pyinfra_cli  # noqa: F401  First of all: it lets gevent patch the standard library.
    from pyinfra.api.operation import OperationMeta
    from pyinfra.api.state import BaseStateCallback, State

    end_with_the_stream()
    keep_results()
    tell(e="begin", v=1, tool="pyinfra", version=version("pyinfra"))
    seen = Watch()
    watch(seen, State, OperationMeta, BaseStateCallback)
    programs = [entry for entry in entry_points(group="console_scripts") if entry.name == "pyinfra"]
    try:
        try:
            programs[0].load()()
        except SystemExit as end:
            if end.code:
                raise
        seen.pause()  # Behind the last operation.
    finally:
        tell(e="over", t=time.time_ns())


if __name__ == "__main__":
    main()
