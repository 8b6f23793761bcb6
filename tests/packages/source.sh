# The source package: built from what is committed, in a clean $suite, by that suite's own Rust, without a network.

rust() {
    case $suite in
        sid) echo rustc,cargo ;;
        *) echo rustc-web,cargo-web ;; # which Debian keeps new
    esac
}

two_builds_in_different_folders_are_identical_and_lintian_finds_nothing() (
    packaging/source "$work/given" >/dev/null
    env | sed -n 's/^\(CARGO_PROFILE_[A-Z_]*\|DEB_BUILD_OPTIONS\)=\(.*\)/export \1="\2"/p' >"$work/given/profile"
    inside "$(tests/packages/root "$suite" "$(rust),debhelper,dh-apparmor,build-essential,lintian")" "$work/given" <<'INSIDE'
    . /given/profile
    cp -r /given /run/given
    name=$(basename /run/given/portgrant_*/)
    mkdir -p /build /home/another/folder
    mount -t tmpfs build /build
    mount -t tmpfs build /home/another/folder
    cp -r /run/given/. /build
    cp -r /run/given/. /home/another/folder
    cd /build/"$name"
    dpkg-checkbuilddeps
    dpkg-buildpackage -F -us -uc
    lintian --allow-root --fail-on error,warning --tag-display-limit 0 ../*.changes
    sleep 2
    cd /home/another/folder/"$name"
    # By an ordinary user, with another name, time zone and language, and on one processor.
    chown -R alice .. && chmod 755 /home /home/another
    (
        export HOME=/nonexistent TZ=Asia/Tokyo LC_ALL=C DEB_BUILD_OPTIONS="nocheck parallel=1" USER=alice
        umask 077
        as alice dpkg-buildpackage -F -us -uc
    )
    for file in /build/*.{deb,dsc,tar.xz}; do
        cmp "$file" "/home/another/folder/$(basename "$file")" || different=yes
    done
    [ -z "${different-}" ]
    echo "measured: $(cd /build && ls *.deb | wc -l) packages and their source are identical, Rust $(rustc --version | cut -d ' ' -f 2)"
INSIDE
)
