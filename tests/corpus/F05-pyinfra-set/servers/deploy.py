from pyinfra.operations import files

operators = {"ada", "ben", "cleo", "dora", "emil", "fay", "gus", "hana"}

files.template(
    name="List the operators",
    src="templates/operators.j2",
    dest="/etc/operators",
    operators=operators,
)
