# The crates that others link, as a registry would get them.

published="portgrant-protocol portgrant-sys portgrant-server"

each_published_crate_has_its_licences_and_says_what_it_is() (
    cargo metadata --locked --no-deps --format-version 1 >"$work/metadata"
    python3 - "$work/metadata" $published <<'PYTHON'
import json, sys

packages = {package["name"]: package for package in json.load(open(sys.argv[1]))["packages"]}
own = packages["portgrant"]["version"]
for name, package in packages.items():
    assert package["version"] == own, f"{name} is {package['version']}"
    for dependency in package["dependencies"]:
        if "path" in dependency and dependency["kind"] is None:
            assert dependency["req"] == f"^{own}", f"{name} needs {dependency['name']} {dependency['req']}"
# Nobody publishes the others by mistake.
assert sorted(name for name, package in packages.items() if package["publish"] is None) == sorted(sys.argv[2:])
for name in sys.argv[2:]:
    package = packages[name]
    for key in ["description", "license", "readme", "keywords", "categories", "rust_version", "authors", "repository"]:
        assert package[key], f"{name} has no {key}"
    # The registry's own limits.
    assert len(package["keywords"]) <= 5 and len(package["categories"]) <= 5
    assert all(len(word) <= 20 for word in package["keywords"])
    for dependency in package["dependencies"]:
        if "path" in dependency and dependency["kind"] is None:
            assert dependency["name"] in sys.argv[2:], f"{name} links {dependency['name']}, which is not published"
PYTHON
    for crate in $published; do
        cargo package --locked --allow-dirty --list --package "$crate" >"$work/list"
        for file in README.md LICENSE-MIT LICENSE-APACHE; do
            grep -xF $file "$work/list"
        done
    done
)

# Whatever other crates, which the workspace builds with them, ask for.
each_feature_of_a_published_crate_builds_alone() (
    cargo metadata --locked --no-deps --format-version 1 | python3 -c '
import json, sys
for package in json.load(sys.stdin)["packages"]:
    if package["publish"] is None:
        print(package["name"], "")
        for feature in package["features"]:
            print(package["name"], feature)' >"$work/features"
    [ "$(wc -l <"$work/features")" -ge 12 ]
    while read -r crate feature; do
        CARGO_TARGET_DIR=$target/crates cargo check --quiet --locked --package "$crate" --no-default-features --features "$feature" </dev/null ||
            fail "$crate does not build with the feature '$feature' alone"
    done <"$work/features"
)

# docs.rs does this with a nightly compiler.
the_documentation_says_which_feature_an_item_needs() (
    packages=()
    for crate in $published; do packages+=(--package "$crate"); done
    CARGO_TARGET_DIR=$target/crates RUSTC_BOOTSTRAP=1 RUSTDOCFLAGS="--cfg docsrs -D warnings" \
        cargo doc --quiet --locked --no-deps --all-features "${packages[@]}"
    named() { grep -rho 'crate feature `[a-z]*` only' "$target/crates/doc/$1" | sort -u | wc -l; }
    [ "$(named portgrant_server)" = 5 ]
    [ "$(named portgrant_sys)" -ge 4 ]
    grep -rqF 'crate features `std` only' "$target/crates/doc/portgrant_protocol"
    for crate in $published; do
        cargo metadata --locked --no-deps --format-version 1 | python3 -c '
import json, sys
documented = {package["name"]: (package["metadata"] or {}).get("docs", {}).get("rs") for package in json.load(sys.stdin)["packages"]}
assert documented[sys.argv[1]] == {"all-features": True, "rustdoc-args": ["--cfg", "docsrs"]}, sys.argv[1]' "$crate"
    done
)

# As a registry would: the server crate is built with the others as they are packaged, not with the folders beside it.
each_published_crate_builds_from_its_package_alone() (
    packages=()
    for crate in $published; do packages+=(--package "$crate"); done
    CARGO_TARGET_DIR=$target/crates CARGO_PROFILE_DEV_DEBUG=false cargo package --locked --allow-dirty "${packages[@]}" --all-features
    for crate in $published; do
        tar -xOf "$target/crates/package/$crate"-*.crate --wildcards '*/LICENSE-MIT' | cmp LICENSE-MIT -
    done
)
