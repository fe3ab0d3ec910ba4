from pyinfra.operations import apt

apt.packages(
    name="Install what is there",
    packages=["cron", "logrotate"],
)
