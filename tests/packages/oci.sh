# packaging/oci: an image made without a daemon, read by Debian's skopeo and umoci.

image() {
    programs=${PORTGRANT_STATIC:-$(packaging/build --no-examples --static)}
    image=$(packaging/oci "$work/image" --built "$programs")
}

other_tools_read_the_image_and_its_programs_work_in_it() (
    need skopeo skopeo
    need umoci umoci
    image
    skopeo inspect "oci-archive:$image" >"$work/inspected"
    grep -F '"Architecture": "amd64"' "$work/inspected"
    skopeo copy --quiet "oci-archive:$image" "oci:$work/layout:it"
    umoci unpack --image "$work/layout:it" "$work/bundle"
    python3 -c '
import json, sys
process = json.load(open(sys.argv[1]))["process"]
assert process["args"] == ["/usr/bin/portgrant", "--help"] and process["user"]["uid"] == 65534, process' "$work/bundle/config.json"
    root=$work/bundle/rootfs
    [ "$(getcap "$root/usr/libexec/portgrant/portgrant-binder")" = "$root/usr/libexec/portgrant/portgrant-binder cap_net_bind_service=p" ]
    [ -z "$(find "$root" -perm /6022 ! -type l)" ]
    # Nothing but these programs, and a shell to start them.
    mkdir -p "$root"/{bin,proc,dev,run,given,tmp,root}
    cp "$(busybox)" "$root/bin/busybox"
    for applet in sh env mount umount cp setpriv cat; do ln -s busybox "$root/bin/$applet"; done
    printf '#!/bin/sh\n. /run/code\n' >"$root/bin/bash"
    chmod 755 "$root/bin/bash" "$work"
    inside "$root" <<'INSIDE'
    set -eu
    as() { setpriv_user=$1; shift; su "$setpriv_user" -c "$*"; }
    ln -s busybox /bin/su; ln -s busybox /bin/true
    echo root:x:0:0::/root:/bin/sh >>/etc/passwd
    echo 'permit alice 80' >/etc/portgrant.conf
    su alice -c 'portgrant exec -l 80 -- true'
    su alice -c 'portgrant explain 80'
    status=0; su alice -c 'portgrant exec -l 81 -- true' || status=$?
    [ $status = 77 ]
    su alice -c 'portgrant doctor' >/run/doctor || { cat /run/doctor; exit 1; }
INSIDE
)

two_images_of_the_same_programs_are_identical() (
    image
    sleep 1.1
    cp -r "$programs" "$work/copy"
    (umask 077 && TZ=Asia/Tokyo packaging/oci "$work/two" --built "$work/copy" >/dev/null)
    cmp "$image" "$work"/two/*.oci.tar
    # By an ordinary user as well.
    chmod -R go+rX "$work/.."
    mkdir -m 777 "$work/three"
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all \
        env HOME="$work/three" RUSTUP_TOOLCHAIN= CARGO_BUILD_TARGET=x86_64-unknown-linux-gnu packaging/oci "$work/three" --built "$work/copy"
    cmp "$image" "$work"/three/*.oci.tar
)
