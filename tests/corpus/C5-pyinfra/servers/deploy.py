from pyinfra.operations import server

server.shell(
    name="Unpack, look and tidy up",
    commands=[
        "dir=$(mktemp -d) && tar -C $dir -xf /etc/skel.tar 2>/dev/null; tar -C /etc -cf $dir/skel.tar skel"
        " && tar -C $dir -xf $dir/skel.tar && rm -r $dir",
    ],
)
