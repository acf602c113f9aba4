# What test/packaging evaluates: configurations of hosts, by name, with what the
# modules make of them; and the modules' options with their descriptions.
{ root, lib ? import ./lib.nix }:
let
  modules = root + "/packaging/nix";
  system = import ./system.nix { inherit lib; };
  digest = c: "sha256:" + lib.concatStringsSep "" (builtins.genList (_: c) 64);

  nixos = fleet: resultNixOS { services.fleet = fleet; };
  darwin = fleet: resultDarwin { services.fleet = fleet; };
  resultNixOS = config: result system.nixos (modules + "/nixos.nix") config
    (c: { inherit (c.systemd) services; inherit (c.networking) firewall; activation = c.system.activationScripts; });
  resultDarwin = config: result system.darwin (modules + "/darwin.nix") config
    (c: { inherit (c.launchd) daemons; activation = c.system.activationScripts.extraActivation.text; });
  result = kind: module: config: pick:
    let c = (system.evaluate kind module config).config;
    in pick c // {
      packages = map (p: p.name) c.environment.systemPackages;
      failed = map (a: a.message) (lib.filter (a: !a.assertion) c.assertions);
    };

  everything = {
    enable = true;
    joinFile = "/run/secrets/join string";
    coordinators = [ "[fd00:f1ee::1]:7443" "cinnabar.example.org:7443" ];
    caPins = [ (digest "a") (digest "b") ];
    rootPin = digest "c";
    observe = true;
    witnessPort = 7444;
    meshInterface = "ztmesh0";
    ageIdentity = "/etc/age.key";
    pollInterval = "1m30s";
    deadManMargin = "90s";
    env = { GREETING = "it's 100% \"$HOME\""; };
    path = "/run/current-system/sw/bin:/bin";
    nixMaxJobs = 4;
    freshness = { keyFile = "/etc/fleet/freshness.key"; repository = "/srv/fleet"; interval = "30m"; };
    skipChecks = [ "app-management" ];
    logFormat = "json";
    logLevel = "debug";
    extraArguments = [ "--secrets-dir" "/var/lib/fleet/secrets" ];
  };

  # sops is what sops-nix declares, and has the activation do, as far as it matters.
  sops = {
    options.sops.secrets = lib.mkOption { type = lib.types.attrsOf lib.types.anything; default = { }; };
    config.sops.secrets.token = { };
  };
  sopsOnNixOS = {
    imports = [ sops ];
    system.activationScripts = { setupSecrets = { text = "install"; deps = [ ]; }; setupSecretsForUsers = { text = "install"; deps = [ ]; }; };
    systemd.services.sops-install-secrets = { description = "install"; };
  };

  describe = prefix: options:
    if (options._type or null) == "option" then {
      ${prefix} = { type = options.type.name or (throw "${prefix} has no type"); description = options.description or (throw "${prefix} has no description"); };
    } else builtins.foldl' (into: name: into // describe "${prefix}.${name}" options.${name}) { } (builtins.attrNames options);
  options = kind: module: describe "services.fleet" (system.evaluate kind module { }).options.services.fleet;

  outputs = (import (root + "/flake.nix")).outputs { self = outputs // { shortRev = "0123456"; }; nixpkgs = (import ./flake.nix).outputs { self = { }; }; };
  names = builtins.mapAttrs (_: set: builtins.mapAttrs (_: package: package.name) set);
  parts = (import (root + "/packaging/nix/flake-module.nix")).flake;
  # command that a module by itself would have the agent started with.
  started = kind: module: pick: pick (system.evaluate kind module { services.fleet.agent.enable = true; }).config;
  byNixOS = module: started system.nixos module (c: c.systemd.services.fleet-agent.serviceConfig.ExecStart);
  byDarwin = module: started system.darwin module (c: c.launchd.daemons.fleet-agent.command);
in
{
  good = {
    nixos-nothing = nixos { };
    nixos-agent = nixos { agent.enable = true; };
    nixos-agent-everything = nixos { agent = everything; };
    nixos-agent-owns-secrets = resultNixOS { imports = [ sopsOnNixOS ]; services.fleet.agent = { enable = true; runSecrets = "agent"; }; };
    nixos-closure-owns-secrets = resultNixOS { imports = [ sopsOnNixOS ]; services.fleet.agent = { enable = true; runSecrets = "closure"; }; };
    refused-two-owners-of-secrets = resultDarwin { imports = [ sops ]; services.fleet.agent = { enable = true; runSecrets = "agent"; }; };
    nixos-coordinator = nixos { coordinator.enable = true; };
    nixos-coordinator-everything = nixos {
      agent.enable = true;
      coordinator = {
        enable = true;
        kitFile = "/srv/kit"; kitKeyFile = "/srv/kit.key";
        address = "[fd00:f1ee::1]"; port = 8443; meshInterface = "ztmesh0";
        maxBlobBytes = 1048576; minFreeBytes = 4096;
        logFormat = "json";
        extraArguments = [ "--address-file" "/run/fleet-coordinator address" ];
      };
    };
    darwin-nothing = darwin { };
    darwin-agent = darwin { agent.enable = true; };
    darwin-agent-everything = darwin { agent = everything; };

    refused-secret-in-store = nixos {
      agent = { enable = true; joinFile = "${builtins.storeDir}/join"; };
      coordinator = { enable = true; kitKeyFile = "${builtins.storeDir}/key"; };
    };
    refused-half-freshness = darwin { agent = { enable = true; freshness.keyFile = "/key"; }; };
    refused-path-in-store = nixos { agent = { enable = true; path = "/bin:${builtins.storeDir}/git/bin"; }; };
    refused-env = nixos { agent = { enable = true; env."A=B" = "c"; }; };

    nixos-options = options system.nixos (modules + "/nixos.nix");
    darwin-options = options system.darwin (modules + "/darwin.nix");

    flake = {
      packages = names outputs.packages;
      checks = names outputs.checks;
      devShells = names outputs.devShells;
      nixosModules = builtins.mapAttrs (_: byNixOS) outputs.nixosModules;
      darwinModules = builtins.mapAttrs (_: byDarwin) outputs.darwinModules;
      flakeModules = builtins.mapAttrs (_: module: builtins.attrNames (import module).flake) outputs.flakeModules;
    };
    flake-parts = {
      nixosModules = builtins.mapAttrs (_: byNixOS) parts.nixosModules;
      darwinModules = builtins.mapAttrs (_: byDarwin) parts.darwinModules;
      modules.nixos = builtins.mapAttrs (_: byNixOS) parts.modules.nixos;
      modules.darwin = builtins.mapAttrs (_: byDarwin) parts.modules.darwin;
    };
    package = removeAttrs (system.pkgs.callPackage (modules + "/package.nix") { version = "1"; }).args [ "src" ];
  };

  # Each is an error that names the option.
  bad = {
    "services.fleet.agent.enable" = nixos { agent.enable = "yes"; };
    "services.fleet.agent.joinFile" = nixos { agent.enable = true; agent.joinFile = ./cases.nix; };
    "services.fleet.agent.coordinators" = nixos { agent.enable = true; agent.coordinators = [ "cinnabar" ]; };
    "services.fleet.agent.caPins" = nixos { agent.enable = true; agent.caPins = [ "sha256:abc" ]; };
    "services.fleet.agent.rootPin" = nixos { agent.enable = true; agent.rootPin = "c7d73ab1"; };
    "services.fleet.agent.pollInterval" = nixos { agent.enable = true; agent.pollInterval = "5 minutes"; };
    "services.fleet.agent.nixMaxJobs" = nixos { agent.enable = true; agent.nixMaxJobs = "many"; };
    "services.fleet.agent.logLevel" = nixos { agent.enable = true; agent.logLevel = "loud"; };
    "services.fleet.agent.nothing" = nixos { agent.nothing = 1; };
    "services.fleet.coordinator.port" = nixos { coordinator.enable = true; coordinator.port = 70000; };
    "services.fleet.coordinator.address" = nixos { coordinator.enable = true; coordinator.address = "::"; };
    "services.fleet.coordinator.meshInterface" = nixos { coordinator.enable = true; coordinator.meshInterface = "an/interface"; };
    "services.fleet.coordinator" = darwin { coordinator.enable = true; };
  };
}
