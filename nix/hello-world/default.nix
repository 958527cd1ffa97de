# A package that builds. Let it fail to see nix-build-shell at work: put a typing error into hello.c, then
#
#     nix-build --keep-failed nix/hello-world
#     nix-build-shell BUILD_DIR        # the directory that Nix says it keeps
{ pkgs ? import <nixpkgs> { } }:

pkgs.stdenv.mkDerivation {
  pname = "hello-world";
  version = "1.0";
  src = pkgs.lib.cleanSource ./.;

  makeFlags = [ "PREFIX=$(out)" ];
  doCheck = true;
}
