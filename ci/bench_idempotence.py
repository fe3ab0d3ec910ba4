"""Idempotence check of one small Ansible role in a container, against Molecule with its docker driver.

    ci/bench idempotence

    idempotence_over_molecule   `redrill idempotence --backend container` / `molecule test`; at most 0.7

Both sides run the same play and role, with the same ansible-core, in a container of the same image, and fetch the same
packages from the same mirror: Python for Ansible's modules, and what the role installs. Molecule comes from PyPI; so do
the collections of its driver, out of the package `ansible`. Its sequence is `create, converge, idempotence, destroy` in
one process, which is quicker than one command for each. Redrill's side also brings the machine to rest, captures it
four times, leaves it alone for as long as the second deploy took, and deploys again from another controller.

What each side keeps from run to run is there before the first that counts: image, Python environments, collections.
Runs take turns; what is compared are medians of three. The numbers depend on the host and on what else it does.
"""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile

from bench_kept import REDRILL, ROOT, commit, manifest
from bench_machines import RUNS, rounded, run, say

LIMIT = 0.7
HOST = "app.example.org"
# What the driver needs of `ansible`, which holds a hundred more: Molecule looks through all that it finds.
COLLECTIONS = ("community/docker", "community/library_inventory_filtering_v1", "ansible/posix")
# The series of the package `ansible` that belongs to the ansible-core of REQUIREMENTS.
ANSIBLE = {"2.19": "ansible==12.*", "2.20": "ansible==13.*"}
REQUIREMENTS = ROOT / "tests/corpus/shared/ansible/requirements.txt"

FILES = {
    "inventory.ini": f"[servers]\n{HOST} ansible_user=root ansible_python_interpreter=/usr/bin/python3\n",
    "ansible.cfg": "[defaults]\ninventory = inventory.ini\n\n[ssh_connection]\npipelining = true\n",
    "site.yml": """---
- name: Bring what Ansible needs
  hosts: all
  gather_facts: false
  tasks:
    - name: Install Python
      ansible.builtin.raw: >-
        dpkg -s python3-apt >/dev/null 2>&1 ||
        (apt-get -qq update && apt-get -qqy install --no-install-recommends python3-apt && echo installed)
      register: python
      changed_when: "'installed' in python.stdout"

- name: Every machine
  hosts: all
  roles:
    - operators
""",
    "roles/operators/defaults/main.yml": "---\noperators:\n  - ada\n  - ben\n",
    "roles/operators/tasks/main.yml": """---
- name: Install the tools
  ansible.builtin.apt:
    name: [jq, sudo]
    install_recommends: false
    update_cache: true
    cache_valid_time: 86400

- name: Create the group
  ansible.builtin.group:
    name: operators

- name: Create the accounts
  ansible.builtin.user:
    name: "{{ item }}"
    groups: operators
    append: true
    shell: /bin/bash
  loop: "{{ operators }}"

- name: Let operators use sudo
  ansible.builtin.copy:
    content: "%operators ALL=(ALL) NOPASSWD: ALL\\n"
    dest: /etc/sudoers.d/operators
    mode: "0440"
    validate: /usr/sbin/visudo -cf %s

- name: Make the directory of the settings
  ansible.builtin.file:
    path: /etc/operators
    state: directory
    mode: "0755"

- name: Write the settings
  ansible.builtin.template:
    src: settings.json.j2
    dest: /etc/operators/settings.json
    mode: "0644"
  notify: Check the settings

- name: Close new files to others
  ansible.builtin.lineinfile:
    path: /etc/login.defs
    regexp: '^UMASK\\s'
    line: "UMASK 027"

- name: Install the nightly job
  ansible.builtin.copy:
    src: nightly
    dest: /etc/cron.daily/operators
    mode: "0755"
""",
    "roles/operators/handlers/main.yml": """---
- name: Check the settings
  ansible.builtin.command: jq . /etc/operators/settings.json
  changed_when: false
""",
    "roles/operators/templates/settings.json.j2": '{"host": "{{ ansible_facts.distribution }}", "operators": {{ operators | to_json }}}\n',
    "roles/operators/files/nightly": "#!/bin/sh\nexec find /home -xdev -name core -delete\n",
}

MOLECULE = """---
driver:
  name: docker
platforms:
  - name: {name}
    image: {image}
    pre_build_image: true
    privileged: false
    network_mode: host
    command: sleep infinity
    volumes: {volumes}
provisioner:
  name: ansible
  config_options:
    connection:
      pipelining: true
  playbooks:
    converge: ../../site.yml
scenario:
  test_sequence: [create, converge, idempotence, destroy]
"""


def repo(work):
    servers = work / "servers"
    for name, text in FILES.items():
        (servers / name).parent.mkdir(parents=True, exist_ok=True)
        (servers / name).write_text(text)
    shutil.copy(REQUIREMENTS, servers)
    commit(servers)
    return servers


def redrill(servers):
    """Seconds of one check, and its report."""
    began = time.monotonic()
    words = [REDRILL, "idempotence", servers, "--backend", "container", "--quiet", "--format", "json"]
    ran = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if ran.returncode != 0:
        sys.exit(f"ci/bench: redrill idempotence ended with status {ran.returncode}\n{ran.stdout}{ran.stderr}")
    return seconds, json.loads(ran.stdout)


class Molecule:
    """Molecule in an environment of its own, with one scenario for the role."""

    def __init__(self, servers, work, image, proxy):
        self.servers, self.venv, self.name = servers, work / "venv", f"redrill-bench-{os.getpid()}"
        core = next(line for line in REQUIREMENTS.read_text().splitlines() if line.startswith("ansible-core=="))
        run(sys.executable, "-m", "venv", self.venv)
        pip = self.venv / "bin/pip"
        run(pip, "install", "-q", "molecule", "molecule-plugins[docker]", "-r", REQUIREMENTS)
        series = core.partition("==")[2].rpartition(".")[0]
        if series not in ANSIBLE:
            sys.exit(f"ci/bench: which `ansible` goes with {core}? Add it to ci/bench_idempotence.py")
        run(pip, "download", "-q", "--no-deps", "--only-binary=:all:", "-d", work, ANSIBLE[series])
        [wheel] = work.glob("ansible-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            wanted = tuple(f"ansible_collections/{name}/" for name in COLLECTIONS)
            archive.extractall(work / "collections", [name for name in archive.namelist() if name.startswith(wanted)])
        wheel.unlink()
        home = work / "home"
        home.mkdir()
        self.environment = {
            **os.environ, "HOME": str(home), "PATH": f"{self.venv}/bin:{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": str(work / "collections"), "NO_COLOR": "1",
        }
        volumes = []
        if proxy:
            # As the machines of a drill, by way of the host's own proxy.
            (work / "90proxy").write_text(f'Acquire::http::Proxy "{proxy}";\n')
            volumes = [f"{work / '90proxy'}:/etc/apt/apt.conf.d/90proxy:ro"]
        scenario = servers / "molecule/default/molecule.yml"
        scenario.parent.mkdir(parents=True)
        scenario.write_text(MOLECULE.format(name=self.name, image=image, volumes=json.dumps(volumes)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # It is there only if Molecule was cut off.
        subprocess.run(["docker", "rm", "-f", "-v", self.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def run(self):
        began = time.monotonic()
        ran = subprocess.run([self.venv / "bin/molecule", "test"], cwd=self.servers, env=self.environment,
                             stdin=subprocess.DEVNULL, capture_output=True, text=True)
        seconds = time.monotonic() - began
        if ran.returncode != 0:
            sys.exit(f"ci/bench: molecule ended with status {ran.returncode}\n{ran.stdout}{ran.stderr}")
        return seconds

    def versions(self):
        listed = json.loads(run(self.venv / "bin/pip", "list", "--format", "json"))
        wanted = ("molecule", "molecule-plugins", "ansible-core", "ansible-compat")
        manifest = json.loads((pathlib.Path(self.environment["ANSIBLE_COLLECTIONS_PATH"]) /
                               "ansible_collections/community/docker/MANIFEST.json").read_text())
        return {
            **{one["name"]: one["version"] for one in listed if one["name"] in wanted},
            "community.docker": manifest["collection_info"]["version"],
        }


def measured(work):
    servers = repo(work)
    say("a first check by redrill, so that image and Ansible are cached")
    first, report = redrill(servers)
    used = report["machines"][0]["image"]
    image = f"redrill/{used['name']}:{used['digest'][:16]}"
    say(f"Molecule, from PyPI; a first run with {image}")
    ours, theirs, stages = [], [], []
    with Molecule(servers, work, image, manifest(used["digest"])["mirror"]["proxy"]) as molecule:
        first_of_theirs = molecule.run()
        for number in range(1, RUNS + 1):
            say(f"run {number} of {RUNS}: redrill, Molecule")
            seconds, report = redrill(servers)
            ours.append(seconds)
            stages.append({stage_name(stage): stage["seconds"] for stage in report["stages"]})
            theirs.append(molecule.run())
        versions = molecule.versions()
    ratio = statistics.median(ours) / statistics.median(theirs)
    return {
        "idempotence_over_molecule": ratio,
        "limits": {"idempotence_over_molecule": {"limit": f"<= {LIMIT}", "held": ratio <= LIMIT}},
        "seconds": {"redrill": statistics.median(ours), "molecule": statistics.median(theirs)},
        "versions": {"redrill": run(REDRILL, "--version").split()[-1], **versions, "image": image},
        "runs": {"redrill": ours, "molecule": theirs, "first": {"redrill": first, "molecule": first_of_theirs}, "stages": stages},
    }


def stage_name(stage):
    return " ".join(filter(None, [stage["stage"], stage.get("of")]))


def main(words):
    if words:
        sys.exit(f"ci/bench: idempotence has no parts: {' '.join(words)}")
    subprocess.run([ROOT / "ci/setup"], check=True)
    if not shutil.which("docker"):
        sys.exit("ci/bench: Molecule needs the docker command")
    subprocess.run(["cargo", "build", "--release", "--quiet", "--locked"], cwd=ROOT, check=True)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        result = measured(pathlib.Path(directory))
    result["host"] = {"processors": os.cpu_count(), "load_before_and_after": [*load, os.getloadavg()[0]]}
    result["runs"] = result.pop("runs")
    print(json.dumps(rounded(result), indent=2))
