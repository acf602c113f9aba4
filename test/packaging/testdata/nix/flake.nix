# A stub of nixpkgs' flake, as far as flake.nix asks it for something.
{
  outputs = { self }:
    let
      lib = import ./lib.nix;
      system = import ./system.nix { inherit lib; };
      nixosSystem = { modules, ... }:
        let config = (system.evaluate system.nixos { imports = modules; } { }).config;
        in {
          config.systemd.units = builtins.listToAttrs (lib.mapAttrsToList (name: service: {
            name = "${name}.service";
            value.unit = { type = "derivation"; name = "unit-${name}"; inherit service; };
          }) config.systemd.services);
        };
      packages = name: system.pkgs // {
        stdenv.hostPlatform.system = name;
        mkShell = { packages }: { type = "derivation"; name = "shell"; inherit packages; };
      } // lib.genAttrs [ "go_1_26" "gnumake" "git" "openssh" ] (p: system.package p { });
    in
    {
      lib = lib // { inherit nixosSystem; };
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" "x86_64-darwin" "aarch64-darwin" ] packages;
    };
}
