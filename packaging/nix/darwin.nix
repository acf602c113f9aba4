# nix-darwin module: services.fleet.agent. A coordinator is for a host that is
# always on: packaging/nix/nixos.nix has it.
{ config, lib, options, pkgs, ... }:
let
  cfg = config.services.fleet;
  arguments = import ./arguments.nix { inherit lib; };

  # macOS grants App Management and Full Disk Access to a path, and launchd ends a
  # job whose plist changed: so the program is at one path, whatever its version.
  directory = "/usr/local/libexec/fleet";
  program = "${directory}/fleet-agent";
  log = "/var/log/fleet-agent.log";
  # Where the agent's dead-man switches are at home, with the copy of its program.
  switches = "/var/lib/fleet/agent/dead-man";
in
{
  options.services.fleet = {
    inherit (import ./options.nix { inherit lib pkgs; }) package agent;
  };

  config = lib.mkIf cfg.agent.enable {
    assertions = arguments.assertions cfg.agent ++ [
      {
        assertion = cfg.agent.runSecrets != "agent" || !(options ? sops) || config.sops.secrets == { };
        message = "services.fleet.agent.runSecrets: sops-nix would install at /run/secrets too: leave sops.secrets empty, or let the closure install them";
      }
    ];
    environment.systemPackages = [ cfg.package ];

    # Before launchd's jobs are loaded. The old file stays what a running agent
    # runs from: it is replaced by a rename, never written to.
    system.activationScripts.extraActivation.text = ''
      mkdir -p -m 0755 ${directory}
      if ! cmp -s ${cfg.package}/bin/fleet-agent ${program}; then
        install -m 0755 -o root -g wheel ${cfg.package}/bin/fleet-agent ${program}.new
        mv -f ${program}.new ${program}
      fi
    '';

    launchd.daemons.fleet-agent = {
      # nix-darwin has it wait for the Nix store.
      command = lib.escapeShellArgs ([ program "run" ] ++ arguments.agent cfg.agent);
      serviceConfig = {
        RunAtLoad = true;
        KeepAlive = true;
        ThrottleInterval = 5;
        # An activation outlives an agent that ends in the middle of it.
        AbandonProcessGroup = true;
        # launchd has no watchdog: the agent ends itself where it makes no progress
        # for so long, in microseconds.
        EnvironmentVariables.WATCHDOG_USEC = "120000000";
        StandardOutPath = log;
        StandardErrorPath = log;
      };
    };

    # After a boot in the midst of an activation, also where no agent runs any more;
    # the program is the copy that the agent kept before. Loading it at another time
    # does no harm: each switch has one process, and this one ends where there is one.
    launchd.daemons.fleet-dead-man = {
      command = "/bin/sh -c ${lib.escapeShellArg ''if [ -x "$0" ]; then exec "$0" dead-man-switches "$1"; fi''} ${switches}/fleet-dead-man ${switches}";
      serviceConfig = {
        RunAtLoad = true;
        KeepAlive.SuccessfulExit = false;
        ThrottleInterval = 10;
        # A way back that began goes on.
        AbandonProcessGroup = true;
        StandardOutPath = "/var/log/fleet-dead-man.log";
        StandardErrorPath = "/var/log/fleet-dead-man.log";
      };
    };
  };
}
