# For nixpkgs' callPackage: `callPackage ./packaging/nix/package.nix { }`. packaging/nix/module.nix makes it work on NixOS.
#
# How far this was tried: tests/packages/run nix evaluates both files by Debian's Nix, with stand-ins for nixpkgs. It was never
# built on NixOS itself.
{
  lib,
  rustPlatform,
  glibc ? null,
  stdenv,
}:

rustPlatform.buildRustPackage {
  pname = "portgrant";
  version = "0.1.0";
  src = lib.cleanSource ../..;
  cargoLock.lockFile = ../../Cargo.lock;

  # The helper is linked statically.
  buildInputs = lib.optionals stdenv.hostPlatform.isGnu [ glibc.static ];

  postPatch = "patchShebangs packaging";
  buildPhase = ''
    runHook preBuild
    packaging/build --no-examples
    runHook postBuild
  '';
  # The tests want namespaces and a Debian.
  doCheck = false;
  # The store holds no privilege, and the launcher looks for its helper below its own prefix.
  installPhase = ''
    runHook preInstall
    packaging/install --destdir "$PWD/stage" --privilege none "$out"
    mv "stage$out" "$out"
    mv "$out/libexec/portgrant/portgrant-binder" "$out/libexec/portgrant/portgrant-binder.unprivileged"
    ln -s /run/wrappers/bin/portgrant-binder "$out/libexec/portgrant/portgrant-binder"
    runHook postInstall
  '';

  meta = {
    description = "Ports below 1024 for programs that are not root";
    homepage = "https://portgrant.example/source";
    license = with lib.licenses; [ mit asl20 ];
    platforms = [ "x86_64-linux" "aarch64-linux" ];
    mainProgram = "portgrant";
  };
}
