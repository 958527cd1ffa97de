# Builds that print what they see of their sandbox, and fail: the real Nix's answers, to compare with.
{ busybox, bash, cc, runWithBusybox, system }:
let
  answers = runWithBusybox "probe-answers" { } ''
    ${busybox}/busybox cp ${./answers.c} answers.c
    ${cc}/bin/gcc -O1 -Wall -o $out answers.c
  '';

  # Its builder is the probe: there is no stdenv, and no env-vars.
  probe = name: attrs: derivation ({
    name = "probe-${name}";
    inherit system;
    builder = "${busybox}/busybox";
    args = [ "sh" ./facts.sh "${busybox}/busybox" "${answers}" ];
  } // attrs);

  # The same by way of a shell that writes env-vars, as stdenv's does.
  script = ''
    if [ -e .attrs.sh ]; then source .attrs.sh; fi
    export SHELL=${bash}/bin/bash
    (umask 077 && export > "$NIX_BUILD_TOP/env-vars")
    exec ${busybox}/busybox sh ${./facts.sh} ${busybox}/busybox ${answers}
  '';
  probe-with-env-vars = name: attrs: derivation ({
    name = "probe-${name}";
    inherit system;
    builder = "${bash}/bin/bash";
    args = [ "-ec" script ];
  } // attrs);

  structured = {
    __structuredAttrs = true;
    string = "it's";
    list = [ "one" "two words" ];
    set = { key = "value"; };
    number = 42;
  };
  # No file has this hash.
  fixed-output = {
    outputHash = "0000000000000000000000000000000000000000000000000000";
    outputHashAlgo = "sha256";
    outputHashMode = "flat";
    impureEnvVars = [ "http_proxy" "UNSET" ];
  };
  several-outputs = {
    outputs = [ "out" "dev" "doc" ];
    passAsFile = [ "text" ];
    text = "first line\nsecond line, ${builtins.placeholder "dev"}\n";
    newline = "first\nsecond\n";
    exportReferencesGraph = [ "closure-of-answers" answers ];
  };
in
{
  plain = probe "plain" { };
  structured = probe "structured" structured;
  fixed-output = probe "fixed-output" fixed-output;
  several-outputs = probe "several-outputs" several-outputs;
  env-vars = probe-with-env-vars "env-vars" { };
  structured-env-vars = probe-with-env-vars "structured-env-vars" structured;
  fixed-output-env-vars = probe-with-env-vars "fixed-output-env-vars" fixed-output;
  several-outputs-env-vars = probe-with-env-vars "several-outputs-env-vars" several-outputs;
} // (if system == "x86_64-linux" then {
  thirty-two-bit = probe "thirty-two-bit" { system = "i686-linux"; };
} else { })
