# Rootless containers on ports below 1024, with the podman of $suite, in namespaces.

# Runs code as root of a machine with podman, where alice may start containers and has an image: the server /srv accepts on
# descriptor 3, or on the port that is its argument, and says what it was given.
with_podman() {
    mkdir -p "$work/given/image"
    gcc -Os -Wall -static -o "$work/given/image/srv" tests/programs/accepts.c
    cp "$(debs)"/*.deb "$work/given/"
    {
        cat <<'INSIDE'
dpkg -i /given/*.deb >/dev/null
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# As udev makes it.
mount -t tmpfs -o mode=0755 net /dev/net
mknod -m 0666 /dev/net/tun c 10 200
echo 'permit alice 80' >/etc/portgrant.conf
echo alice:100000:65536 | tee /etc/subuid >/etc/subgid
mkdir -p /home/alice /run/user/1000
chown alice: /home/alice /run/user/1000
sed -i 's|^alice:.*|alice:x:1000:1000::/home/alice:/bin/sh|' /etc/passwd
mount -t tmpfs -o mode=0777,exec,suid home /home/alice
export XDG_RUNTIME_DIR=/run/user/1000 STORAGE_DRIVER=vfs
user() { cd /home/alice; HOME=/home/alice setpriv --reuid=alice --regid=alice --init-groups --inh-caps=-all "$@"; }
tar -C /given/image -cf /run/image.tar .
user podman import -q -c 'CMD ["/srv"]' /run/image.tar localhost/srv:1
container=(podman run --rm --cgroups=disabled)
# What the server on port 80 says, within a time that a busy machine needs as well.
served() {
    python3 - <<'CLIENT'
import socket, sys, time
until = time.monotonic() + 60
while True:
    try:
        with socket.create_connection(("127.0.0.1", 80), timeout=60) as connected:
            said = connected.makefile().read()
        if said:
            sys.exit(print(said, end=""))
    except OSError as error:
        said = error
    if time.monotonic() > until:
        sys.exit(f"nobody serves on port 80: {said}")
    time.sleep(0.05)
CLIENT
}
# As if nobody had used podman since the machine was started.
forgotten() {
    user podman rm -f -a -t 0 >/dev/null 2>&1 || true
    user podman system migrate
    fails test -e /run/user/1000/libpod/tmp/pause.pid
}
INSIDE
        cat
    } | inside "$(tests/packages/root "$suite" podman,crun,uidmap,passt,slirp4netns,netavark,python3-minimal)" "$work/given"
}

without_portgrant_a_rootless_container_gets_no_low_port() (
    with_podman <<'INSIDE'
    podman --version
    fails user "${container[@]}" -p 80:80 localhost/srv:1 /srv 80
INSIDE
)

exec_passes_the_socket_into_a_container_without_a_network() (
    with_podman <<'INSIDE'
    user portgrant exec -l 80 -- "${container[@]}" --name web --network none localhost/srv:1 & started=$!
    [ "$(served)" = "served by uid 0, LISTEN_FDS=1, pid 1, LISTEN_PID=1" ]
    user podman rm -f -t 1 -i web
    wait $started || true
    # The options of the unit, as far as there is no systemd and no catatonit (--init) here.
    user portgrant exec -l 80 -- "${container[@]}" --name web --replace --cap-drop all --read-only -d --network none localhost/srv:1
    [ "$(served)" = "served by uid 0, LISTEN_FDS=1, pid 1, LISTEN_PID=1" ]
    user podman rm -f -t 1 -i web
    user portgrant recipe podman | grep -F 'portgrant exec -l 80 -- podman run --rm --network none IMAGE'
INSIDE
)

run_works_once_podman_has_its_user_namespace_and_says_so_before() (
    with_podman <<'INSIDE'
    forgotten
    status=0
    said=$(user portgrant run -- "${container[@]}" -p 80:80 --network slirp4netns localhost/srv:1 /srv 80 2>&1) || status=$?
    echo "$said"
    [ $status != 0 ]
    grep -F 'podman has no user namespace yet' <<<"$said"
    # The fix, as it stands there.
    eval "user $(sed -n 's/^ *fix: run: //p' <<<"$said")"
    for network in slirp4netns pasta; do
        user portgrant run -- "${container[@]}" --name web -p 80:80 --network $network localhost/srv:1 /srv 80 2>/run/said & started=$!
        served | grep 'served by uid 0'
        cat /run/said
        fails grep -F 'no user namespace' /run/said
        user podman rm -f -t 1 -i web
        wait $started || true
    done
INSIDE
)

in_kernel_mode_podman_just_publishes_the_port() (
    mkdir -p "$work/given"
    name=portgrant-podman.$$
    echo "$name" >"$work/given/name"
    # Where the machine has its cgroups of version 2.
    cgroups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
    [ -n "$cgroups" ] || skip "there is no cgroup v2"
    trap 'rmdir "$cgroups/$name" 2>/dev/null || true' EXIT
    with_podman <<'INSIDE'
    mount -t bpf bpf /sys/fs/bpf
    cgroup=/sys/fs/cgroup/$(cat /given/name)
    mkdir "$cgroup"
    echo $$ >"$cgroup/cgroup.procs"
    portgrant-kernel load --cgroup "$cgroup"
    for network in slirp4netns pasta; do
        user "${container[@]}" --name web -p 80:80 --network $network localhost/srv:1 /srv 80 & started=$!
        served | grep 'served by uid 0'
        user podman rm -f -t 1 -i web
        wait $started || true
    done
    portgrant-kernel unload
    fails user "${container[@]}" --name web -p 80:80 localhost/srv:1 /srv 80
INSIDE
)

# As packaging/oci --help has it: the programs are copied into an image with a server.
the_image_is_copied_into_another_and_doctor_is_right_in_its_containers() (
    mkdir -p "$work/given/oci"
    packaging/oci "$work/given/oci" --built "${PORTGRANT_STATIC:-$(packaging/build --no-examples --static)}"
    with_podman <<'INSIDE'
    user podman load -q -i /given/oci/portgrant-*.oci.tar
    user podman image exists localhost/portgrant:0.1.0
    # An image has accounts. For one that has none podman makes /etc/passwd, which nobody but root may read.
    mkdir -m 755 /home/alice/context
    echo 'permit alice 80' >/home/alice/context/policy
    echo alice:x:1000:1000::/:/bin/sh >/home/alice/context/passwd
    echo alice:x:1000: >/home/alice/context/group
    printf '%s\n' 'FROM localhost/srv:1' 'COPY --from=localhost/portgrant:0.1.0 /usr/ /usr/' 'COPY passwd group /etc/' \
        'COPY policy /etc/portgrant.conf' 'USER alice' >/home/alice/context/Containerfile
    user podman build -q --isolation=chroot --network=host -t localhost/both /home/alice/context
    contained() {
        local status=0
        user "${container[@]}" "${@:2}" localhost/both /usr/bin/portgrant $1 >/run/said 2>&1 || status=$?
        cat /run/said
        return $status
    }
    contained doctor
    contained "exec -l 80 -- /usr/bin/portgrant --version"
    # The reason is named in each case, and nothing is granted.
    while read -r options reason; do
        fails contained doctor $options
        grep -E "^broken .*$reason" /run/said
        fails contained "exec -l 80 -- /usr/bin/portgrant --version" $options
    done <<'REASONS'
--cap-drop=all CAP_NET_BIND_SERVICE is not in the bounding set here
--security-opt=no-new-privileges no_new_privs is set here
--network=host the network belongs to another user namespace
REASONS
INSIDE
)
