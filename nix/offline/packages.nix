# Packages that fail in the sandbox, each in its own way, and one that does not.
{ mkDerivation, runWithBusybox }:
let
  # What somebody who runs `make` here leaves behind is not source.
  greeting-source = builtins.path {
    name = "greeting";
    path = ./greeting;
    filter = path: type: baseNameOf path != "greeting";
  };

  # Characters that a Nix string has no escape for.
  control = builtins.fromJSON ''"\u0001\u0007\u0008\u000b\u000c\u001b[31m\u007f"'';
in
{
  # A build that fails only in the sandbox: its test asks for /usr/bin/env, which every other machine has.
  # Inside, `make check TEST_SHELL=bash` succeeds.
  greeting = mkDerivation {
    pname = "greeting";
    version = "1.0";
    src = greeting-source;
    makeFlags = [ "PREFIX=$(out)" ];
    doCheck = true;
  };

  # The same, mended: its test runs with the bash of the build.
  succeeds = mkDerivation {
    pname = "greeting";
    version = "1.0";
    src = greeting-source;
    makeFlags = [ "PREFIX=$(out)" ];
    doCheck = true;
    postPatch = "patchShebangs tests";
  };

  # No stdenv: nothing writes an env-vars file, and there is no phase.
  fails-early = runWithBusybox "fails-early" { } ''
    echo "this builder gives up at once" >&2
    exit 1
  '';

  # Structured attributes: the attributes are in .attrs.json and .attrs.sh, not in the environment.
  structured = mkDerivation {
    name = "structured";
    __structuredAttrs = true;
    src = greeting-source;
    env.EXPORTED = "in the environment";
    list = [ "one" "two words" "\"three\"" ];
    set = { key = "value"; other = "with\nnewline"; };
    number = 42;
    yes = true;
    no = false;
    nested = { deep = { list = [ 1 2 { three = 3; } ]; }; };
    makeFlags = [ "CC=gcc" "CFLAGS=-O1 -g" ];
    preBuild = ''
      echo "elements of list: ''${#list[@]}; set[key]: ''${set[key]}; EXPORTED: $EXPORTED"
      echo "this build fails with structured attributes" >&2
      exit 1
    '';
  };

  # Variables and files that are hard to read, quote, copy and remove.
  awkward-environment = mkDerivation {
    name = "awkward-environment";
    src = greeting-source;

    newlines = "first line\nsecond line\n\nfourth line\n";
    commandSubstitution = "$(touch /pwned)";
    backticks = "`touch /pwned`";
    variables = "$HOME \${HOME} $$ $! \\$";
    quotes = "it's \"quoted\" 'twice'";
    backslashes = "\\ \\\\ \\n \\\" trailing \\";
    tabs = "\tbefore\tand after\t";
    carriageReturn = "a\r\nb\r";
    spaces = "  two  spaces  ";
    control = "before${control}after";
    controlAndNewline = "line one${control}\nline two $(touch /pwned) it's \"quoted\"\n";
    utf8 = "Grüße, 世界 🎉";
    utf8AndControl = "Grüße\t世界${control}";
    empty = "";
    equals = "a=b==c";
    semicolon = "; touch /pwned; exit 0 #";
    glob = "* ? [a-z] ~ {a,b} !!";
    # A reader that goes line by line takes these for declarations of their own.
    lookalike = "first line\ndeclare -x SHELL=\"/evil\"\nlast line";
    lookalikeUnquoted = "first line\ndeclare -x PATH=/evil\ndeclare -x PWNED\nlast line";
    lookalikeEnd = "\"\ndeclare -x PWNED=\"1";
    # Names that no shell variable can have. A build sees them, but `export` does not write them into env-vars.
    "not.an-identifier" = "still in the environment";

    postUnpack = ''
      pushd "$sourceRoot" > /dev/null
      ${builtins.readFile ./awkward/files.sh}
      popd > /dev/null
    '';
    preConfigure = builtins.readFile ./awkward/environment.sh;
    buildPhase = ''
      echo "this build is awkward on purpose" >&2
      exit 1
    '';
  };

  # Fails when one of its outputs is written and the other is not: $out stays behind in the store, not registered.
  two-outputs = mkDerivation {
    name = "two-outputs";
    src = greeting-source;
    outputs = [ "out" "dev" ];
    installPhase = ''
      mkdir -p $out/bin
      cp greeting $out/bin/
      echo "there are no headers to install into $dev" >&2
      exit 1
    '';
  };

  # Each for another cause; README's table shows what becomes of them.
  sandbox-only = import ./sandbox-only { inherit mkDerivation; };
}
