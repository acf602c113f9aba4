# Systems as an agent sees them, without nixpkgs: real derivations, whose
# toplevel has what one of NixOS has. Machines are directories below machines/.
{
  outputs =
    { self }:
    let
      system = import ./system.nix;
      build =
        name: attrs:
        derivation (
          {
            inherit name system;
            builder = "/bin/sh";
            args = [
              "-eu"
              ./build.sh
            ];
            PATH = "/usr/bin:/bin";
          }
          // attrs
        );
      # What a builder of another host may make otherwise, read while evaluating.
      variant =
        if builtins.pathExists ./variant then
          builtins.readFile "${
            build "variant" {
              kind = "variant";
              files = ./variant;
            }
          }/name"
        else
          "";
      toplevel =
        machine:
        build "nixos-system-${machine}${variant}" {
          kind = "toplevel";
          # A path of its own, so that a closure has more than one.
          etc = build "etc-${machine}" {
            kind = "etc";
            files = ./machines + "/${machine}/etc";
          };
          settings = ./machines + "/${machine}/settings";
          switch = ./switch-to-configuration;
        };
    in
    {
      # As clan has.
      clanInternals.inventoryClass.inventorySerialization = {
        machines = {
          ops = {
            name = "ops";
            machineClass = "nixos";
            tags = [ "all" ];
          };
          web1 = {
            name = "web1";
            machineClass = "nixos";
            tags = [
              "all"
              "web"
            ];
          };
        };
        instances = { };
      };
      # As system-manager has: an out path with an activate of its own.
      packages.${system}.tool = build "lab-tool" {
        kind = "tool";
        files = ./tool;
      };
      # As home-manager has, for each user and kind of machine.
      homeConfigurations =
        if builtins.pathExists ./homes then
          builtins.mapAttrs (name: _: {
            activationPackage = build "home-manager-generation" {
              kind = "home";
              files = build "home-manager-files" {
                kind = "files";
                files = ./homes + "/${name}/files";
              };
              settings = ./homes + "/${name}/settings";
              script = ./home-activate;
            };
          }) (builtins.readDir ./homes)
        else
          { };
      nixosConfigurations = builtins.mapAttrs (machine: _: {
        config.system.build.toplevel = toplevel machine;
      }) (builtins.readDir ./machines);
    };
}
