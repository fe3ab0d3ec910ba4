from pyinfra.operations import apt

# One list for all tasks: a single apt run is much quicker than one per task.
apt.packages(
    name="Install the packages",
    packages=[
        "git",
        "nftables",
        "openssh-client",
        "openssh-server",
        "python3-minimal",
        "libpython3-stdlib",  # what our scripts use, without the rest of python3
        "rsync",
    ],
    no_recommends=True,
    update=True,
    cache_time=24 * 3600,
)
