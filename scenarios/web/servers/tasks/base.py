from pyinfra.operations import apt

# One list for all tasks: a single apt run is much quicker than one per task.
apt.packages(
    name="Install the packages",
    packages=[
        "nftables",
        "nginx",
        "libpython3-stdlib",
        "sudo",
    ],
    no_recommends=True,
    update=True,
    cache_time=24 * 3600,
)
