# Arguments of the programs that options.nix describes, without what only the
# caller knows: the program, and where the coordinator's credentials are.
{ lib }:
let
  inherit (lib) concatMap mapAttrsToList optionals;
  # given is nothing where an option is null.
  given = flag: value: optionals (value != null) [ flag (toString value) ];
  # changed leaves out what the program does anyway.
  changed = flag: default: value: optionals (value != default) [ flag value ];
in
{
  agent = cfg:
    [ "--join-file" cfg.joinFile ]
    ++ concatMap (address: [ "--coordinator" address ]) cfg.coordinators
    ++ concatMap (pin: [ "--ca-pin" pin ]) cfg.caPins
    ++ given "--root-pin" cfg.rootPin
    ++ optionals cfg.observe [ "--observe" ]
    ++ given "--age-identity" cfg.ageIdentity
    ++ given "--secrets-in" cfg.secretsIn
    ++ given "--run-secrets" cfg.runSecrets
    ++ changed "--poll-interval" "5m" cfg.pollInterval
    ++ changed "--dead-man-margin" "1m" cfg.deadManMargin
    ++ lib.concatLists (mapAttrsToList (name: value: [ "--env" "${name}=${value}" ]) cfg.env)
    ++ given "--path" cfg.path
    ++ given "--nix-max-jobs" cfg.nixMaxJobs
    ++ given "--freshness-key" cfg.freshness.keyFile
    ++ given "--freshness-repository" cfg.freshness.repository
    ++ changed "--freshness-interval" "2h" cfg.freshness.interval
    ++ concatMap (name: [ "--skip-check" name ]) cfg.skipChecks
    ++ changed "--log-format" "text" cfg.logFormat
    ++ changed "--log-level" "info" cfg.logLevel
    ++ cfg.extraArguments;

  # secrets are those of what makes an agent's secrets anew after a boot.
  secrets = cfg: given "--age-identity" cfg.ageIdentity ++ given "--secrets-in" cfg.secretsIn ++ given "--run-secrets" cfg.runSecrets;

  coordinator = cfg:
    [ "--listen" "${cfg.address}:${toString cfg.port}" ]
    ++ given "--max-blob-bytes" cfg.maxBlobBytes
    ++ given "--min-free-bytes" cfg.minFreeBytes
    ++ changed "--log-format" "text" cfg.logFormat
    ++ cfg.extraArguments;

  # assertions about an agent's options, for NixOS and nix-darwin.
  assertions = cfg:
    map (file: {
      assertion = !(lib.hasPrefix builtins.storeDir file);
      message = "services.fleet: ${file} is a secret, and everybody can read the Nix store: name a file of the host";
    }) (lib.filter (file: file != null) [ cfg.joinFile cfg.ageIdentity cfg.freshness.keyFile ])
    ++ [
      {
        assertion = (cfg.freshness.keyFile == null) == (cfg.freshness.repository == null);
        message = "services.fleet.agent.freshness: keyFile and repository go together";
      }
      {
        assertion = cfg.path == null || !(lib.hasInfix builtins.storeDir cfg.path);
        message = "services.fleet.agent.path: a directory of the Nix store may be collected while the agent runs: use /run/current-system/sw/bin";
      }
      {
        assertion = lib.all (name: builtins.match "[^=]+" name != null) (builtins.attrNames cfg.env);
        message = "services.fleet.agent.env: a name is neither empty nor has it a =";
      }
    ];
}
