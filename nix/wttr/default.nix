# A package that fails: openssl-sys looks for OpenSSL, and nothing has given it to the build.
#
#     nix-build --keep-failed nix/wttr
#     nix-build-shell BUILD_DIR        # the directory that Nix says it keeps
#
# The two lines in the comment below mend it.
{ pkgs ? import <nixpkgs> { } }:

pkgs.rustPlatform.buildRustPackage {
  pname = "wttr";
  version = "0.1.0";
  src = pkgs.lib.cleanSource ./.;
  cargoLock.lockFile = ./Cargo.lock;

  # nativeBuildInputs = [ pkgs.pkg-config ];
  # buildInputs = [ pkgs.openssl ];
}
