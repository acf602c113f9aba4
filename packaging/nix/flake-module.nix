# flake-parts module. A flake that imports it has the modules of NixOS and
# nix-darwin among its own, as dendritic repositories keep theirs
# (flake.modules.CLASS.fleet) and as others do (flake.nixosModules.fleet).
{
  flake = {
    modules.nixos.fleet = ./nixos.nix;
    modules.darwin.fleet = ./darwin.nix;
    nixosModules.fleet = ./nixos.nix;
    darwinModules.fleet = ./darwin.nix;
  };
}
