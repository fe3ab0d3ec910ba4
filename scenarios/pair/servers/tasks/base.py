from pyinfra import host
from pyinfra.operations import apt

# One list for all tasks: a single apt run is much quicker than one per task.
PACKAGES = {
    "web_servers": ["nginx", "python3-psycopg2"],
    "db_servers": ["postgresql-17"],
}

apt.packages(
    name="Install the packages",
    packages=["nftables"] + [package for group in host.groups for package in PACKAGES.get(group, [])],
    no_recommends=True,
    update=True,
    cache_time=24 * 3600,
)
