# packaging/release, to its end. It takes very long: everything is compiled several times.

two_releases_in_different_folders_are_identical() (
    for tool in auditable cyclonedx; do
        cargo $tool --help >/dev/null 2>&1 || skip "cargo-$tool is not installed"
    done
    need rpmbuild rpm
    need dh debhelper dpkg-dev
    need dh_apparmor dh-apparmor
    export GIT_AUTHOR_DATE='2026-12-01 00:00:00 +0000' GIT_COMMITTER_DATE='2026-12-01 00:00:00 +0000'
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
    for folder in one "another folder"; do
        git clone --quiet . "$work/$folder"
        cd "$work/$folder"
        git config user.name Ann
        git config user.email ann@mail.test
        packaging/maintainer 'Ann <ann@mail.test>' https://code.test/ports
        sed -i "s/^## Unreleased/## $version/" CHANGELOG.md
        git commit --quiet --all --message "Release $version"
        # Without a tag nothing is released.
        said=$(packaging/release --untested out 2>&1) && fail "released without a tag"
        grep -F "has no tag v$version" <<<"$said"
        git tag --annotate --message "$version" "v$version"
        (unset CARGO_TARGET_DIR && packaging/release --untested "$work/out-${folder// /-}")
        (cd "$work/out-${folder// /-}" && sha256sum --quiet --check SHA256SUMS)
        cd - >/dev/null
        rm -rf "${work:?}/$folder/target"
    done
    # These two say when and where they were made.
    diff -r --exclude '*.buildinfo' --exclude '*.changes' --exclude SHA256SUMS "$work/out-one" "$work/out-another-folder"
    ls -l "$work/out-one"
    echo "measured: $(ls "$work/out-one" | grep -vcE 'SHA256SUMS|buildinfo$|changes$') files of a release are identical in two builds"
)
