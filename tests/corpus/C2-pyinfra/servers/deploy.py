from pyinfra.operations import apt

apt.update(
    name="Read the package lists",
)
