from pyinfra.operations import server

server.shell(name="Crash the kernel", commands=["sync; echo c > /proc/sysrq-trigger"])
