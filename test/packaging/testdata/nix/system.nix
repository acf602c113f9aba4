# The options of NixOS and nix-darwin that the modules set, and packages.
{ lib }:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  unit = types.attrsOf types.anything;
in
rec {
  common.options = {
    assertions = option (types.listOf types.anything) [ ];
    environment.systemPackages = option (types.listOf types.package) [ ];
  };
  nixos.options = {
    systemd.services = option (types.attrsOf unit) { };
    system.activationScripts = option (types.attrsOf types.anything) { };
    networking.firewall = {
      allowedTCPPorts = option (types.listOf types.port) [ ];
      interfaces = option (types.attrsOf types.anything) { };
    };
  };
  darwin.options = {
    launchd.daemons = option (types.attrsOf unit) { };
    system.activationScripts.extraActivation.text = option types.lines "";
  };

  package = name: args: { inherit name args; type = "derivation"; outPath = "${builtins.storeDir}/stub-${name}"; };
  pkgs = {
    gitMinimal = package "git" { };
    callPackage = file: args: import file ({ inherit lib; buildGoModule = args: package args.pname args; } // args);
  };

  # evaluate a module of packaging/nix with a host's configuration.
  evaluate = kind: module: config:
    (lib.evalModules { modules = [ common kind module config ]; specialArgs = { inherit pkgs; }; });
}
