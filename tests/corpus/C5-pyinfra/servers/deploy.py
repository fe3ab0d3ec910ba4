from pyinfra.operations import server

server.shell(
    name="Pack, unpack and tidy up",
    commands=["dir=$(mktemp -d) && tar -C /etc -cf $dir/skel.tar skel && tar -C $dir -xf $dir/skel.tar && rm -r $dir"],
)
