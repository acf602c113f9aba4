{
  description = "Pull-based deployments for fleets of NixOS, nix-darwin, home-manager and plain Linux hosts";

  # Not locked here: whoever uses this flake has it follow their own nixpkgs, which
  # needs Go 1.26.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      # Those that this nixpkgs has.
      systems = builtins.filter (system: nixpkgs.legacyPackages ? ${system})
        [ "x86_64-linux" "aarch64-linux" "x86_64-darwin" "aarch64-darwin" ];
      linux = [ "x86_64-linux" "aarch64-linux" ];
      each = list: f: nixpkgs.lib.genAttrs list (system: f nixpkgs.legacyPackages.${system});
      version = self.shortRev or self.dirtyShortRev or "dev";
    in
    {
      packages = each systems (pkgs: rec {
        fleet = pkgs.callPackage ./packaging/nix/package.nix { inherit version; };
        default = fleet;
      });

      nixosModules = rec {
        fleet = ./packaging/nix/nixos.nix;
        default = fleet;
      };
      darwinModules = rec {
        fleet = ./packaging/nix/darwin.nix;
        default = fleet;
      };
      # For flake-parts: see packaging/README.md.
      flakeModules = rec {
        fleet = ./packaging/nix/flake-module.nix;
        default = fleet;
      };

      # The package, and the units that the module makes of all that is enabled.
      checks = each linux (pkgs:
        let
          host = nixpkgs.lib.nixosSystem {
            inherit (pkgs.stdenv.hostPlatform) system;
            modules = [
              self.nixosModules.fleet
              { services.fleet = { agent.enable = true; coordinator = { enable = true; meshInterface = "mesh0"; }; }; }
            ];
          };
          unit = name: host.config.systemd.units."${name}.service".unit;
        in
        {
          inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) fleet;
          agent-unit = unit "fleet-agent";
          coordinator-unit = unit "fleet-coordinator";
        });

      devShells = each systems (pkgs: {
        default = pkgs.mkShell {
          packages = [ (pkgs.go_1_26 or pkgs.go) pkgs.gnumake pkgs.git pkgs.openssh ];
        };
      });
    };
}
