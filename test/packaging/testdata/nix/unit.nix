# The text of the unit that NixOS would make of one of the module's services, as
# far as it matters to systemd. json is services.fleet; the programs are where the
# hosts of make lab have them.
{ root, name, json, lib ? import ./lib.nix }:
let
  system = import ./system.nix { inherit lib; };
  fleet = builtins.fromJSON json // { package = { type = "derivation"; name = "fleet"; outPath = "/usr/local"; }; };
  made = (system.evaluate system.nixos (root + "/packaging/nix/nixos.nix") { services.fleet = fleet; }).config;
  failed = builtins.filter (a: !a.assertion) made.assertions;
  service = made.systemd.services.${name};

  text = value: if builtins.isBool value then (if value then "true" else "false") else toString value;
  lines = settings: builtins.concatLists (lib.mapAttrsToList
    (key: value: map (v: "${key}=${text v}\n") (if builtins.isList value then value else [ value ])) settings);
in
if failed != [ ] then throw (builtins.head failed).message
else builtins.concatStringsSep "" (
  [ "[Unit]\n" "Description=${service.description}\n" ]
  ++ map (unit: "After=${unit}\n") service.after ++ lines service.unitConfig
  ++ [ "[Service]\n" ] ++ lines service.serviceConfig
  ++ [ "[Install]\n" ] ++ map (unit: "WantedBy=${unit}\n") service.wantedBy
)
