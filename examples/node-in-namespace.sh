#!/bin/sh
# A second node on one machine: a network, mount, process, UTS and IPC namespace and a cgroup subtree of its own stand in for
# another machine. Needs root, iproute2 and util-linux.
#
#   node-in-namespace.sh net NAME NUMBER             makes the network: this side 172.31.NUMBER.1, the node's 172.31.NUMBER.2
#   node-in-namespace.sh run NAME NUMBER COMMAND…    runs a command as on that machine, until it ends; when this process is
#                                                    killed (KILL; it passes TERM by), so is everything in there
#   node-in-namespace.sh rm NAME NUMBER              removes the network and the cgroups
#
# NAME is at most 8 letters and digits; it becomes the machine's host name.
set -eu

usage() { sed -n '2,11p' "$0" >&2; exit 2; }
[ $# -ge 3 ] || usage
verb=$1 name=$2 number=$3
shift 3
here=172.31.$number.1 there=172.31.$number.2
link=cvlh$name netns=cvl-$name

# The hierarchies as "options:directory": v1 ones by their controllers, v2 as "unified:…".
hierarchies() {
    while read -r _ path type options _; do
        case $type in
        cgroup)
            # Of the mount options those that /proc/self/cgroup names, too, choose the hierarchy.
            while IFS=: read -r _ controllers _; do
                [ -n "$controllers" ] && [ "${path##*/}" != unified ] || continue
                case ",$options," in
                *",$controllers,"*) echo "$controllers:$path" ;;
                esac
            done </proc/self/cgroup
            ;;
        cgroup2) echo "unified:$path" ;;
        esac
    done </proc/mounts | sort -u
}

case $verb in
net)
    ip netns add "$netns"
    ip link add "$link" type veth peer name eth0 netns "$netns"
    ip address add "$here/24" dev "$link"
    ip link set "$link" up
    ip -n "$netns" address add "$there/24" dev eth0
    ip -n "$netns" link set lo up
    ip -n "$netns" link set eth0 up
    ip -n "$netns" route add default via "$here"
    ;;
run)
    [ $# -ge 1 ] || usage
    script=$(readlink -f "$0")
    for line in $(hierarchies); do
        group=${line#*:}/$netns
        mkdir -p "$group"
        # An empty cpuset takes no process.
        for file in cpuset.cpus cpuset.mems; do
            [ ! -f "$group/$file" ] || cat "${line#*:}/$file" >"$group/$file"
        done
        echo $$ >"$group/cgroup.procs"
    done
    # Not through `ip netns exec`: it mounts /sys anew and hides the cgroups.
    exec nsenter --net="/run/netns/$netns" \
        unshare --mount --pid --cgroup --uts --ipc --fork --kill-child \
        sh "$script" inside "$name" "$number" "$@"
    ;;
inside)
    mount --make-rprivate /
    list=$(hierarchies)
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t tmpfs tmpfs /sys/fs/cgroup
    for line in $list; do
        options=${line%%:*} path=${line#*:}
        mkdir -p "$path"
        case $options in
        unified) mount -t cgroup2 cgroup2 "$path" ;;
        name=*) mount -t cgroup -o "none,$options" cgroup "$path" ;;
        *) mount -t cgroup -o "$options" cgroup "$path" ;;
        esac
    done
    mount -t tmpfs tmpfs /run
    mkdir -p /run/lock
    mount --make-rshared /
    hostname "$name"
    exec "$@"
    ;;
rm)
    ip link delete "$link" 2>/dev/null || true
    ip netns delete "$netns" 2>/dev/null || true
    for line in $(hierarchies); do
        group=${line#*:}/$netns
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} +
    done
    ;;
*) usage ;;
esac
