{
  description = "Open a shell in the exact sandbox of a failed Nix build, without root";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEachSystem =
        make:
        builtins.listToAttrs (
          map (system: {
            name = system;
            value = make system nixpkgs.legacyPackages.${system};
          }) systems
        );
    in
    {
      # Nix before 2.9 wants to see these two names.
      overlays.default = final: prev: {
        nix-build-shell = final.callPackage ./nix/package.nix { };
      };

      packages = forEachSystem (
        _system: pkgs: rec {
          nix-build-shell = pkgs.callPackage ./nix/package.nix { };
          default = nix-build-shell;
        }
      );

      apps = forEachSystem (
        system: _pkgs: rec {
          nix-build-shell = {
            type = "app";
            program = "${self.packages.${system}.default}/bin/nix-build-shell";
          };
          default = nix-build-shell;
        }
      );

      # The package with its tests, and what it installs.
      checks = forEachSystem (
        system: pkgs: {
          package = self.packages.${system}.default;
          installed =
            pkgs.runCommand "nix-build-shell-installed" { nativeBuildInputs = [ self.packages.${system}.default ]; }
              ''
                package=${self.packages.${system}.default}
                nix-build-shell --version
                test -s $package/share/man/man1/nix-build-shell.1.gz
                test -s $package/share/bash-completion/completions/nix-build-shell.bash
                test -s $package/share/zsh/site-functions/_nix-build-shell
                test -s $package/share/fish/vendor_completions.d/nix-build-shell.fish
                touch $out
              '';
        }
      );

      devShells = forEachSystem (
        system: pkgs: {
          default = pkgs.mkShell {
            inputsFrom = [ self.packages.${system}.default ];
            # What `make check` needs besides; the tests find the rest by themselves, or name it.
            packages = with pkgs; [
              cargo
              clippy
              rustc
              rustfmt
              bubblewrap
              busybox
              fish
              git
              gnumake
              mandoc
              patchelf
              (python3.withPackages (python: [ python.pytest ]))
              strace
              zsh
            ];
          };
        }
      );
    };
}
