# The package, for callPackage: `pkgs.callPackage ./nix/package.nix { }`.
{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
}:

let
  manifest = builtins.fromTOML (builtins.readFile ../Cargo.toml);
  inherit (stdenv) hostPlatform;
  # The program makes its own manual and completions, which needs a machine that can execute it.
  canExecute = stdenv.buildPlatform.canExecute hostPlatform;
in
rustPlatform.buildRustPackage {
  pname = manifest.package.name;
  inherit (manifest.package) version;

  # What the program is made of, and no more: a change of a test against the real Nix is no reason to build it again.
  src = lib.cleanSourceWith {
    name = "nix-build-shell-source";
    src = lib.cleanSource ../.;
    filter =
      path: _type:
      let
        inner = lib.removePrefix (toString ../. + "/") (toString path);
        first = builtins.head (lib.splitString "/" inner);
      in
      builtins.elem first [
        ".cargo"
        "Cargo.lock"
        "Cargo.toml"
        "CHANGELOG.md"
        "LICENSE"
        "README.md"
        "benches"
        "build.rs"
        "link"
        "src"
        "tests"
      ];
  };

  cargoLock.lockFile = ../Cargo.lock;

  nativeBuildInputs = [ installShellFiles ];

  # .cargo/config.toml asks for one static file, which starts faster, so it wants glibc's archives. In pkgsStatic everything is one.
  buildInputs = lib.optionals (hostPlatform.isGnu && !hostPlatform.isStatic) [ stdenv.cc.libc.static ];

  # The tests of the parts. Those against the real Nix start a daemon and change users, which a build may not.
  cargoTestFlags = [ "--lib" ];

  postInstall =
    lib.optionalString canExecute ''
      for text in man complete-bash complete-fish complete-zsh; do
        $out/bin/nix-build-shell --generate $text > $text
      done
      mv man nix-build-shell.1
      installManPage nix-build-shell.1
      installShellCompletion --cmd nix-build-shell --bash complete-bash --fish complete-fish --zsh complete-zsh
    ''
    + ''
      install -D -m 0644 -t $out/share/doc/nix-build-shell README.md CHANGELOG.md LICENSE
    '';

  meta = {
    inherit (manifest.package) description;
    license = lib.licenses.mit;
    mainProgram = "nix-build-shell";
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
