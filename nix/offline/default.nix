# A small standard environment without a network: this Debian machine's tools, as real store paths.
#
#     nix/offline/collect-tools /tmp/tools
#     nix-build nix/offline --arg tools /tmp/tools -A succeeds \
#       --option sandbox true --option substitute false --builders ""
#
# `tools` is the directory that `collect-tools` has filled, by itself /tmp/tools. Nix builds everything in its own sandbox, so a store path that
# needs another one really refers to it, and what a build finds in its sandbox is the exact closure of its inputs.
{ tools ? /tmp/tools, system ? builtins.currentSystem }:
let
  collected = name: builtins.path { inherit name; path = tools + "/${name}"; };

  # These are used as they are. busybox is static, and the C library finds its parts by itself.
  busybox = collected "busybox";
  glibc = collected "glibc";
  libc-dev = collected "libc-dev";

  # A build with busybox alone: what stdenv is made with, and what a build without stdenv looks like.
  runWithBusybox = name: attrs: script: derivation ({
    inherit name system;
    builder = "${busybox}/busybox";
    args = [ "sh" "-euc" script ];
  } // attrs);

  # The programs and libraries of `name`, looking for the C library and each other in the store and nowhere else.
  patched = name: patchedFrom (collected name) name;
  patchedFrom = source: name: finish: runWithBusybox name
    {
      inherit glibc source;
      # patchelf is among the tools. Before it is patched itself, the dynamic linker has to be told what to load.
      unpatchedTools = collected "tools";
    } ''
    busybox=${busybox}/busybox
    for applet in chmod cp find head ln mkdir mv; do alias $applet="$busybox $applet"; done
    linker=$(echo $glibc/lib/ld-linux*)
    patchelf() { $linker --library-path $unpatchedTools/lib:$glibc/lib $unpatchedTools/bin/patchelf "$@"; }

    mkdir -p $out
    cp -r $source/. $out
    chmod -R u+w $out
    find $out -type f | while read -r file; do
      case $(head -c 4 $file) in
        ?ELF) ;;
        *) continue ;;
      esac
      case $file in
        *.o | *.a) continue ;;
      esac
      patchelf --set-rpath $out/lib:$glibc/lib $file
      case $file in
        *.so | *.so.*) ;;
        *) patchelf --set-interpreter $linker $file ;;
      esac
    done
    ${finish}
  '';

  bash = patched "bash" "ln -s bash $out/bin/sh";
  coreutils = patched "coreutils" "";
  binutils = patched "binutils" "";
  gcc = patched "gcc" "";

  # There is no /bin/sh in the sandbox, and make would run it.
  tools' = patched "tools" ''
    mv $out/bin/make $out/bin/.make-unwrapped
    echo '#!${bash}/bin/bash
    exec -a "$0" '$out'/bin/.make-unwrapped SHELL=${bash}/bin/sh "$@"' > $out/bin/make
    chmod +x $out/bin/make
  '';

  # As nixpkgs calls the bash for people.
  bash-interactive = patchedFrom (collected "bash") "bash-interactive-5" "ln -s bash $out/bin/sh";

  # For the bash of nixpkgs' stdenv, which cannot edit lines: it does not know of the builtin `bind`, as far as one can see.
  plain-bash = patchedFrom (collected "bash") "plain-bash" ''
    LC_ALL=C ${tools'}/bin/sed -i 's/bind \[-lp/none [-lp/' $out/bin/bash
  '';

  # The compiler, told where the C library is.
  cc = runWithBusybox "cc" { } ''
    busybox=${busybox}/busybox
    $busybox mkdir -p $out/bin
    for name in gcc cc cpp; do
      case $name in
        # Preprocessing only: flags for the linker would be files to read.
        cpp) program=cpp link= ;;
        *) program=gcc link="-L${libc-dev}/lib -L${glibc}/lib -Wl,-rpath,${glibc}/lib" ;;
      esac
      linker=$(echo ${glibc}/lib/ld-linux*)
      [ -z "$link" ] || link="$link -Wl,--dynamic-linker=$linker"
      echo "#!${bash}/bin/bash
    exec ${gcc}/bin/$program -B${binutils}/bin/ -B${libc-dev}/lib/ -idirafter ${libc-dev}/include $link \"\$@\"" > $out/bin/$name
      $busybox chmod +x $out/bin/$name
    done
  '';

  initialPath = [ bash coreutils tools' binutils cc ];

  stdenv = stdenvWith bash;
  stdenvWith = shell: runWithBusybox "stdenv-linux" { inherit initialPath; setup = ./setup.sh; } ''
    busybox=${busybox}/busybox
    $busybox mkdir -p $out
    echo "export SHELL=${shell}/bin/bash" > $out/setup
    echo "initialPath='$initialPath'" >> $out/setup
    $busybox cat $setup >> $out/setup
  '';

  # With structured attributes there is no $stdenv before .attrs.sh was read.
  builder = builtins.toFile "default-builder.sh" ''
    if [ -e .attrs.sh ]; then source .attrs.sh; fi
    source "$stdenv/setup"
    genericBuild
  '';

  mkDerivation = attrs: derivation ({
    name = "${attrs.pname}-${attrs.version}";
    inherit system stdenv;
    builder = "${bash}/bin/bash";
    args = [ "-e" builder ];
    outputs = [ "out" ];
    nativeBuildInputs = [ ];
    buildInputs = [ ];
    patches = [ ];
    strictDeps = true;
  } // attrs);

  # One package with all the programs a test may want to call.
  probe-tools = runWithBusybox "probe-tools" { inherit initialPath; } ''
    busybox=${busybox}/busybox
    $busybox mkdir -p $out/bin
    for package in $initialPath; do
      for program in $package/bin/*; do
        [ -e $out/bin/''${program##*/} ] || $busybox ln -s $program $out/bin/
      done
    done
  '';
in
{
  inherit busybox glibc libc-dev bash bash-interactive plain-bash coreutils binutils gcc cc stdenv mkDerivation runWithBusybox probe-tools;
  tools = tools';
  probe = import ./probe { inherit busybox bash cc runWithBusybox system; };
} // import ./packages.nix {
  inherit mkDerivation runWithBusybox;
  plain = { stdenv = stdenvWith plain-bash; builder = "${plain-bash}/bin/bash"; };
}
