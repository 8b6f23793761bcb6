# What a release consists of besides packages.

the_checkout_has_one_version_and_another_one_is_noticed() (
    packaging/release --check
    git ls-files -z | xargs -0 cp --parents -P -t "$work"
    cd "$work"
    git init --quiet .
    wrong() { # FILE EDIT
        cp "$1" "$1.right"
        sed -i "$2" "$1"
        said=$(packaging/release --check 2>&1) && fail "a version in $1 was not noticed"
        grep -F "$1" <<<"$said"
        mv "$1.right" "$1"
    }
    wrong debian/changelog '1s/(0/(9/'
    wrong packaging/rpm/portgrant.spec 's/^Version:.*/Version: 9/'
    wrong packaging/arch/PKGBUILD 's/^pkgver=.*/pkgver=9/'
    wrong packaging/alpine/APKBUILD 's/^pkgver=.*/pkgver=9/'
    wrong packaging/nix/package.nix 's/version = "0/version = "9/'
    wrong Cargo.toml 's/path = "protocol", version = "0/&9/'
    packaging/release --check
)

nothing_is_released_while_the_maintainer_is_a_placeholder() (
    git ls-files -co --exclude-standard -z | xargs -0 cp --parents -P -t "$work"
    cd "$work"
    said=$(packaging/maintainer --check 2>&1) && fail "placeholders were not noticed"
    eval "$(sed -n 's/^  fix: //p' <<<"$said" | sed "s|'NAME.*|\"Ann O'Neil <ann@mail.test>\" https://code.test/ports|")"
    packaging/maintainer --check
    # Once more, because people and repositories change.
    packaging/maintainer 'Bob <bob@mail.test>' https://code.test/ports-of-bob
    packaging/maintainer --check
    fails grep -rnE 'ann@|@packages.debian.org|placeholder until' Cargo.toml SECURITY.md debian packaging/{arch,alpine,rpm,nix}
    for file in debian/control debian/changelog packaging/{rpm/portgrant.spec,arch/PKGBUILD,alpine/APKBUILD}; do
        cp "$file" right
        sed -i 's/bob@/ann@/' "$file"
        said=$(packaging/maintainer --check 2>&1) && fail "$file was not noticed"
        grep -F "$file" <<<"$said"
        cp right "$file"
    done
    for wrong in 'Bob' 'Bob <bob>' 'B|b <bob@mail.test>'; do
        status=0
        packaging/maintainer "$wrong" https://code.test/ports || status=$?
        [ "$status" = 64 ]
    done
)

the_lists_of_crates_are_the_same_from_every_folder() (
    cargo cyclonedx --version || skip "cargo-cyclonedx is not installed"
    packaging/sbom "$work/one"
    git clone --quiet . "$work/another folder"
    "$work/another folder/packaging/sbom" "$work/two"
    diff -r "$work/one" "$work/two"
    fails grep -r "$work" "$work/one"
    for program in $(awk '!/^#/ && $2 ~ /^(program|static|helper)$/ { print $3 }' packaging/contents); do
        python3 - "$work/one/$program.cdx.json" <<'PYTHON'
import json, sys

listed = json.load(open(sys.argv[1]))
assert listed["bomFormat"] == "CycloneDX" and listed["specVersion"] == "1.5"
assert "rustix" in [component["name"] for component in listed["components"]]
PYTHON
    done
)
