# way ID PROGRAM ARGUMENT...: tries a way out and tells what came of it.
way() {
    local id=$1 status
    shift
    if ! command -v -- "$1" >/dev/null; then
        echo "way $id: absent, there is no $1"
        return 0
    fi
    echo "way $id: tried"
    timeout 8 "$@" </dev/null 2>&1 | head -c 6000 | sed "s/^/way $id: /"
    status=${PIPESTATUS[0]}
    echo
    echo "way $id: ended with $status"
}
