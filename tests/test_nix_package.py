"""nix/package.nix and flake.nix, as far as they can be evaluated without nixpkgs and a network.

In nixpkgs' place stands a directory with the functions that they call. There the program is not compiled: it is the one under
test, and what is done with it afterwards, in `postInstall`, is done by the real Nix in its sandbox.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.nix import OPTIONS, SINGLE_USER
from support.session import CHECKOUT

SYSTEM = f"{os.uname().machine}-linux"

NIXPKGS = """
{ system, tools, program }:
let
  offline = import %(offline)s { inherit tools system; };
  lib = {
    cleanSource = path: path;
    cleanSourceWith = { name ? "source", src, filter }: builtins.path { inherit name filter; path = src; };
    removePrefix = prefix: text:
      let size = builtins.stringLength prefix; in
      if builtins.substring 0 size text == prefix then builtins.substring size (-1) text else text;
    splitString = separator: text: builtins.filter builtins.isString (builtins.split separator text);
    optionals = condition: list: if condition then list else [ ];
    optionalString = condition: text: if condition then text else "";
    licenses.mit.spdxId = "MIT";
  };
  platform = { inherit system; isGnu = true; isStatic = false; canExecute = other: other.system == system; };
  stdenv = { hostPlatform = platform; buildPlatform = platform; cc.libc = { static = offline.glibc; }; };
  derive = attrs: offline.mkDerivation ({ buildCommand = "touch $out"; } // attrs) // { meta = attrs.meta or { }; };
  installShellFiles = offline.runWithBusybox "install-shell-files" { hook = ./hook.sh; } "$builder cp $hook $out";
  pkgs = {
    inherit lib stdenv installShellFiles;
    rustPlatform.buildRustPackage = attrs:
      assert builtins.pathExists attrs.cargoLock.lockFile;
      derive (builtins.removeAttrs attrs [ "cargoLock" "meta" ] // {
        buildCommand = ''
          source ${installShellFiles}
          cp -r $src source; chmod -R u+w source; cd source
          ls -A > $NIX_BUILD_TOP/files
          mkdir -p $out/bin; cp ${program} $out/bin/nix-build-shell
          eval "$postInstall"
          cp $NIX_BUILD_TOP/files $out/source-files
        '';
      }) // { inherit (attrs) meta; };
    callPackage = file: arguments:
      let function = import file; in
      function (builtins.intersectAttrs (builtins.functionArgs function) pkgs // arguments);
    runCommand = name: attrs: script:
      let search = "for input in $nativeBuildInputs; do PATH=$input/bin:$PATH; done"; in
      derive ({ inherit name; buildCommand = "${search}\\n${script}"; } // attrs);
    mkShell = attrs: derive { name = "shell"; };
    python3.withPackages = packages: builtins.seq (packages { pytest = null; }) null;
  } // builtins.listToAttrs (map (name: { inherit name; value = null; }) [
    "cargo" "clippy" "rustc" "rustfmt" "bubblewrap" "busybox" "fish" "git" "gnumake" "mandoc" "patchelf" "strace" "zsh"
  ]);
in
pkgs
"""

# What nixpkgs' hook of this name does, as its manual tells.
HOOK = """
installManPage() {
    for page; do mkdir -p $out/share/man/man${page##*.}; gzip -nc $page > $out/share/man/man${page##*.}/$page.gz; done
}
installShellCompletion() {
    [[ $1 == --cmd ]]
    local name=$2
    shift 2
    while [[ $# -gt 0 ]]; do
        case $1 in
            --bash) install -D -m 0644 $2 $out/share/bash-completion/completions/$name.bash ;;
            --fish) install -D -m 0644 $2 $out/share/fish/vendor_completions.d/$name.fish ;;
            --zsh) install -D -m 0644 $2 $out/share/zsh/site-functions/_$name ;;
            *) echo "installShellCompletion: $1 is no shell" >&2; return 1 ;;
        esac
        shift 2
    done
}
"""


@pytest.fixture
def nixpkgs(builds, workspace, root):
    directory = workspace / "nixpkgs"
    directory.mkdir()
    (directory / "pkgs.nix").write_text(NIXPKGS % {"offline": builds.packages})
    (directory / "hook.sh").write_text(HOOK)
    arguments = f"tools = {builds.tools}; program = {root.program}; system = builtins.currentSystem;"
    (directory / "default.nix").write_text(f"{{ }}: import ./pkgs.nix {{ {arguments} }}")
    builds.by_root("greeting")
    return directory


@pytest.fixture
def checkout(workspace):
    """What git would give a flake: the files that are committed or about to be."""
    copy = workspace / "checkout"
    listed = ["git", "-c", f"safe.directory={CHECKOUT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout.split("\0")[:-1]:
        if (CHECKOUT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, copy / name, follow_symlinks=False)
    return copy


def nix(*command, **how):
    environment = {**os.environ, "NIX_CONFIG": "experimental-features = nix-command flakes"}
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=environment, **how)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_package_is_built_of_what_it_needs_and_installs_all(nixpkgs, checkout):
    (checkout / "target").mkdir()
    (checkout / "target" / "large").touch()
    expression = f"(import {nixpkgs} {{ }}).callPackage {checkout}/nix/package.nix {{ }}"
    out = nix("nix-build", "--no-out-link", *OPTIONS, *SINGLE_USER, "-E", expression).strip()
    files = {str(path.relative_to(out)) for path in Path(out).rglob("*") if path.is_file()}
    assert files == {
        "bin/nix-build-shell",
        "share/man/man1/nix-build-shell.1.gz",
        "share/bash-completion/completions/nix-build-shell.bash",
        "share/zsh/site-functions/_nix-build-shell",
        "share/fish/vendor_completions.d/nix-build-shell.fish",
        "share/doc/nix-build-shell/README.md",
        "share/doc/nix-build-shell/CHANGELOG.md",
        "share/doc/nix-build-shell/LICENSE",
        "source-files",
    }
    source = (Path(out) / "source-files").read_text().split()
    assert {".cargo", "Cargo.lock", "Cargo.toml", "benches", "build.rs", "link", "src", "tests"} <= set(source)
    assert not {"target", "nix", ".git"} & set(source)


def test_what_cannot_be_executed_here_is_built_without_its_texts(nixpkgs, checkout):
    expression = f"""
      let pkgs = import {nixpkgs} {{ }}; other = pkgs.stdenv.hostPlatform // {{ system = "riscv64-linux"; }}; in
      (pkgs.callPackage {checkout}/nix/package.nix {{ stdenv = pkgs.stdenv // {{ hostPlatform = other; }}; }}).postInstall
    """
    script = json.loads(nix("nix-instantiate", "--eval", "--strict", "--json", "-E", expression))
    assert "--generate" not in script and "share/doc" in script


def test_a_static_package_set_needs_no_archives_of_glibc(nixpkgs, checkout):
    expression = f"""
      let pkgs = import {nixpkgs} {{ }}; static = pkgs.stdenv.hostPlatform // {{ isStatic = true; }}; in
      map (stdenv: builtins.length (pkgs.callPackage {checkout}/nix/package.nix {{ inherit stdenv; }}).buildInputs)
        [ pkgs.stdenv (pkgs.stdenv // {{ hostPlatform = static; }}) ]
    """
    assert json.loads(nix("nix-instantiate", "--eval", "--strict", "--json", "-E", expression)) == [1, 0]


@pytest.fixture
def flake(nixpkgs, checkout):
    """How Nix is told to take this flake, with the nixpkgs from above."""
    arguments = (nixpkgs / "default.nix").read_text().replace("builtins.currentSystem", f'"{SYSTEM}"')
    (nixpkgs / "default.nix").write_text(arguments)
    (nixpkgs / "flake.nix").write_text(f"""
      {{ outputs = {{ self }}: {{
        legacyPackages = let value = import ./. {{ }}; in {{ x86_64-linux = value; aarch64-linux = value; }};
      }}; }}
    """)
    options = ["--override-input", "nixpkgs", f"path:{nixpkgs}", "--no-write-lock-file", "--impure", "--offline"]
    return options, f"path:{checkout}"


def test_the_flake_has_package_app_overlay_check_and_shell(flake):
    options, reference = flake
    shown = json.loads(nix("nix", "flake", "show", "--json", *options, reference))
    for kind in ["packages", "checks", "devShells"]:
        assert shown[kind][SYSTEM], kind
    assert shown["apps"][SYSTEM]["default"]["type"] == "app"
    assert "default" in shown["overlays"]


def test_the_checks_of_the_flake_pass(flake):
    options, reference = flake
    nix("nix", "flake", "check", *options, *OPTIONS, *SINGLE_USER, reference)


def test_the_overlay_adds_the_package(nixpkgs, checkout):
    expression = f"""
      let pkgs = import {nixpkgs} {{ }}; outputs = (import {checkout}/flake.nix).outputs {{ self = null; nixpkgs = null; }}; in
      (outputs.overlays.default pkgs pkgs).nix-build-shell.pname
    """
    assert json.loads(nix("nix-instantiate", "--eval", "--strict", "--json", "-E", expression)) == "nix-build-shell"
