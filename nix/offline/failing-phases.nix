# The same package again and again, each time failing in another phase, and each a little differently made. They fail where there is no
# file `mended` in the build directory, and show before it what that phase has to work with.
{ mkDerivation, source }:
let
  kinds = {
    plain = { };
    structured = {
      __structuredAttrs = true;
      env.EXPORTED = "in the environment";
      set = { key = "value of a key"; };
    };
    several-outputs = {
      outputs = [ "out" "dev" ];
      postInstall = "mkdir $dev; cp greeting.c $dev/";
    };
  };

  show-and-fail = ''
    declare -p list makeFlags
    [[ $(declare -p set 2> /dev/null) != declare* ]] || echo "set[key]: ''${set[key]}"
    echo "in $PWD, before in ''${OLDPWD-nowhere}, with the mark ''${mark-none}"
    cat "$NIX_BUILD_TOP/env-vars"
    if read -r line; then echo "there is something to read: $line"; fi
    if [[ ! -e $NIX_BUILD_TOP/mended ]]; then
      echo "$curPhase fails" >&2
      exit 3
    fi
  '';

  phases = {
    unpackPhase = { postUnpack = show-and-fail; };
    configurePhase = { preConfigure = show-and-fail; };
    buildPhase = { preBuild = show-and-fail; };
    checkPhase = { preCheck = show-and-fail; };
    # Not `mkdir -p`: what the phase has made before it failed must not be there when it runs again.
    installPhase = {
      installPhase = ''
        mkdir $out
        cp greeting $out/
        if [[ -n ''${dev-} ]]; then mkdir $dev; cp greeting.c $dev/; fi
        ${show-and-fail}
      '';
    };
  };

  failing = name: kind: phase: how: mkDerivation ({
    inherit name;
    src = source;
    patches = [ ];
    list = [ "one" "two words" ];
    makeFlags = [ "CFLAGS=-g" "PREFIX=$(out)" ];
    doCheck = true;
    checkTarget = "greeting";
    postPatch = ''export mark="of patchPhase"'';
    failureHook = "echo the failure hook has run";
    preFixupPhases = [ "lastlyPhase" ];
    lastlyPhase = "echo lastly";
  } // kind // how);
in
builtins.mapAttrs
  (name: kind: builtins.mapAttrs (phase: failing "${name}-${phase}" kind phase) phases)
  kinds
