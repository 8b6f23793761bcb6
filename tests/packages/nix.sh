# packaging/nix, by Debian's Nix: nothing is built, and nixpkgs is a stand-in.

nix_evaluates_the_package_and_the_module() (
    mkdir -p "$work/given"
    cp -r packaging/nix "$work/given/"
    cat >"$work/given/lib.nix" <<'LIB'
rec {
  cleanSource = path: path;
  optionals = condition: list: if condition then list else [ ];
  mkEnableOption = text: { type = "bool"; default = false; };
  mkOption = option: option;
  literalExpression = text: text;
  mkIf = condition: content: { inherit condition content; };
  types = { package = "package"; lines = "lines"; };
  licenses = { mit = "mit"; asl20 = "asl20"; };
}
LIB
    cat >"$work/given/test.nix" <<'TEST'
let
  lib = import ./lib.nix;
  package = import ./nix/package.nix {
    inherit lib;
    stdenv.hostPlatform.isGnu = true;
    glibc.static = "glibc-static";
    rustPlatform.buildRustPackage = attributes: attributes // { outPath = "/nix/store/portgrant"; };
  };
  module = import ./nix/module.nix {
    inherit lib;
    pkgs.callPackage = path: arguments: package;
    config = {
      programs.portgrant = { enable = true; inherit package; policy = "permit alice 80"; kernelMode = true; };
      environment.etc."portgrant.conf".source = "/nix/store/policy";
    };
  };
  content = module.config.content;
in
assert package.version == (builtins.fromTOML (builtins.readFile ./Cargo.toml)).workspace.package.version;
assert package.buildInputs == [ "glibc-static" ];
assert content.security.wrappers.portgrant-binder.setuid;
assert !(content.security.wrappers.portgrant-binder ? capabilities);
assert content.security.wrappers.portgrant-binder.source == "/nix/store/portgrant/libexec/portgrant/portgrant-binder.unprivileged";
assert content.environment.etc."portgrant.conf".mode == "0644";
builtins.deepSeq content "evaluated"
TEST
    cp Cargo.toml "$work/given/"
    inside "$(tests/packages/root trixie nix-bin)" "$work/given" <<'INSIDE'
    mkdir -p /run/nix
    cp -r /given/. /run/nix
    cd /run/nix
    export NIX_STORE_DIR=/run/store NIX_STATE_DIR=/run/state NIX_LOG_DIR=/run/log NIX_REMOTE=/run/store-root
    for file in nix/package.nix nix/module.nix; do nix-instantiate --parse $file >/dev/null; done
    [ "$(nix-instantiate --eval test.nix)" = '"evaluated"' ]
INSIDE
)
