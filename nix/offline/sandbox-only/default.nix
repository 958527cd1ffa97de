# Packages that build everywhere but in Nix's sandbox, each for the cause that its name tells.
{ mkDerivation }:
let
  package = cause: attrs: mkDerivation ({
    name = cause;
    src = builtins.path {
      name = cause;
      path = ./. + "/${cause}";
      # What somebody who runs `make` here leaves behind is not source.
      filter = path: type: !builtins.pathExists (path + ".c");
    };
    doCheck = true;
    # What most of them make is of no use to anybody.
    installPhase = "touch $out";
  } // attrs);

  packages = causes: attrs:
    builtins.listToAttrs (map (cause: { name = cause; value = package cause attrs; }) causes);
in
packages [
  "bin" "extended-attributes" "home" "host-name" "locale" "loopback" "network" "proc-sys" "random-addresses" "services"
  "shared-memory" "sys" "terminal" "time-zone" "user-name" "usr-bin-env" "var-tmp"
] { }
// packages [ "owner" "setuid" ] { installPhase = "mkdir -p $out; make install PREFIX=$out"; }
// rec {
  # In the store, and nobody's input.
  generator = mkDerivation {
    name = "generator";
    src = ./undeclared-input;
    dontBuild = true;
    installPhase = ''
      mkdir -p $out/bin
      { echo "#!$SHELL"; cat generate; } > $out/bin/generate
      chmod +x $out/bin/generate
    '';
  };

  undeclared-input = package "undeclared-input" {
    postPatch = "echo GENERATE = ${builtins.unsafeDiscardStringContext generator}/bin/generate > config.mk";
  };

  # Its parent is the builder itself only where no make stands between.
  parent-process = package "parent-process" { checkPhase = "./worker"; };
}
