# The static programs, built twice.

two_builds_of_the_tarball_in_different_folders_are_identical() (
    for folder in one "another folder/with spaces"; do
        git clone --quiet . "$work/$folder"
        (cd "$work/$folder" && unset CARGO_TARGET_DIR && packaging/tarball out)
    done
    diff -r "$work/one/out" "$work/another folder/with spaces/out"
    cat "$work"/one/out/*.sha256
)
