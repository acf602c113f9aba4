# NixOS module: services.fleet.agent and services.fleet.coordinator. What it has
# in common with packaging/systemd is compared with it by test/packaging.
{ config, lib, options, pkgs, ... }:
let
  inherit (lib) mkForce mkIf mkMerge;
  cfg = config.services.fleet;
  arguments = import ./arguments.nix { inherit lib; };

  # Quoted only where systemd would take it for something else: as with
  # utils.escapeSystemdExecArg, % and $ stand for themselves.
  quote = argument:
    if builtins.match "([A-Za-z0-9_./:=@,+-]|\\[|])+" argument != null then argument
    else builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON argument);
  # Where the agent is at home, and what its dead-man switches have there.
  state = "/var/lib/fleet/agent";
  switches = "${state}/dead-man";

  # A unit of the agent's program: what there is about it that changes the host.
  ofAgent = { description, unitConfig ? { }, serviceConfig }: {
    inherit description;
    documentation = [ "https://github.com/cameronraysmith/fleet" ];
    wantedBy = [ "multi-user.target" ];
    after = [ "network.target" ];
    # A switch is what the agent does: it must not end the agent, also one from which
    # the unit is gone.
    restartIfChanged = false;
    stopIfChanged = false;
    unitConfig = {
      StartLimitIntervalSec = 0;
      X-StopOnRemoval = false;
      RequiresMountsFor = state;
    } // unitConfig;
    serviceConfig = {
      # An activation outlives a process that ends in the middle of it, and so do the
      # services that it started.
      KillMode = "process";
      RestartSec = 5;
      # It must never be what the host lacks memory for.
      OOMScoreAdjust = -500;
      OOMPolicy = "continue";
      KeyringMode = "private";
      CapabilityBoundingSet = "~CAP_WAKE_ALARM CAP_SYS_PACCT CAP_BLOCK_SUSPEND";
    } // serviceConfig;
  };
  restoreSecrets = lib.concatStringsSep " " ([ "${cfg.package}/bin/fleet-agent" "restore-secrets" ] ++ map quote (arguments.secrets cfg.agent));
  command = program: args: lib.concatStringsSep " " ([ "${cfg.package}/bin/${program}" "run" ] ++ map quote args);
in
{
  options.services.fleet = import ./options.nix { inherit lib pkgs; };

  config = mkMerge [
    (mkIf cfg.agent.enable {
      assertions = arguments.assertions cfg.agent;
      # Nix runs git for flakes that are in git; the operator's own comes first.
      environment.systemPackages = [ cfg.package (lib.lowPrio pkgs.gitMinimal) ];
      networking.firewall.interfaces = mkIf (cfg.agent.witnessPort != null && cfg.agent.meshInterface != null) {
        ${cfg.agent.meshInterface}.allowedTCPPorts = [ cfg.agent.witnessPort ];
      };

      systemd.services.fleet-agent = ofAgent {
        description = "fleet agent";
        serviceConfig = {
          Type = "notify";
          NotifyAccess = "main";
          # Without word of progress for so long it is ended, and started again.
          WatchdogSec = "2min";
          ExecStart = command "fleet-agent" (arguments.agent cfg.agent);
          # Below it agent, bundles and secrets; services of other users look into
          # the latter two.
          StateDirectory = "fleet";
          StateDirectoryMode = "0755";
          RuntimeDirectory = "fleet-agent";
          RuntimeDirectoryMode = "0700";
          RuntimeDirectoryPreserve = "restart";
          Restart = "always";
          TimeoutStartSec = "5min";
          TimeoutStopSec = 30;
          TimeoutAbortSec = 10;
          SyslogIdentifier = "fleet-agent";
        };
      };

      # After a boot in the midst of an activation, also where no agent runs any more;
      # the program is the copy that the agent kept before.
      systemd.services.fleet-dead-man = ofAgent {
        description = "fleet dead-man switches from before the boot";
        unitConfig = {
          ConditionPathExistsGlob = "${switches}/*/order.json";
          ConditionFileIsExecutable = "${switches}/fleet-dead-man";
        };
        serviceConfig = {
          Type = "exec";
          ExecStart = "${switches}/fleet-dead-man dead-man-switches ${switches}";
          Restart = "on-failure";
          SyslogIdentifier = "fleet-dead-man";
        };
      };
    })

    # Secrets in memory are made anew after a boot, from ciphertext on the host: before
    # services start, and those that are needed for users before users are made. A switch
    # that the agent makes has them in place already.
    (mkIf cfg.agent.enable {
      systemd.services.fleet-secrets = {
        description = "fleet secrets of what this host runs";
        documentation = [ "https://github.com/cameronraysmith/fleet" ];
        wantedBy = [ "sysinit.target" ];
        after = [ "local-fs.target" "systemd-sysusers.service" ];
        before = [ "sysinit.target" "shutdown.target" ];
        conflicts = [ "shutdown.target" ];
        restartIfChanged = false;
        stopIfChanged = false;
        unitConfig = {
          DefaultDependencies = false;
          RequiresMountsFor = state;
          ConditionPathExists = "${state}/journal";
          X-StopOnRemoval = false;
        };
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = restoreSecrets;
          TimeoutStartSec = "2min";
          SyslogIdentifier = "fleet-secrets";
          KeyringMode = "private";
        };
      };
      system.activationScripts.fleetSecretsForUsers = {
        deps = [ "specialfs" ];
        text = ''
          if [ -e ${state}/journal ]; then
            ${restoreSecrets} --early || echo "fleet: secrets that users need are not all in place" >&2
          fi
        '';
      };
      system.activationScripts.users.deps = [ "fleetSecretsForUsers" ];
    })

    # Only one may install at /run/secrets. sops-nix does by scripts of the activation, or
    # by units, and has no option that it does not.
    (mkIf (cfg.agent.enable && cfg.agent.runSecrets == "agent" && options ? sops) {
      system.activationScripts.setupSecrets = mkForce { text = ""; deps = [ ]; };
      system.activationScripts.setupSecretsForUsers = mkForce { text = ""; deps = [ ]; };
      systemd.services.sops-install-secrets.enable = mkForce false;
      systemd.services.sops-install-secrets-for-users.enable = mkForce false;
    })

    (mkIf cfg.coordinator.enable {
      assertions = [
        {
          assertion = !(lib.hasPrefix builtins.storeDir cfg.coordinator.kitKeyFile);
          message = "services.fleet: ${cfg.coordinator.kitKeyFile} is a secret, and everybody can read the Nix store: name a file of the host";
        }
      ];
      environment.systemPackages = [ cfg.package ];
      networking.firewall.interfaces = mkIf (cfg.coordinator.meshInterface != null) {
        ${cfg.coordinator.meshInterface}.allowedTCPPorts = [ cfg.coordinator.port ];
      };

      systemd.services.fleet-coordinator = {
        description = "fleet coordinator";
        documentation = [ "https://github.com/cameronraysmith/fleet" ];
        wantedBy = [ "multi-user.target" ];
        after = [ "network.target" ];
        unitConfig = {
          StartLimitIntervalSec = 0;
          X-StopOnRemoval = false;
        };
        serviceConfig = {
          # The kit is read through systemd's credentials, so that only root can
          # read the files themselves.
          ExecStart = command "fleet-coordinator" [ ]
            + " --kit \${CREDENTIALS_DIRECTORY}/kit --kit-key \${CREDENTIALS_DIRECTORY}/kit-key "
            + lib.concatMapStringsSep " " quote (arguments.coordinator cfg.coordinator ++ [ "--state-dir" "/var/lib/fleet-coordinator" ]);
          LoadCredential = [ "kit:${cfg.coordinator.kitFile}" "kit-key:${cfg.coordinator.kitKeyFile}" ];
        } // import ./hardening.nix;
      };
    })
  ];
}
