from pyinfra.operations import apt

# One list for all tasks: a single apt run is much quicker than one per task.
apt.packages(
    name="Install the packages",
    packages=[
        "nftables",
        "nginx",
        "postgresql-17",
        "python3-minimal",
        "libpython3-stdlib",  # http.server, without the rest of python3
        "python3-psycopg2",
        "restic",
    ],
    no_recommends=True,
    update=True,
    cache_time=24 * 3600,
)
