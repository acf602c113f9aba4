# What can be said of the agent and the coordinator, for NixOS and nix-darwin.
{ lib, pkgs }:
let
  inherit (lib) mkEnableOption mkOption types;

  digest = types.strMatching "sha256:[0-9a-f]{64}";
  host = "(\\[[0-9a-zA-Z:.%]+]|[0-9a-zA-Z._-]+)";
  hostPort = types.strMatching "${host}:[0-9]+";
  duration = types.strMatching "([0-9]+(ms|s|m|h))+";
  # A file of the host, by its name: a path without quotes would be copied into
  # the store, which everybody can read.
  file = types.strMatching "/.*";

  orNull = type: types.nullOr type;
  logFormat = mkOption {
    type = types.enum [ "text" "json" ];
    default = "text";
    description = "Format of the log.";
  };
in
{
  package = mkOption {
    type = types.package;
    default = pkgs.callPackage ./package.nix { };
    defaultText = "pkgs.callPackage ./package.nix { }";
    description = "Package with `bin/fleet-agent`, `bin/fleet-coordinator` and `bin/fleetctl`.";
  };

  agent = {
    enable = mkEnableOption "the fleet's agent on this host";
    joinFile = mkOption {
      type = file;
      default = "/etc/fleet/join";
      example = "/run/secrets/fleet-join";
      description = ''
        File with the join string that `fleetctl token MACHINE` prints. It is looked
        at until the host is enrolled, so it may appear later, and is no matter
        afterwards. It is a secret until it was used: of mode 0600, and never in
        the Nix store.
      '';
    };
    coordinators = mkOption {
      type = types.listOf hostPort;
      default = [ ];
      example = [ "[fd00:f1ee::1]:7443" ];
      description = "Addresses of the coordinator, `host:port`, instead of those of the join string.";
    };
    caPins = mkOption {
      type = types.listOf digest;
      default = [ ];
      description = ''
        Digests of the CAs that a join string may name, as `fleetctl trust show`
        prints them; a join string of another one is refused. Empty: the join
        string alone says which CA is trusted. Where the CA is replaced, the next
        one's digest is added here before hosts enrol with it.
      '';
    };
    rootPin = mkOption {
      type = orNull digest;
      default = null;
      description = ''
        Digest of the fleet's first trust root (the pin of `fleetctl trust show`),
        which a join string must name, else it is refused. It does not change
        with the versions that follow it. Null: the join string alone says it.
      '';
    };
    witnessPort = mkOption {
      type = orNull types.port;
      default = null;
      example = 7444;
      description = "Port at which this host answers others as a witness, where the fleet file says that it is one: the firewall of NixOS lets hosts reach it on `meshInterface`. Null: the firewall is left as it is.";
    };
    meshInterface = mkOption {
      type = orNull (types.strMatching "[^/[:space:]]{1,15}");
      default = null;
      example = "ztmesh0";
      description = "Interface of the mesh, on which `witnessPort` is opened. It is opened nowhere else.";
    };
    secretsIn = mkOption {
      type = orNull (types.enum [ "memory" "disk" ]);
      default = null;
      description = ''
        Where decrypted secrets are kept: in memory, which is never swapped and which a
        boot empties (they are made anew then, without a network; on NixOS those that users need
        before users are made), or on the disk. Null: in memory on NixOS, on the disk of
        a Mac.
      '';
    };
    runSecrets = mkOption {
      type = orNull (types.enum [ "closure" "agent" ]);
      default = null;
      description = ''
        Who installs `/run/secrets` and `/run/secrets-for-users`. With `agent` they are
        links to the agent's secrets, sops-nix's own installing is switched off on
        NixOS, and a system that installs there itself is refused. With `closure` it is
        sops-nix, as without an agent, and the agent makes
        `/var/lib/sops-nix/key.txt` of its own key where there is none. Null: the agent
        leaves both alone.
      '';
    };
    observe = mkOption {
      type = types.bool;
      default = false;
      description = "Activate nothing on this host, whatever the signed policy says.";
    };
    ageIdentity = mkOption {
      type = orNull file;
      default = null;
      example = "/var/lib/sops-nix/key.txt";
      description = "File with the machine's age identity, which secrets are encrypted to, or an SSH private key such as the host's. Null: one is made, and sent when enrolling.";
    };
    pollInterval = mkOption {
      type = duration;
      default = "5m";
      description = "How long to rely on the coordinator's hints before asking.";
    };
    deadManMargin = mkOption {
      type = duration;
      default = "1m";
      description = "How long after the deadlines of activation and verification the dead-man switch takes the host back, when no agent has said that it works.";
    };
    env = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = { HTTPS_PROXY = "http://proxy.example.org:3128"; };
      description = "Environment of activations and probes. Every user of the host can read it.";
    };
    path = mkOption {
      type = orNull types.str;
      default = null;
      example = "/run/wrappers/bin:/run/current-system/sw/bin";
      description = ''
        PATH for nix and for the programs of generations. Null: the wrappers, the
        system's profile and the usual directories. Directories of the Nix store
        don't belong here: the agent outlives the system that it was started by,
        and garbage collection does not see its arguments.
      '';
    };
    nixMaxJobs = mkOption {
      type = orNull (types.either types.ints.unsigned (types.enum [ "auto" ]));
      default = null;
      description = "How many derivations nix builds at a time. Null: what nix is configured to.";
    };
    freshness = {
      keyFile = mkOption {
        type = orNull file;
        default = null;
        description = ''
          File with the key of the freshness role, on a machine that is not the
          coordinator's: its agent states what is the newest, for all machines.
        '';
      };
      repository = mkOption {
        type = orNull file;
        default = null;
        description = "Checkout of the fleet's repository that this is read from.";
      };
      interval = mkOption {
        type = duration;
        default = "2h";
        description = "How often that is stated; each statement counts six times as long.";
      };
    };
    skipChecks = mkOption {
      type = types.listOf (types.enum [ "app-management" "full-disk-access" ]);
      default = [ ];
      description = ''
        Permissions of macOS that are not tried before an activation, on a Mac where
        trying them comes to a wrong answer: the activation then finds out.
      '';
    };
    inherit logFormat;
    logLevel = mkOption {
      type = types.enum [ "debug" "info" "warn" "error" ];
      default = "info";
      description = "Least level that is logged.";
    };
    extraArguments = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "More arguments of `fleet-agent run`.";
    };
  };

  coordinator = {
    enable = mkEnableOption "the fleet's coordinator on this host";
    kitFile = mkOption {
      type = file;
      default = "/etc/fleet/coordinator-kit.age";
      description = "The kit, `trust/coordinator-kit.age` of the fleet's repository.";
    };
    kitKeyFile = mkOption {
      type = file;
      default = "/etc/fleet/coordinator-kit.key";
      description = "File with the age identity that opens the kit: of mode 0600, and never in the Nix store.";
    };
    address = mkOption {
      type = types.strMatching host;
      default = "[::]";
      description = "Address to listen on; one of IPv6 is in brackets.";
    };
    port = mkOption {
      type = types.port;
      default = 7443;
      description = "Port to listen on.";
    };
    meshInterface = mkOption {
      type = orNull (types.strMatching "[^/[:space:]]{1,15}");
      default = null;
      example = "ztmesh0";
      description = "Interface of the mesh, on which the firewall lets hosts and operators reach the port. Null: the firewall is left as it is. It is opened nowhere else.";
    };
    maxBlobBytes = mkOption {
      type = orNull types.ints.positive;
      default = null;
      description = "Largest blob that is taken, in bytes. Null: 8 GiB.";
    };
    minFreeBytes = mkOption {
      type = orNull types.ints.positive;
      default = null;
      description = "What uploads leave free on the disk, in bytes. Null: 256 MiB.";
    };
    inherit logFormat;
    extraArguments = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "More arguments of `fleet-coordinator run`.";
    };
  };
}
