# What the coordinator's unit may do, and for how long: nothing that it need not.
{
  Type = "notify";
  NotifyAccess = "main";
  # Without word of progress for so long it is ended, and started again.
  WatchdogSec = "5min";
  # All of the store is checked at the start.
  TimeoutStartSec = "15min";
  TimeoutStopSec = "1min";
  SyslogIdentifier = "fleet-coordinator";
  DynamicUser = true;
  StateDirectory = "fleet-coordinator";
  StateDirectoryMode = "0700";
  Restart = "always";
  RestartSec = 2;
  # One descriptor for each connected agent.
  LimitNOFILE = 262144;
  AmbientCapabilities = "";
  CapabilityBoundingSet = "";
  PrivateUsers = true;
  DevicePolicy = "closed";
  KeyringMode = "private";
  LockPersonality = true;
  MemoryDenyWriteExecute = true;
  NoNewPrivileges = true;
  PrivateDevices = true;
  PrivateIPC = true;
  PrivateTmp = true;
  ProcSubset = "pid";
  ProtectClock = true;
  ProtectControlGroups = true;
  ProtectHome = true;
  ProtectHostname = true;
  ProtectKernelLogs = true;
  ProtectKernelModules = true;
  ProtectKernelTunables = true;
  ProtectProc = "invisible";
  ProtectSystem = "strict";
  RemoveIPC = true;
  # AF_UNIX is the socket that backups are asked for on, and systemd's own.
  RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_UNIX" ];
  RestrictNamespaces = true;
  RestrictRealtime = true;
  RestrictSUIDSGID = true;
  SystemCallArchitectures = "native";
  SystemCallFilter = [ "@system-service" "~@privileged @resources" ];
  SystemCallErrorNumber = "EPERM";
  UMask = "0077";
}
