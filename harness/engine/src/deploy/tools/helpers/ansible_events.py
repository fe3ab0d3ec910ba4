"""Writes down what Ansible does: a JSON object a line, flushed each, so that what was written survives a kill.

A callback plugin beside the one that prints. It changes nothing of what Ansible does, but for REDRILL_CUT and
REDRILL_PAUSE.

REDRILL_EVENTS  the file
REDRILL_ROOT    the checkout; places are told relative to it
REDRILL_CUT     end at once, as a killed controller would, before the task with this number (from 1)
REDRILL_PAUSE   wait after the first task of each of these names, a list in JSON
REDRILL_GATE    the directory where a file named by the pause's number (from 1) lets it go on
"""

import json
import os
import signal
import time

from ansible.playbook.handler import Handler
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__

DOCUMENTATION = """
name: redrill_events
type: aggregate
short_description: tells redrill what each task did on each host, and when
description: [JSON lines for redrill]
"""

CONDITIONAL_INCLUDE = "it comes from a file that is included under a condition"
# Results longer than this are of no use as evidence.
LINES = 40


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "redrill_events"
    CALLBACK_NEEDS_ENABLED = False
    CALLBACK_NEEDS_WHITELIST = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        path = os.environ.get("REDRILL_EVENTS")
        self.root = os.path.realpath(os.environ.get("REDRILL_ROOT", "."))
        self.cut = int(os.environ.get("REDRILL_CUT") or 0)
        self.pauses = json.loads(os.environ.get("REDRILL_PAUSE") or "[]")
        self.paused = set()
        self.names = []
        self.tasks = 0
        self.known = {}
        self.plays, self.play = 0, None
        self.file = open(path, "a", encoding="utf-8") if path else None
        if self.file is None:
            self.disabled = True
        self.tell(e="begin", v=1, tool="ansible", version=__version__)

    def tell(self, **event):
        if self.file:
            self.file.write(json.dumps(event, default=str) + "\n")
            self.file.flush()

    # Tasks

    def place(self, thing):
        path = thing.get_path() or ""
        file, _, line = path.rpartition(":")
        if not file:
            return None
        real = os.path.realpath(file)
        inside = real.startswith(self.root + os.sep)
        return f"{os.path.relpath(real, self.root) if inside else file}:{line}"

    def key(self, task):
        # The play is part of it: a role that two plays share has its tasks twice.
        return f"{self.plays}/{task._uuid}"

    def pause(self):
        """Waits behind what has been done, if it shall: nothing goes on while a callback of the main process waits."""
        for number, wanted in enumerate(self.pauses, 1):
            if not any(is_named(name, wanted) for name in self.names):
                continue
            if number not in self.paused:
                self.paused.add(number)
                self.tell(e="pause", t=time.time_ns(), number=number)
            while not os.path.exists(os.path.join(os.environ["REDRILL_GATE"], str(number))):
                time.sleep(0.1)

    def announce(self, task):
        key = self.key(task)
        if key in self.known:
            return key
        self.pause()
        self.tasks += 1
        self.known[key] = self.tasks
        self.names.append(" ".join(task.get_name().split()))
        if self.cut and self.tasks == self.cut:
            self.tell(e="cut", t=time.time_ns(), number=self.cut)
            os.kill(os.getpid(), signal.SIGKILL)
        name = task.get_name()
        if "{{" in name and not task.name:
            name = task.action
        self.tell(
            e="operation",
            op=key,
            name=" ".join(name.split()),
            place=self.place(task),
            number=self.tasks,
            optional=is_optional(task),
            condition=condition(task),
            depends=isinstance(task, Handler) or bool(task.when),
        )
        return key

    def v2_playbook_on_play_start(self, play):
        self.plays += 1
        self.play = play

    def v2_playbook_on_task_start(self, task, is_conditional):
        if task.action not in META:
            self.announce(task)

    def v2_playbook_on_handler_task_start(self, task):
        self.announce(task)

    def v2_runner_on_start(self, host, task):
        self.tell(e="start", t=time.time_ns(), op=self.announce(task), host=host.get_name())

    # Results

    def end(self, result, outcome, item=False):
        task, told = result._task, result._result
        if told.get("_ansible_no_log") or task.no_log is True:
            label, errors = None, []
            output = ["(hidden by no_log)"] if outcome in ("failed", "ignored", "unreachable") else []
        else:
            label = told.get("_ansible_item_label", told.get(told.get("ansible_loop_var", "item"))) if item else None
            output = quoted(told) if outcome in ("failed", "ignored", "unreachable") else []
            errors = lines(told.get("stderr"))[-10:]
        delegated = (told.get("_ansible_delegated_vars") or {}).get("ansible_delegated_host")
        delegated = delegated or (task.delegate_to if task.delegate_to and "{{" not in str(task.delegate_to) else None)
        self.tell(
            e="item" if item else "end",
            t=time.time_ns(),
            op=self.announce(task),
            host=result._host.get_name(),
            outcome=outcome,
            item=None if label is None else label if isinstance(label, str) else json.dumps(label, default=str),
            on=delegated,
            local=is_local(task, delegated, result._host),
            looks=is_plain(task),
            output=output,
            errors=errors,
            swallows=swallows(task, told),
        )

    def ok(self, result, item=False):
        self.end(result, "changed" if result._result.get("changed") else "unchanged", item)

    def v2_runner_on_ok(self, result):
        self.ok(result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self.end(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_skipped(self, result):
        self.end(result, "skipped")

    def v2_runner_on_unreachable(self, result):
        self.end(result, "unreachable")

    def v2_runner_item_on_ok(self, result):
        self.ok(result, item=True)

    def v2_runner_item_on_failed(self, result):
        self.end(result, "ignored" if result._task.ignore_errors is True else "failed", item=True)

    def v2_runner_item_on_skipped(self, result):
        self.end(result, "skipped", item=True)

    def v2_playbook_on_no_hosts_matched(self):
        self.tell(e="unmatched", name=self.play.get_name(), place=self.place(self.play))

    def v2_playbook_on_stats(self, stats):
        hosts = {host: stats.summarize(host) for host in sorted(stats.processed)}
        if not any(told.get("failures") or told.get("unreachable") for told in hosts.values()):
            self.pause()  # Behind the last task.
        self.tell(e="over", t=time.time_ns(), stats=hosts)


def is_named(name, wanted):
    """Whether a task has this name, without the role that Ansible puts before it."""
    return name == wanted or name.endswith(" : " + wanted)


META = ("meta", "ansible.builtin.meta")


def ancestors(task):
    """Pairs of a block or include and its child on the way to the task, innermost first."""
    child, parent = task, task._parent
    while parent is not None:
        yield parent, child
        child, parent = parent, getattr(parent, "_parent", None)


def is_optional(task):
    """Whether this task may rightly be absent from another run of the same deploy: a handler, or part of a rescue."""
    rescues = (child is one for parent, child in ancestors(task) for one in getattr(parent, "rescue", None) or [])
    return isinstance(task, Handler) or any(rescues)


def condition(task):
    """What could keep this task from being told of at all, where `when` on the task itself does not."""
    for parent, _ in ancestors(task):
        if hasattr(parent, "statically_loaded") and not parent.statically_loaded:
            if parent.when or parent.loop is not None or parent.loop_with:
                return CONDITIONAL_INCLUDE
    return None


LOCAL = ("local", "ansible.builtin.local")
# Actions that are carried out on the controller by nature, and do nothing there.
PLAIN = ("debug", "set_fact", "assert", "fail", "include_tasks", "include_role", "import_tasks", "include_vars")
PLAIN += ("add_host", "group_by", "set_stats", "pause", "wait_for_connection", "gather_facts", "setup", "stat")
PLAIN += ("package_facts", "service_facts", "validate_argument_spec")


def is_plain(task):
    """Whether it only looks or speaks, wherever it runs."""
    return task.action.removeprefix("ansible.builtin.").removeprefix("ansible.legacy.") in PLAIN


def is_local(task, delegated, host):
    """Whether it did something on the controller, outside every machine."""
    if is_plain(task):
        return False
    if delegated:
        return delegated in ("localhost", "127.0.0.1", "::1")
    return str(host.vars.get("ansible_connection") or task.connection) in LOCAL or host.implicit


def lines(text):
    return text.splitlines() if isinstance(text, str) else []


def quoted(told):
    message = [str(told["msg"])] if told.get("msg") else []
    module = lines(told.get("module_stderr")) + lines(told.get("module_stdout"))
    for one in (told.get("failed_modules") or {}).values():
        module += quoted(one)
    return (message + lines(told.get("stdout")) + lines(told.get("stderr")) + module)[-LINES:]


def swallows(task, told):
    """Whether this command hides its own failure: in its text, or by `failed_when`."""
    if told.get("rc") and not told.get("failed"):
        return True
    command = told.get("cmd") or task.args.get("_raw_params") or ""
    text = " ".join((" ".join(map(str, command)) if isinstance(command, list) else str(command)).split())
    return any(word in text for word in ("|| true", "|| :", "||true", "||:", "; true", "|| exit 0"))
