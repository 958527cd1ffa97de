# Packages that fail in the sandbox, each in its own way, and one that does not.
{ mkDerivation, runWithBusybox, plain }:
let
  # What somebody who runs `make` here leaves behind is not source.
  greeting-source = builtins.path {
    name = "greeting";
    path = ./greeting;
    filter = path: type: baseNameOf path != "greeting";
  };

  greeting = {
    pname = "greeting";
    version = "1.0";
    src = greeting-source;
    makeFlags = [ "PREFIX=$(out)" ];
    doCheck = true;
  };

  # Characters that a Nix string has no escape for.
  control = builtins.fromJSON ''"\u0001\u0007\u0008\u000b\u000c\u001b[31m\u007f"'';

  # The builder's own environment, as the kernel has it: what a shell makes of it is another.
  recordEnvironment = ''
    $builder cat /proc/$$/environ > environ
    echo "the environment is recorded" >&2
    exit 1
  '';

  a-program = runWithBusybox "a-program" { } ''
    printf '#!%s sh\necho it runs\n' $builder > $out
    $builder chmod +x $out
  '';
  a-link = runWithBusybox "a-link"
    { target = runWithBusybox "behind-a-link" { } "$builder mkdir $out; echo found > $out/file"; }
    "$builder ln -s $target/file $out";

  # No file has this hash.
  fixed = {
    outputHash = "0000000000000000000000000000000000000000000000000000";
    outputHashAlgo = "sha256";
    outputHashMode = "flat";
    impureEnvVars = [ "http_proxy" "UNSET" ];
  };

  downloader = runWithBusybox "wget" { } "$builder mkdir -p $out/bin; $builder cp $builder $out/bin/wget";
in
{
  # A build that fails only in the sandbox: its test asks for /usr/bin/env, which every other machine has.
  # Inside, `make check TEST_SHELL=bash` succeeds.
  greeting = mkDerivation greeting;

  # The same, mended: its test runs with the bash of the build.
  succeeds = mkDerivation (greeting // { postPatch = "patchShebangs tests"; });

  # A source that cannot be had: nobody answers at its address.
  download = mkDerivation (fixed // {
    name = "download";
    url = "http://localhost:9/greeting-1.0.tar.gz";
    nativeBuildInputs = [ downloader ];
    buildCommand = "wget -O $out $url";
  });

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

  # Store paths of every kind among its inputs, and one that only a link leads to.
  odd-inputs = runWithBusybox "odd-inputs"
    {
      file = builtins.toFile "a-file" "a file is a store path, too\n";
      program = a-program;
      link = a-link;
      twoOutputs = (runWithBusybox "two-outputs-of-which-one" { outputs = [ "out" "unwanted" ]; } ''
        echo wanted > $out
        echo unwanted > $unwanted
      '').out;
    } ''
    echo "its inputs are odd" >&2
    exit 1
  '';

  # Fails with one output half written, one whole, which is a file, and one missing: none of them is registered.
  half-installed = mkDerivation {
    name = "half-installed";
    src = greeting-source;
    outputs = [ "out" "doc" "missing" ];
    makeFlags = [ "PREFIX=$(out)" ];
    installPhase = ''
      mkdir -p $out/share
      echo first > $out/share/first
      ln -s share/first $out/link
      chmod 0444 $out/share/first
      chmod 0555 $out/share
      echo whole > $doc
      echo "half of it is installed" >&2
      exit 1
    '';
  };

  # Leaves outputs that nobody but root and their owner may open again.
  closed-outputs = runWithBusybox "closed-outputs" { outputs = [ "out" "doc" ]; } ''
    $builder mkdir $out
    echo text > $doc
    $builder chmod 0 $out $doc
    exit 1
  '';

  # The input is for a test to collect as garbage.
  outlives-its-input = runWithBusybox "outlives-its-input"
    { input = runWithBusybox "short-lived" { } "echo here > $out"; } ''
    $builder cat $input
    exit 1
  '';

  # stdenv is there, but no phase begins: nothing writes an env-vars file.
  fails-before-phases = mkDerivation {
    name = "fails-before-phases";
    src = greeting-source;
    greeted = "somebody";
    buildCommand = ''
      cp -r $src greeting
      echo "no phase begins" >&2
      exit 1
    '';
  };

  # Its shell cannot edit lines.
  plain-shell = mkDerivation (plain // {
    name = "plain-shell-1.0-beta";
    src = greeting-source;
    buildPhase = ''
      cd tests
      false
    '';
  });

  # With a hook that does what nixpkgs' setup does: shell options, and an env-vars of its own.
  strict = mkDerivation {
    name = "strict";
    src = greeting-source;
    nativeBuildInputs = [
      (runWithBusybox "strict-hook" { } ''
        $builder mkdir -p $out/nix-support
        echo 'echo "the hook speaks"
        set -u
        shopt -s nullglob
        trap "echo the hook is interrupted" INT
        export changed="by the hook"
        hookArray=(one "two words")
        if [[ -z ''${noDumpEnvVars-} ]]; then export > "$NIX_BUILD_TOP/env-vars"; fi' > $out/nix-support/setup-hook
      '')
    ];
    postPatch = ''export changed="in a phase"'';
    buildPhase = ''
      cd tests
      echo *.none "is nothing"
      false
    '';
  };

  # stdenv's setup fails, but not before the sources are there.
  fails-in-setup = mkDerivation {
    name = "fails-in-setup";
    src = greeting-source;
    nativeBuildInputs = [
      (runWithBusybox "moody-hook" { } ''
        $builder mkdir -p $out/nix-support
        echo 'echo "the hook speaks"; [[ ! -e $NIX_BUILD_TOP/greeting ]]' > $out/nix-support/setup-hook
      '')
    ];
    buildPhase = "exit 1";
  };

  # Something to add to a sandbox, which needs something else.
  debugger = runWithBusybox "debugger-1.0"
    { symbols = builtins.toFile "symbols" "all the symbols\n"; } ''
    $builder mkdir -p $out/bin
    printf '#!%s sh\n%s cat %s\n' $builder $builder $symbols > $out/bin/debug
    $builder chmod +x $out/bin/debug
  '';

  # The builder is no shell that could run a command.
  no-shell = runWithBusybox "no-shell" { args = [ "false" ]; } "";

  recorded = runWithBusybox "recorded"
    {
      passAsFile = [ "long" "quoted" ];
      long = "first line\nsecond line, to be in ${builtins.placeholder "out"}\n";
      quoted = "it's \"quoted\" $(touch /pwned)";
      newline = "first\nsecond\n";
      elsewhere = builtins.placeholder "doc";
      outputs = [ "out" "doc" ];
    }
    recordEnvironment;
  recorded-structured = runWithBusybox "recorded-structured"
    {
      __structuredAttrs = true;
      list = [ "one" "two words" "\"three\"" ];
      set = { key = "value"; };
      number = 42;
    } ''
    builder=$(echo $NIX_STORE/*-busybox/busybox)
    ${recordEnvironment}
  '';
  recorded-fixed-output = runWithBusybox "recorded-fixed-output" fixed recordEnvironment;

  # What Nix tells a builder of closures, of sources' as well as of what is built.
  graphs = runWithBusybox "graphs" { exportReferencesGraph = [ "program" "${a-program}" "build" a-link.drvPath ]; } "exit 1";
  graphs-structured = runWithBusybox "graphs-structured"
    {
      __structuredAttrs = true;
      exportReferencesGraph = { two = [ a-program a-link ]; build = a-link.drvPath; };
    } "exit 1";

  wants-secrets = runWithBusybox "wants-secrets" (fixed // { impureEnvVars = [ "ALL_PROXY" "TOKEN" "UNSET" ]; }) "exit 1";

  # Everything that tells of a fixed output, and a whole stdenv to look at it with.
  fixed-output = mkDerivation (fixed // {
    name = "fixed-output";
    src = greeting-source;
    buildPhase = ''
      echo "nothing is fetched" >&2
      exit 1
    '';
  });

  # For a processor whose programs the machine runs as well.
  thirty-two-bit = mkDerivation {
    name = "thirty-two-bit";
    system = "i686-linux";
    src = greeting-source;
    buildPhase = ''
      uname -m
      exit 1
    '';
  };

  # A build whose kernel is said to be old, where Nix's setting impersonate-linux-26 is on.
  kernel-release = mkDerivation {
    name = "kernel-release";
    src = greeting-source;
    buildPhase = ''
      echo "release: $(uname -r)"
      exit 1
    '';
  };

  # One for each phase that can fail, made in several ways: failing.KIND.PHASE.
  failing = import ./failing-phases.nix { inherit mkDerivation; source = greeting-source; };

  # Each for another cause; README's table shows what becomes of them.
  sandbox-only = import ./sandbox-only { inherit mkDerivation; };
}
